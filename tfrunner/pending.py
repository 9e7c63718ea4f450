"""The requests that a gateway has not answered yet: joining, re-sending, deadlines.

No socket, no clock, no event loop: callers pass `now`, send what `outgoing` returns, and
resolve the waiters that the other methods return. On the hottest path of the project.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar, Union

import msgspec
import numpy as np

from tfrunner.errors import ModelError, ProtocolError, TFRunnerError, from_wire
from tfrunner.padding import Short, cut_back
from tfrunner.protocol import (
    Block,
    Bodies,
    Cancel,
    Failures,
    Message,
    Request,
    Results,
    Span,
    Submit,
)
from tfrunner.specs import Node, leaves
from tfrunner.tensors import Array, Layout, batch_axis, decode_layout, rows_of, unpack
from tfrunner.values import in_python

SPARE_DEADLINES = 1024
"""So many deadlines of finished requests, and as many as there are others, may pile up."""

W = TypeVar("W")


class Answer(NamedTuple):
    """The outputs of one request.

    Args:
        arrays: The tensors in the order of the structure; may be read-only views.
        structure: How the tensors are nested.
        timing: Seconds that it was queued, and that gathering its batch, the model, and cutting
            up the outputs took; () where it is not known.
        batch_rows: Rows of the batch that it was in; 0 where that is not known.
    """

    arrays: list[Array]
    structure: Node
    timing: tuple[float, ...] = ()
    batch_rows: int = 0

    def without(self, cuts: Sequence[Short]) -> Answer:
        """Return the answer without what belongs to filled-up inputs."""
        return self._replace(arrays=cut_back(self.structure, self.arrays, cuts))

    def value(self) -> Any:
        """Return Python's form of the outputs: an array, or dicts, lists and tuples of them."""
        return in_python(self.structure, self.arrays)


Outcome = Union[Answer, TFRunnerError]


class Waiting(msgspec.Struct, Generic[W]):
    """A request without an answer.

    Args:
        is_repeatable: Whether it may be sent again to another dispatcher.
        may_have_run: Whether it was sent to a dispatcher that is gone and must not run twice.
        parts: Its rows so far: start -> (stop, outputs).
    """

    request: Request
    deadline: float
    waiter: W
    is_repeatable: bool = True
    may_have_run: bool = False
    parts: dict[int, tuple[int, Answer]] | None = None
    rows_here: int = 0


class ResultForm(NamedTuple):
    """What the layout of a block says; `axes` counts rows for each output, None if it does not."""

    layout: Layout
    structure: Node
    axes: tuple[int | None, ...]
    is_plain: bool  # every output counts its rows on axis 0


@functools.lru_cache(maxsize=4096)
def result_form(data: bytes) -> ResultForm:
    """Return what the layout of a block says.

    Raises:
        ProtocolError: It is no layout of a result.
    """
    layout = decode_layout(data)
    structure = layout.structure
    if structure is None or sum(1 for _ in leaves(structure)) != len(layout.leaves):
        raise ProtocolError("the layout of a result has no structure that fits its tensors")
    axes = tuple(batch_axis(leaf) for leaf in layout.leaves)
    return ResultForm(layout, structure, axes, all(axis == 0 for axis in axes))


