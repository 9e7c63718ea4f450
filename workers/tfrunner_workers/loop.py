"""The worker's loop: receive a batch, assemble it, run it, answer. One thread."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import NamedTuple, Protocol

from tfrunner.errors import ModelError, OutOfMemory, ProtocolError
from tfrunner.protocol import (
    SEGMENT_REFUSED,
    BatchDone,
    BatchFailed,
    Block,
    BlockFor,
    Message,
    MethodState,
    RunBatch,
    Stop,
    Welcome,
)
from tfrunner.row_ranges import can_cut, has_lengths
from tfrunner.specs import ANY
from tfrunner.tensors import Array, Layout, batch_axis, decode_layout
from tfrunner_workers.assembly import assemble, disassemble, is_whole
from tfrunner_workers.hosted import Hosted, Method, describe, sendable
from tfrunner_workers.ranges import Ranges
from tfrunner_workers.segments import SegmentRefused, Segments, has_shared

logger = logging.getLogger("tfrunner.worker")


class Link(Protocol):
    """What the loop needs of a Connection."""

    def receive(self, *, block: bool) -> list[Message]:
        """Return what arrived; wait for it where `block` is true."""

    def send(self, message: Message) -> None:
        """Send a message."""


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
    """

    run: Method
    takes: tuple[Kinds, ...]
    axis: int
    batchable: bool
    borrows: bool = False

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
            *(run, takes, spec.batch_dim[1], state.batchable), borrows=borrows and state.repeatable
        )
    return table


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
    begun = time.perf_counter()
    try:
        entry, layout, arrays = _prepare(table, batch, segments, ranges or Ranges())
    except SegmentRefused as exc:
        return BatchFailed(batch.batch, batch.attempt, SEGMENT_REFUSED, exc.message, exc.gateways)
    except Exception as exc:
        logger.exception("%s was refused", _name(batch))
        text = sendable(exc.message) if isinstance(exc, ProtocolError) else describe(exc)
        return BatchFailed(batch.batch, batch.attempt, ProtocolError.code, text)
    try:
        started = time.perf_counter()
        output = entry.run(arrays)
        ended = time.perf_counter()
        blocks = disassemble(batch, output, axis=_output_axis(entry, layout, batch))
    except BaseException as exc:
        # Also what is no Exception: a method that calls sys.exit, or raises CancelledError, has
        # failed; it does not end the worker, and what others have in it.
        return _failed(batch, exc)
    scatter = time.perf_counter() - ended
    seconds = ended - started
    timed = with_timing(blocks, (started - begun, seconds, scatter))
    return BatchDone(batch.batch, batch.attempt, seconds, timed)


def with_timing(blocks: tuple[BlockFor, ...], timing: tuple[float, ...]) -> tuple[BlockFor, ...]:
    """Return blocks that say how long gathering, running and scattering took, in seconds."""
    return tuple(
        BlockFor(
            each.gateway, Block(each.block.spans, each.block.layout, each.block.bodies, timing)
        )
        for each in blocks
    )


def _failed(batch: RunBatch, exc: BaseException) -> BatchFailed:
    """Return what to send for a batch that the model could not run; log the traceback."""
    if isinstance(exc, MemoryError) or type(exc).__name__ == "ResourceExhaustedError":
        # TensorFlow's error is known by its name: not every worker imports TensorFlow.
        logger.error("%s: no memory for %d rows: %s", _name(batch), batch.rows, describe(exc))
        return BatchFailed(batch.batch, batch.attempt, OutOfMemory.code, describe(exc))
    logger.exception("%s failed", _name(batch), exc_info=exc)
    text = sendable(exc.message) if isinstance(exc, ModelError) else describe(exc)
    return BatchFailed(batch.batch, batch.attempt, ModelError.code, text)


def _prepare(
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


class Loop:
    """Runs batches until it is stopped.

    Args:
        link: Where batches come from and answers go to.
        table: The methods by name.
    """

    def __init__(self, link: Link, table: dict[str, Entry]) -> None:
        self._link = link
        self._table = table
        self._held: deque[RunBatch] = deque()
        self._segments = Segments()
        self._ranges = Ranges()
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Loop [{len(self._held)} held{' | stopping' * self._stopping}]>"

    def stop(self) -> None:
        """Finish what is held, then return from `run`. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Answer batches until a Stop comes."""
        while True:
            for message in self._link.receive(block=not self._held and not self._stopping):
                self._record(message)
            self._segments.drop_dead(time.monotonic())
            if self._held:
                batch = self._held.popleft()
                self._link.send(answer(self._table, batch, self._segments, self._ranges))
            elif self._stopping:
                return

    def _record(self, message: Message) -> None:
        match message:
            case RunBatch():
                self._held.append(message)
            case Welcome():  # another life of the dispatcher: it knows none of these batches
                self._held.clear()
                self._segments.drop_all()
            case Stop():
                self.stop()
