"""How a batch is answered: its arrays gathered, its method run, its output cut for each gateway."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from tfrunner.errors import ModelError, OutOfMemory, ProtocolError
from tfrunner.protocol import (
    SEGMENT_REFUSED,
    BatchDone,
    BatchFailed,
    Block,
    BlockFor,
    MethodState,
    RunBatch,
)
from tfrunner.row_ranges import can_cut, has_lengths
from tfrunner.specs import ANY
from tfrunner.tensors import Array, Layout, batch_axis, decode_layout
from tfrunner_workers.assembly import assemble, disassemble, is_whole
from tfrunner_workers.hosted import Hosted, Method, Output, describe, sendable
from tfrunner_workers.ranges import Ranges
from tfrunner_workers.segments import SegmentRefused, Segments, has_shared
from tfrunner_workers.splitting import Split

logger = logging.getLogger("tfrunner.worker")

Kinds = tuple[tuple[str, int], ...]


class Entry(NamedTuple):
    """A method as the loop runs it.

    Args:
        run: The method.
        takes: Dtypes and ragged ranks of the tensors that it takes, for each variant.
        axis: The axis of every output that counts rows.
        batchable: Whether rows of different requests may be run together here.
        borrows: Whether it lets go of its inputs when it returns, and never writes to them: a
            lone request's bodies are given to it where they lie, in shared memory too.
        split: The method again, if it runs batches in several threads.
    """

    run: Method
    takes: tuple[Kinds, ...]
    axis: int
    batchable: bool
    borrows: bool = False
    split: Split | None = None

    def accepts(self, layout: Layout) -> bool:
        """Return whether tensors of this layout are what one of its variants takes."""
        given = tuple([(leaf.dtype, leaf.ragged_rank) for leaf in layout.leaves])
        if given in self.takes:
            return True
        return any(
            len(kinds) == len(given)
            and all(k in (g, (ANY, 0)) for k, g in zip(kinds, given, strict=True))
            for kinds in self.takes
        )


def entries(
    hosted: Hosted, states: tuple[MethodState, ...], *, borrows: bool = False
) -> dict[str, Entry]:
    """Return the methods by name.

    Args:
        hosted: The loaded model.
        states: What warm-up found out about its methods.
        borrows: Whether its methods keep nothing of their inputs, unless they change state: a
            variable that is assigned an input shares its memory.
    """
    table = {}
    for state in states:
        spec = hosted.spec.methods[state.name]
        takes = tuple(
            tuple((leaf.dtype, leaf.ragged_rank) for leaf in variant.inputs)
            for variant in spec.of_variants()
        )
        run = hosted.methods[state.name]
        table[state.name] = Entry(
            *(run, takes, spec.batch_dim[1], state.batchable),
            borrows=borrows and state.repeatable,
            split=run if isinstance(run, Split) and state.repeatable else None,
        )
    return table


class Ready(NamedTuple):
    """A batch that can be run.

    Args:
        batch: It.
        entry: Its method.
        layout: Its layout.
        arrays: Its rows.
        gather: Seconds that it took to gather them.
    """

    batch: RunBatch
    entry: Entry
    layout: Layout
    arrays: list[Array]
    gather: float


class Ran(NamedTuple):
    """What a run gave.

    Args:
        output: It.
        seconds: How long it took.
        cost: How long it kept the worker busy, where other batches ran beside it.
    """

    output: Output
    seconds: float
    cost: float | None = None


def answer(
    table: dict[str, Entry], batch: RunBatch, segments: Segments, ranges: Ranges | None = None
) -> BatchDone | BatchFailed:
    """Run a batch and return what to send; no batch makes it raise.

    Args:
        table: The methods by name.
        batch: What the dispatcher sent.
        segments: Where bodies lie that are in shared memory.
        ranges: Where the rows of large requests begin; None: nothing is known of any.
    """
    ready = prepare(table, batch, segments, ranges or Ranges())
    return ready if isinstance(ready, BatchFailed) else finish(ready, lambda: _run(ready))


def prepare(
    table: dict[str, Entry], batch: RunBatch, segments: Segments, ranges: Ranges
) -> Ready | BatchFailed:
    """Return a batch as its method takes it, or what to send instead."""
    begun = time.perf_counter()
    try:
        entry, layout, arrays = _gather(table, batch, segments, ranges)
    except SegmentRefused as exc:
        return BatchFailed(batch.batch, batch.attempt, SEGMENT_REFUSED, exc.message, exc.gateways)
    except Exception as exc:
        logger.exception("%s was refused", _name(batch))
        text = sendable(exc.message) if isinstance(exc, ProtocolError) else describe(exc)
        return BatchFailed(batch.batch, batch.attempt, ProtocolError.code, text)
    return Ready(batch, entry, layout, arrays, time.perf_counter() - begun)


def finish(ready: Ready, run: Callable[[], Ran]) -> BatchDone | BatchFailed:
    """Return what to send for a batch.

    Args:
        ready: The batch.
        run: Gives its output, or raises what its method raised.
    """
    batch = ready.batch
    try:
        output, seconds, cost = run()
        ended = time.perf_counter()
        axis = _output_axis(ready.entry, ready.layout, batch)
        blocks = disassemble(batch, output, axis=axis)
    except BaseException as exc:
        # Also what is no Exception: a method that calls sys.exit, or raises CancelledError, has
        # failed; it does not end the worker, and what others have in it.
        return failed(batch, exc)
    scatter = time.perf_counter() - ended
    timed = with_timing(blocks, (ready.gather, seconds, scatter))
    return BatchDone(batch.batch, batch.attempt, seconds, timed, cost)


def _run(ready: Ready) -> Ran:
    started = time.perf_counter()
    output = ready.entry.run(ready.arrays)
    return Ran(output, time.perf_counter() - started)


def with_timing(blocks: tuple[BlockFor, ...], timing: tuple[float, ...]) -> tuple[BlockFor, ...]:
    """Return blocks that say how long gathering, running and scattering took, in seconds."""
    return tuple(
        BlockFor(
            each.gateway, Block(each.block.spans, each.block.layout, each.block.bodies, timing)
        )
        for each in blocks
    )


def failed(batch: RunBatch, exc: BaseException) -> BatchFailed:
    """Return what to send for a batch that the model could not run; log the traceback."""
    if isinstance(exc, MemoryError) or type(exc).__name__ == "ResourceExhaustedError":
        # TensorFlow's error is known by its name: not every worker imports TensorFlow.
        logger.error("%s: no memory for %d rows: %s", _name(batch), batch.rows, describe(exc))
        return BatchFailed(batch.batch, batch.attempt, OutOfMemory.code, describe(exc))
    logger.exception("%s failed", _name(batch), exc_info=exc)
    text = sendable(exc.message) if isinstance(exc, ModelError) else describe(exc)
    return BatchFailed(batch.batch, batch.attempt, ModelError.code, text)


def _gather(
    table: dict[str, Entry], batch: RunBatch, segments: Segments, ranges: Ranges
) -> tuple[Entry, Layout, list[Array]]:
    entry = table.get(batch.method)
    if entry is None:
        raise ProtocolError(f"method {batch.method!r} is not served; there are: {', '.join(table)}")
    layout = decode_layout(batch.layout)
    if not entry.accepts(layout):
        raise ProtocolError(
            f"method {batch.method!r} takes {[[d for d, _ in kinds] for kinds in entry.takes]}, "
            f"the batch has {[leaf.dtype for leaf in layout.leaves]}"
        )
    if not has_shared(batch):
        return entry, layout, assemble(ranges.narrow(batch, layout), layout)
    copies = not entry.borrows and _gives_views(batch, layout)
    batch = segments.open(batch, copies=copies, whole=has_lengths(layout) and not can_cut(layout))
    arrays = assemble(ranges.narrow(batch, layout), layout)
    if copies and _is_one(batch) and not is_whole(batch):
        arrays = [_own(array) for array in arrays]
    return entry, layout, arrays


def _own(array: Array) -> Array:
    """Return a copy of rows that lie in shared memory: what reads them may keep them."""
    if array.dtype.hasobject:  # made of bytes of their own already
        return array
    copy: Array = array.copy()
    copy.flags.writeable = False
    return copy


def _gives_views(batch: RunBatch, layout: Layout) -> bool:
    """Return whether the arrays of a batch are, or hold, views of its bodies."""
    return _is_one(batch) or has_lengths(layout)


def _is_one(batch: RunBatch) -> bool:
    """Return whether all rows are of one request."""
    return len(batch.groups) == 1 and len(batch.groups[0].parts) == 1


def _output_axis(entry: Entry, layout: Layout, batch: RunBatch) -> int | None:
    """Return the axis that outputs are cut along, None where one request gets them whole."""
    if all(batch_axis(leaf) is None for leaf in layout.leaves):
        return None
    if not entry.batchable and is_whole(batch):
        return None
    return entry.axis


def _name(batch: RunBatch) -> str:
    """Return how the log names a batch: its number, method and requests."""
    requests = [
        f"{group.gateway.decode(errors='replace')}/{part.request}"
        for group in batch.groups
        for part in group.parts
    ]
    shown = ", ".join(requests[:8]) + (f" and {len(requests) - 8} more" * (len(requests) > 8))
    return f"batch {batch.batch}.{batch.attempt} of {batch.method!r} (requests {shown})"
