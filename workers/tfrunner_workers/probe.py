"""The batch-safety probe: may rows of different requests be run together?

A row alone must give what it gives among *different* rows, at two sizes and two positions.
(Among copies of itself `x - mean(x, 0)` would pass.) A finding switches batching off for the
method; an input that the method cannot take says nothing about batching.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfrunner.errors import ModelError
from tfrunner.specs import MethodSpec, leaves
from tfrunner.tensors import BFLOAT16, Array, check_rows, rows_of
from tfrunner_workers import samples
from tfrunner_workers.hosted import Method, Output, describe

TOLERANCE = {"float16": 2e-2, "float32": 2e-3, "float64": 1e-6, "complex64": 2e-3}
"""Relative to the largest number of the row's output. Batches of another size may run other
kernels, and TF32 keeps ten bits; what rows do to each other is far larger."""


class Finding(NamedTuple):
    """What the probe found.

    Args:
        is_safe: Whether rows of different requests may be run together.
        note: Why not, or why it could not be found out; "" when all is well.
    """

    is_safe: bool
    note: str = ""


def probe(
    method: MethodSpec, run: Method, *, limit: int, example: list[Array] | None = None
) -> Finding:
    """Return whether a method treats each row on its own.

    Args:
        method: A batchable method.
        run: What executes it.
        limit: Most rows in one batch.
        example: Stored inputs of the method; rows like these are used.
    """
    if limit < 2:
        return Finding(True)
    try:
        rows = _rows(method, limit, example)
        positions = sorted({0, 1, limit - 1})
        alone = {at: run(samples.take(method, rows, at, at + 1)) for at in positions}
    except Exception as exc:
        return Finding(True, f"not probed: made-up rows alone fail: {describe(exc)}")
    for size in sorted({2, limit}):
        try:
            together = run(samples.take(method, rows, 0, size))
        except Exception as exc:
            return _failed_together(size, exc)
        difference = _compare(method, alone, together, size)
        if difference:
            return Finding(False, difference)
    return Finding(True)


def _rows(method: MethodSpec, limit: int, example: list[Array] | None) -> list[Array]:
    if example is None:
        return samples.different(method, limit)
    return samples.varied(method, example, limit)


def _failed_together(size: int, exc: Exception) -> Finding:
    """Judge a batch that raised: both rows of the smallest one had succeeded alone."""
    if size == 2:
        return Finding(False, f"two rows that succeed alone fail together: {describe(exc)}")
    return Finding(True, f"not probed: {size} made-up rows fail: {describe(exc)}")


def _compare(method: MethodSpec, alone: dict[int, Output], together: Output, size: int) -> str:
    """Return how the rows of a batch differ from the same rows alone, "" if they do not."""
    axis = method.batch_dim[1]
    if any(output.structure != together.structure for output in alone.values()):
        return f"{size} rows give another structure of outputs than one row"
    names = [spec.name or str(i) for i, spec in enumerate(leaves(together.structure))]
    for index, (name, batch) in enumerate(zip(names, together.arrays, strict=True)):
        try:
            check_rows(batch, axis, size, output=name)
        except ModelError as exc:
            return exc.message
        for at in (0, size - 1):
            row, expected = rows_of(batch, axis, at, at + 1), alone[at].arrays[index]
            if not is_close(row, expected):
                return (
                    f"output {name!r} of a row depends on the rows beside it (or on chance): row "
                    f"{at} of {size} differs from the same row alone"
                )
    return ""


def is_close(got: Array, expected: Array) -> bool:
    """Return whether two outputs are equal within the tolerance of their dtype.

    Integers, bools and strings must be equal; NaN equals NaN.
    """
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if got.dtype.hasobject and any(isinstance(item, np.ndarray) for item in got.flat):  # ragged
        pairs = zip(got.flat, expected.flat, strict=True)
        return all(is_close(np.asarray(row), np.asarray(other)) for row, other in pairs)
    if got.dtype == BFLOAT16:
        got, expected = got.astype(np.float32), expected.astype(np.float32)
        return bool(np.allclose(got, expected, rtol=2e-2, atol=1e-2, equal_nan=True))
    if got.dtype.kind not in "fc":
        return bool(np.array_equal(got, expected))
    relative = TOLERANCE.get(got.dtype.name, 1e-6)
    finite = np.abs(expected[np.isfinite(expected)])
    absolute = relative * float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(got, expected, rtol=relative, atol=absolute, equal_nan=True))