class Pending(Generic[W]):
    """The unanswered requests of one gateway; `W` is what waits for an answer.

    Attributes:
        never_sent: Requests that were dropped before they had left, as of the last `outgoing`.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting[W]] = {}
        self._unsent: list[Request] = []
        self._dropped: list[int] = []
        self._deadlines: list[tuple[float, int]] = []  # a heap; finished ones leave it late
        self.never_sent: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        unsent, dropped = len(self._unsent), len(self._dropped)
        return f"<Pending [{len(self)} waiting | {unsent} unsent | {dropped} to cancel]>"

    @property
    def unsent(self) -> int:
        """How many requests go with the next `outgoing`."""
        return len(self._unsent)

    def add(
        self, request: Request, *, deadline: float, waiter: W, is_repeatable: bool = True
    ) -> None:
        """Take a new request, to be sent with the next `outgoing`."""
        self._waiting[request.id] = Waiting(request, deadline, waiter, is_repeatable)
        self._unsent.append(request)
        if len(self._deadlines) > 2 * len(self._waiting) + SPARE_DEADLINES:
            self._deadlines = [(each.deadline, id) for id, each in self._waiting.items()]
            heapq.heapify(self._deadlines)
        else:
            heapq.heappush(self._deadlines, (deadline, request.id))

    def drop(self, id: int) -> None:
        """Forget a request that nobody waits for any more; the dispatcher is told."""
        if self._waiting.pop(id, None) is not None:
            self._dropped.append(id)

    def next_deadline(self) -> float | None:
        """Return the nearest deadline of an unanswered request."""
        while self._deadlines:
            deadline, id = self._deadlines[0]
            if id in self._waiting:
                return deadline
            heapq.heappop(self._deadlines)
        return None

    def expire(self, now: float) -> list[Waiting[W]]:
        """Drop the requests whose deadline is over, and return them."""
        expired = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, id = heapq.heappop(self._deadlines)
            expired.append(self._waiting[id])
            self.drop(id)
        return expired

    def outgoing(self) -> list[Message]:
        """Return the messages to send now: at most one Submit and one Cancel."""
        messages: list[Message] = []
        unsent, self._unsent = self._unsent, []
        dropped, self._dropped = self._dropped, []
        if self.never_sent:
            self.never_sent = set()
        if dropped:
            self.never_sent = never_sent = {each.id for each in unsent}.intersection(dropped)
            unsent = [request for request in unsent if request.id not in never_sent]
            dropped = [id for id in dropped if id not in never_sent]
        if unsent:
            messages.append(Submit(tuple(unsent)))
        if dropped:
            messages.append(Cancel(tuple(dropped)))
        return messages

    def send_again(self, now: float) -> list[Waiting[W]]:
        """Put every unanswered request into the next `outgoing`, with the seconds left.

        Rows that came are forgotten: the new dispatcher may cut the request otherwise.

        Returns:
            The requests that may have run and must not run twice; they are dropped instead.
        """
        self._mark_what_may_have_run()
        self._dropped = []
        self._unsent = []
        lost = [each for each in self._waiting.values() if each.may_have_run]
        for each in lost:
            del self._waiting[each.request.id]
        for each in self._waiting.values():
            each.parts, each.rows_here = None, 0
            left = max(0.0, each.deadline - now)
            self._unsent.append(msgspec.structs.replace(each.request, timeout=left))
        return lost

    def bodies(self, id: int) -> Bodies | None:
        """Return the bodies of a request that waits, None if it does not."""
        known = self._waiting.get(id)
        return None if known is None else known.request.bodies

    def replace(self, id: int, bodies: Bodies) -> None:
        """Let a request that waits have its bodies elsewhere."""
        known = self._waiting[id]
        known.request = msgspec.structs.replace(known.request, bodies=bodies)

    def send_one_again(self, id: int, now: float) -> None:
        """Put a request that waits into the next `outgoing`, with the seconds left."""
        known = self._waiting[id]
        known.parts, known.rows_here = None, 0  # it may be cut differently now
        left = max(0.0, known.deadline - now)
        self._unsent.append(msgspec.structs.replace(known.request, timeout=left))

    def give_up(self) -> list[Waiting[W]]:
        """Drop every request, and return them."""
        self._mark_what_may_have_run()
        waiting = list(self._waiting.values())
        self._dropped += self._waiting
        self._waiting = {}
        return waiting

    def _mark_what_may_have_run(self) -> None:
        unsent = {request.id for request in self._unsent}
        for id, each in self._waiting.items():
            each.may_have_run = not each.is_repeatable and id not in unsent

    def take(self, message: Results | Failures) -> list[tuple[W, Outcome]]:
        """Return the waiters that a message answers, each with its answer or error.

        Requests that are not (any more) known are ignored.
        """
        outcomes: list[tuple[W, Outcome]] = []
        if isinstance(message, Results):
            for block in message.blocks:
                try:
                    self._take_block(block, outcomes)
                except ProtocolError as exc:
                    self._refuse(block.spans, exc, outcomes)
            return outcomes
        for failure in message.failures:
            known = self._waiting.pop(failure.request, None)
            if known is not None:
                error = from_wire(failure.code, failure.message, retry_after=failure.retry_after)
                outcomes.append((known.waiter, error))
        return outcomes

    def _take_block(self, block: Block, outcomes: list[tuple[W, Outcome]]) -> None:
        layout, structure, axes, is_plain = form = result_form(block.layout)
        arrays = unpack(layout, block.bodies, check_spans(block.spans, form))
        waiting, start = self._waiting, 0
        only = arrays[0] if is_plain and len(arrays) == 1 else None
        for span in block.spans:
            count = span.stop - span.start
            stop = start + count
            known = waiting.get(span.request)
            if known is not None:
                if only is not None:  # as most models are
                    own = [only[start:stop]]
                elif is_plain:
                    own = [array[start:stop] for array in arrays]
                else:
                    own = [
                        array if axis is None else rows_of(array, axis, start, stop)
                        for array, axis in zip(arrays, axes, strict=True)
                    ]
                answer = Answer(own, structure, block.timing, block.batch_rows)
                outcome: Outcome | None = answer
                if not count == span.rows == known.request.rows:
                    outcome = _complete(known, span, answer, axes)
                if outcome is not None:
                    del waiting[span.request]
                    outcomes.append((known.waiter, outcome))
            start = stop

    def _refuse(
        self, spans: Sequence[Span], why: ProtocolError, outcomes: list[tuple[W, Outcome]]
    ) -> None:
        """Fail the requests of a block that cannot be read: no other answer will come."""
        for span in spans:
            known = self._waiting.pop(span.request, None)
            if known is not None:
                error = TFRunnerError(f"the server's answer cannot be read: {why}")
                outcomes.append((known.waiter, error))


def check_spans(spans: Sequence[Span], form: ResultForm) -> int:
    """Check that the spans of a block can be told apart; return how many rows they have.

    Raises:
        ProtocolError: A span is empty or ends beyond its request, or an output that does
            not count rows would go to several requests.
    """
    rows = 0
    for span in spans:
        rows += span.stop - span.start
        if not (span.start < span.stop <= span.rows or span.rows == span.stop == 0):
            raise ProtocolError(f"rows {span.start} to {span.stop} of {span.rows} are no range")
    is_whole = len(spans) == 1 and spans[0].stop - spans[0].start == spans[0].rows
    if not (is_whole or form.is_plain) and None in form.axes:
        raise ProtocolError("an output without rows was shared out among several requests")
    return rows


def _complete(
    known: Waiting[W], span: Span, answer: Answer, axes: tuple[int | None, ...]
) -> Outcome | None:
    """Add rows to a request; return its answer once all are there."""
    rows = known.request.rows
    if span.rows != rows:
        return TFRunnerError(f"the server answered a request of {rows} rows with {span.rows}")
    if span.stop - span.start == rows:
        return answer
    if known.parts is None:
        known.parts = {}
    if span.start in known.parts:
        return None
    known.parts[span.start] = (span.stop, answer)
    known.rows_here += span.stop - span.start
    if known.rows_here < rows:
        return None
    parts, reached = [], 0
    while reached in known.parts:
        reached, part = known.parts[reached]
        parts.append(part)
    if reached != rows or len(parts) != len(known.parts):
        return TFRunnerError("the server answered some rows of this request twice, others never")
    return _join(parts, axes)


def _join(parts: Sequence[Answer], axes: tuple[int | None, ...]) -> Outcome:
    """Put the rows of an oversize request together, in their order."""
    try:
        arrays = [
            np.concatenate([part.arrays[index] for part in parts], axis=axis or 0)
            for index, axis in enumerate(axes)
        ]
    except (ValueError, IndexError) as exc:
        return ModelError(
            f"the outputs of the {len(parts)} parts of this request do not fit together: {exc}"
        )
    return Answer(arrays, parts[0].structure)
