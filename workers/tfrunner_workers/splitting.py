"""Batches split between threads: each runs its rows from the first operation to the last.

TensorFlow shares every operation out, and its threads wait for each other after each one: they
spin meanwhile, and all wait where another process keeps one of them from its core. Rows do not
need each other, so the threads of a split batch wait for nobody: who has run its part goes on
with a part of the next batch, if there is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

import numpy as np

from tfrunner.specs import MethodSpec, NothingSpec, leaves
from tfrunner.tensors import Array, check_rows, rows_of
from tfrunner_workers import samples
from tfrunner_workers.hosted import Method, Output

THREADS = 2
"""Batches are split in workers of so many threads: only there it was measured. With more, a batch
of fewer rows leaves threads idle, and a batch's cost tells the dispatcher too little of that."""

Then = Callable[[], None]

NOTHING = Output([], NothingSpec())
"""What a part has given that has not run yet."""


class Running:
    """A batch on its way through the threads.

    Args:
        parts: How many parts it has.
        join: Makes one output of theirs.
        then: Called when the last part has ended, in its thread.

    Attributes:
        started: When, on the clock of `time.perf_counter`.
        ended: When the last part had run; 0 while one has not.
        busy: Seconds that threads ran its parts, all together.
        futures: Those of the parts.
    """

    def __init__(self, parts: int, join: Callable[[list[Output]], Output], then: Then) -> None:
        self.started = time.perf_counter()
        self.ended = 0.0
        self.busy = 0.0
        self.futures: list[Future[None]] = []
        self._outputs: list[Output] = [NOTHING] * parts
        self._error: BaseException | None = None
        self._left = parts
        self._lock = threading.Lock()
        self._join = join
        self._then = then

    @property
    def is_done(self) -> bool:
        """Whether `result` hardly waits. Once it is, nobody reads the inputs any more."""
        return self.ended > 0

    def result(self) -> Output:
        """Wait; return the output of all rows, or raise what a part has raised."""
        self.wait()
        error, self._error = self._error, None
        if error is None:
            return self._join(self._outputs)
        try:
            raise error
        finally:
            del error  # its traceback knows this frame: both, and the inputs, would stay

    def wait(self) -> None:
        """Wait until nobody reads the inputs any more."""
        wait(self.futures)

    def run(self, number: int, part: Method, arrays: list[Array], threads: int) -> None:
        """Run a part, which keeps so many threads busy."""
        started = time.perf_counter()
        try:
            self._outputs[number] = part(arrays)
        except BaseException as exc:
            self._error = exc
        ended = time.perf_counter()
        with self._lock:
            self.busy += (ended - started) * threads
            self._left -= 1
            if not self._left:
                self.ended = ended
                self._then()


class Split:
    """A method that runs the rows of a batch in several threads.

    Args:
        method: Its specification; batchable.
        whole: Runs one row, which cannot be split; may use all threads.
        part: Runs a part of a batch in the thread that calls it; may be called by several.
        threads: Most parts.
    """

    def __init__(self, method: MethodSpec, whole: Method, part: Method, threads: int) -> None:
        self._method = method
        self._whole = whole
        self._part = part
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "part")
        self._fits = True

    @property
    def threads(self) -> int:
        """Most parts of a batch."""
        return self._threads

    @property
    def fits(self) -> bool:
        """Whether the outputs of all parts could be joined so far."""
        return self._fits

    def __call__(self, arrays: list[Array]) -> Output:
        """Return the outputs of these rows.

        Raises:
            ModelError: An output has another number of rows than were run.
        """
        if samples.count_rows(self._method, arrays) == 1:
            return self._whole(arrays)
        return self.start(arrays).result()

    def start(
        self, arrays: list[Array], *, alone: bool = True, then: Then = lambda: None
    ) -> Running:
        """Begin to run rows; those that were begun before go first.

        Args:
            arrays: The inputs; they must stay as they are until the run is done.
            alone: Whether no other batch needs the threads.
            then: Called when the last part has ended, in one of the threads.
        """
        rows = samples.count_rows(self._method, arrays)
        parts = min(self._threads, rows) if self._fits else 1
        if parts < 2:
            running = Running(1, lambda outputs: outputs[0], then)
            is_whole = alone or not rows or not self._fits
            run, threads = (self._whole, self._threads) if is_whole else (self._part, 1)
            return self._submit(running, run, [arrays], threads)
        bounds = list(pairwise(rows * part // parts for part in range(parts + 1)))
        running = Running(parts, lambda outputs: self._join(outputs, bounds, arrays), then)
        return self._submit(running, self._part, [self._cut(arrays, *each) for each in bounds], 1)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _submit(
        self, running: Running, run: Method, parts: list[list[Array]], threads: int
    ) -> Running:
        """Hand parts to the threads, each of which keeps so many busy."""
        try:
            for number, each in enumerate(parts):
                future = self._pool.submit(running.run, number, run, each, threads)
                running.futures.append(future)
        except BaseException:
            running.wait()
            raise
        return running

    def _cut(self, arrays: list[Array], start: int, stop: int) -> list[Array]:
        """Return some rows of the inputs, without a copy; all of what counts no rows."""
        axes = [samples.row_axis(self._method, leaf) for leaf in self._method.inputs]
        return [
            array if axis is None or not array.ndim else rows_of(array, axis, start, stop)
            for array, axis in zip(arrays, axes, strict=True)
        ]

    def _join(
        self, outputs: list[Output], bounds: list[tuple[int, int]], arrays: list[Array]
    ) -> Output:
        """Return the outputs of all parts as one.

        They may be of different sizes, as an output that is as wide as the longest row of its
        batch: then it runs once more, as a whole, and the next ones only so.
        """
        axis = self._method.batch_dim[1]
        joined = []
        for position, leaf in enumerate(leaves(outputs[0].structure)):
            found = [output.arrays[position] for output in outputs]
            for array, (start, stop) in zip(found, bounds, strict=True):
                check_rows(array, axis, stop - start, output=leaf.name)
            if len({array.shape[:axis] + array.shape[axis + 1 :] for array in found}) > 1:
                self._fits = False
                return self._whole(arrays)
            joined.append(np.concatenate(found, axis=axis))
        return Output(joined, outputs[0].structure)

    def __repr__(self) -> str:
        return f"<Split {self._method.name} [{self._threads} threads]>"
