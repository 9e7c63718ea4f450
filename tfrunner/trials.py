"""Tries a loaded model before it is stored: does it run, and may its inputs be filled up?

Works on methods as functions of arrays; imports TensorFlow by way of the worker's modules.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from tfrunner import casting, padding
from tfrunner.errors import InvalidInput, TFRunnerError
from tfrunner.specs import MethodSpec, leaves
from tfrunner.tensors import DTYPES, Array, check_rows
from tfrunner_workers import probe, samples

log = logging.getLogger(__name__)

TRIAL_BYTES = 16 * 2**20
"""Largest made-up input that a saved model is tried with."""

TRIAL_ROWS = 2

TRIAL_LENGTH = 3
"""Length of a made-up input that is filled up."""


def try_method(method: MethodSpec, run: Any, inputs: list[Array] | None) -> None:
    """Run a loaded method once, on its example inputs or else on zeros.

    A failure with made-up zeros says little about the model, and is only reported.

    Raises:
        InvalidInput: It fails on its example.
    """
    arrays = inputs if inputs is not None else _zeros(method)
    if arrays is None:
        return
    try:
        output = run(arrays)
        if method.batchable:
            rows = casting.count_rows(method, arrays)
            for array, leaf in zip(output.arrays, leaves(output.structure), strict=True):
                check_rows(array, method.batch_dim[1], rows, output=leaf.name)
    except Exception as exc:
        reason = str(exc) if isinstance(exc, TFRunnerError) else f"{type(exc).__name__}: {exc}"
        if inputs is not None:
            raise InvalidInput(
                f"the loaded model fails on the example of {method.name!r}: {reason}"
            ) from exc
        log.warning("%s fails on zeros (pass example= to try real inputs): %s", method.name, reason)


def try_padding(method: MethodSpec, run: Any, inputs: list[Array] | None) -> None:
    """Warn where a row gives something else once its inputs are filled up.

    A row that cannot be made up, or on which the model fails, says nothing.
    """
    if not method.padding:
        return
    try:
        row = _short_row(method) if inputs is None else samples.take(method, inputs, 0, 1)
        filled, cuts = padding.pad(method, row)
        alone, output = run(row), run(filled)
        kept = padding.cut_back(output.structure, output.arrays, cuts)
    except Exception as exc:
        log.info("the padding of %s could not be tried: %s", method.name, exc)
        return
    names = [leaf.name for leaf in leaves(output.structure)]
    for name, got, expected in zip(names, kept, alone.arrays, strict=True):
        if got.shape != expected.shape:
            log.warning(
                "padding changes the shape of output %r of %s from %s to %s: say with "
                '"cut": {%r: {"axis": ..., "like": ...}} how it is cut back.',
                *(name, method.name, list(expected.shape), list(got.shape), name),
            )
        elif not probe.is_close(got, expected):
            log.warning(
                "padding changes output %r of %s: a row gives something else once its inputs are "
                "filled up. Answers will depend on the bucket; mask what is filled up in the "
                "model, or choose another value.",
                *(name, method.name),
            )


def _short_row(method: MethodSpec) -> list[Array]:
    """Return a made-up row whose inputs are a little longer than one; no number in it is zero."""
    axes = {each.input: each.axis for each in method.padding}
    row = []
    for spec, array in zip(method.inputs, samples.different(method, 1), strict=True):
        if spec.name in axes:
            array = np.concatenate([array] * TRIAL_LENGTH, axis=axes[spec.name])
            if array.dtype.kind in "iu":
                array = array + array.dtype.type(1)
        row.append(array)
    return row


def _zeros(method: MethodSpec) -> list[Array] | None:
    """Return made-up inputs, None where a rank is unknown or they would be large."""
    rows = TRIAL_ROWS if method.batchable else 1
    for spec in method.inputs:
        if spec.shape is None:
            return None
        sizes = [size or 1 for size in spec.shape]
        if math.prod(sizes) * rows * DTYPES[spec.dtype].itemsize > TRIAL_BYTES:
            return None
    return samples.zeros(method, rows)
