"""A method compiled by XLA, for a few numbers of rows. Imports TensorFlow.

XLA compiles anew for every size, for seconds: so rows are filled up to the next of the sizes
that a worker warms, by repeating the last row, and the outputs are cut back.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
import tensorflow as tf

from tfrunner.specs import MethodSpec, leaves
from tfrunner.tensors import STRING, Array, rows_of
from tfrunner_workers import samples, signatures
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.warmup import sizes


def compile_method(
    function: Any, method: MethodSpec, *, order: list[int], limit: int, reference: Method
) -> Method:
    """Return a method that XLA compiles for each of the sizes that it may get.

    Args:
        function: The restored function.
        method: Its specification; all sizes but the number of rows are fixed.
        order: Which output of the function each leaf of the method's output is.
        limit: Most rows in one batch.
        reference: What runs batches that are empty, or larger.

    Raises:
        ValueError: The method's inputs are not of fixed sizes, or hold text.
    """
    axes = _row_axes(method)
    allowed = sorted(sizes(limit))
    output = method.output
    assert output is not None  # find_ways sees to it
    flat = _flat_function(function)

    def execute(arrays: list[Array]) -> Output:
        rows = _rows(arrays, axes)
        size = _next(allowed, rows) if method.batchable else rows
        if rows == 0 or size is None:
            return reference(arrays)
        values = flat(*map(tf.constant, _filled(arrays, axes, size)))
        found = [np.asarray(values[index].numpy()) for index in order]
        if size != rows:
            found = [rows_of(array, method.batch_dim[1], 0, rows) for array in found]
        return Output(found, output)

    return execute


def _flat_function(function: Any) -> Any:
    """Return a compiled function of flat tensors, in the order of the signature's."""
    signature = signatures.similar_traces(function)[0].structured_input_signature
    parts = tf.nest.flatten(signature)

    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator, unused-ignore]
    def flat(*tensors: Any) -> Any:
        take = iter(tensors)
        filled = [next(take) if isinstance(part, tf.TensorSpec) else part for part in parts]
        args, kwargs = tf.nest.pack_sequence_as(signature, filled)
        return [value for value in tf.nest.flatten(function(*args, **kwargs)) if value is not None]

    return flat


def _row_axes(method: MethodSpec) -> list[int | None]:
    """Return the axis of each input that counts rows, None for those that do not."""
    axes = []
    for leaf in (leaf for argument in method.arguments for leaf in leaves(argument.spec)):
        axis = samples.row_axis(method, leaf)
        if leaf.dtype == STRING or leaf.ragged_rank:
            raise ValueError(f"XLA does not take text or ragged tensors, as input {leaf.name!r} is")
        fixed = [None] if leaf.shape is None else list(leaf.shape)
        if axis is not None and leaf.shape is not None:
            del fixed[axis]
        if None in fixed:
            raise ValueError(f"sizes of input {leaf.name!r} are open, XLA would compile for each")
        axes.append(axis)
    return axes


def _rows(arrays: list[Array], axes: list[int | None]) -> int:
    """Return how many rows a batch has; 1 where nothing counts rows."""
    pairs = zip(arrays, axes, strict=True)
    return next((array.shape[axis] for array, axis in pairs if axis is not None), 1)


def _next(allowed: list[int], rows: int) -> int | None:
    at = bisect_left(allowed, rows)
    return allowed[at] if at < len(allowed) else None


def _filled(arrays: list[Array], axes: list[int | None], size: int) -> list[Array]:
    """Return the arrays with their last row repeated up to `size` rows."""
    return [
        array
        if axis is None or array.shape[axis] == size
        else np.take(array, np.minimum(np.arange(size), array.shape[axis] - 1), axis=axis)
        for array, axis in zip(arrays, axes, strict=True)
    ]
