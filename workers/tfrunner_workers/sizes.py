"""Batch sizes: which of them a worker may run, and how a batch is filled up to one of them.

For most models any size runs as fast the first time as later. Where a new size is costly (XLA
compiles it, cuDNN tunes for it), only the warmed sizes are run: a batch of another size gets
copies of its last row, and the answers to those are thrown away.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from tfrunner.specs import MethodSpec, leaves
from tfrunner.tensors import Array, check_rows, rows_of
from tfrunner_workers import samples
from tfrunner_workers.hosted import Method, Output, describe

logger = logging.getLogger("tfrunner.worker")

COSTLY_RATIO = 8.0
COSTLY_SECONDS = 0.02
"""A first run so many times as long as the second, and so much longer, is no noise."""

UNWARMED = (3, 5, 7)
"""Sizes that warm-up has not run: what a new size costs is seen on them."""

RETRIES = 2
"""Sizes that must be costly before all others are believed to be."""


def is_costly(
    method: MethodSpec, run: Method, rows: Sequence[int], example: list[Array] | None
) -> bool:
    """Return whether a size that has not run yet costs much more than one that has.

    Args:
        method: A batchable method.
        run: What executes it.
        rows: Sizes that have not been run.
        example: Stored inputs of the method.
    """
    found = 0
    for size in rows:
        arrays = samples.made_up(method, size, example)
        try:
            first, second = _seconds(run, arrays), _seconds(run, arrays)
        except Exception as exc:
            logger.warning("%s: %d made-up rows fail: %s", method.name, size, describe(exc))
            return False
        if first < COSTLY_RATIO * second or first - second < COSTLY_SECONDS:
            return False
        found += 1
        if found == RETRIES:
            break
    return found > 0


def _seconds(run: Method, arrays: list[Array]) -> float:
    started = time.perf_counter()
    run(arrays)
    return time.perf_counter() - started


class AllowedSizes:
    """A method that is only ever run with certain numbers of rows.

    Args:
        method: Its specification.
        run: What executes it.
        sizes: The sizes, ascending; a batch above the last one is run as it is.
    """

    def __init__(self, method: MethodSpec, run: Method, sizes: Sequence[int]) -> None:
        self._method = method
        self._run = run
        self._sizes = tuple(sizes)

    def __call__(self, arrays: list[Array]) -> Output:
        """Return the outputs of these rows; others are run with them.

        Raises:
            ModelError: An output has another number of rows than were run.
        """
        rows = samples.count_rows(self._method, arrays)
        at = bisect_left(self._sizes, rows)
        if rows == 0 or at == len(self._sizes) or self._sizes[at] == rows:
            return self._run(arrays)
        size = self._sizes[at]
        output = self._run(self._filled(arrays, rows, size))
        return Output(self._cut(output, rows, size), output.structure)

    def _filled(self, arrays: list[Array], rows: int, size: int) -> list[Array]:
        """Return the inputs with the last row repeated: a row that the model is known to take."""
        filled = []
        for leaf, array in zip(self._method.inputs, arrays, strict=True):
            axis = samples.row_axis(self._method, leaf)
            if axis is not None:
                last = rows_of(array, axis, rows - 1, rows)
                array = np.concatenate([array, *[last] * (size - rows)], axis=axis)
            filled.append(array)
        return filled

    def _cut(self, output: Output, rows: int, size: int) -> list[Array]:
        axis = self._method.batch_dim[1]
        kept = []
        for array, leaf in zip(output.arrays, leaves(output.structure), strict=True):
            check_rows(array, axis, size, output=leaf.name)
            kept.append(rows_of(array, axis, 0, rows))
        return kept

    def __repr__(self) -> str:
        return f"<AllowedSizes {self._method.name} {list(self._sizes)}>"
