"""The requests that a gateway has not answered yet: joining, re-sending, deadlines.

No socket, no clock, no event loop: callers pass `now`, send what `outgoing` returns, and
resolve the waiters that the other methods return. On the hottest path of the project.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from tfrunner.answer import Answer, Outcome, join
from tfrunner.blocks import apart, check_spans, result_form
from tfrunner.errors import ProtocolError, TFRunnerError, from_wire
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
from tfrunner.tensors import rows_of, unpack

SPARE_DEADLINES = 1024
"""So many early deadlines of finished requests, and as many as there are others, may pile up."""

W = TypeVar("W")


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


class Pending(Generic[W]):
    """The unanswered requests of one gateway; `W` is what waits for an answer.

    Attributes:
        never_sent: Requests that were dropped before they had left, as of the last `outgoing`.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting[W]] = {}  # the deadlines rise, but for the early ones
        self._unsent: list[Request] = []
        self._dropped: list[int] = []
        self._latest = 0.0
        self._early: list[tuple[float, int]] = []  # a heap; finished ones leave it late
        self.never_sent: set[int] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        unsent, dropped = len(self._unsent), len(self._dropped)
        return f"<Pending [{len(self)} waiting | {unsent} unsent | {dropped} to cancel]>"

    def fills(self, message: int) -> bool:
        """Whether so many requests, or all that there are, go with the next `outgoing`."""
        unsent = len(self._unsent)
        return unsent >= message or unsent == len(self._waiting)

    def add(
        self, request: Request, *, deadline: float, waiter: W, is_repeatable: bool = True
    ) -> None:
        """Take a new request, to be sent with the next `outgoing`."""
        if deadline >= self._latest or not self._waiting:
            self._latest = deadline
        else:
            self._note_early(deadline, request.id)
        self._waiting[request.id] = Waiting(request, deadline, waiter, is_repeatable)
        self._unsent.append(request)

    def _note_early(self, deadline: float, id: int) -> None:
        """Note a deadline before that of a request that came before."""
        if len(self._early) > 2 * len(self._waiting) + SPARE_DEADLINES:
            self._early = [each for each in self._early if each[1] in self._waiting]
            heapq.heapify(self._early)
        heapq.heappush(self._early, (deadline, id))

    def drop(self, id: int) -> None:
        """Forget a request that nobody waits for any more; the dispatcher is told."""
        if self._waiting.pop(id, None) is not None:
            self._dropped.append(id)

    def next_deadline(self) -> float | None:
        """Return the nearest deadline of an unanswered request."""
        first = next(iter(self._waiting.values()), None)
        if first is None:
            return None
        early = self._early
        while early and early[0][1] not in self._waiting:
            heapq.heappop(early)
        # That of the first one, or an early one: of those that came after the first, all others
        # have one that was the latest by then.
        return min(first.deadline, early[0][0]) if early else first.deadline

    def expire(self, now: float) -> list[Waiting[W]]:
        """Drop the requests whose deadline is over, and return them."""
        expired = []
        while self._early and self._early[0][0] <= now:
            _, id = heapq.heappop(self._early)
            if id in self._waiting:
                expired.append(self._waiting[id])
                self.drop(id)
        late = itertools.takewhile(lambda each: each.deadline <= now, self._waiting.values())
        for each in list(late):
            expired.append(each)
            self.drop(each.request.id)
        return sorted(expired, key=lambda each: each.deadline)

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
                    self._take_apart(block, exc, outcomes)
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
        timing, batch_rows = block.timing, block.batch_rows
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
                answer = Answer(own, structure, timing, batch_rows)
                outcome: Outcome | None = answer
                if not count == span.rows == known.request.rows:
                    outcome = _complete(known, span, answer, axes)
                if outcome is not None:
                    del waiting[span.request]
                    outcomes.append((known.waiter, outcome))
            start = stop

    def _take_apart(
        self, block: Block, why: ProtocolError, outcomes: list[tuple[W, Outcome]]
    ) -> None:
        """Take each request's rows alone: those of others need not be what cannot be read."""
        try:
            alone = apart(block)
        except ProtocolError:
            return self._refuse(block.spans, why, outcomes)
        for each in alone:
            try:
                self._take_block(each, outcomes)
            except ProtocolError as exc:
                self._refuse(each.spans, exc, outcomes)

    def _refuse(
        self, spans: Sequence[Span], why: ProtocolError, outcomes: list[tuple[W, Outcome]]
    ) -> None:
        """Fail the requests of a block that cannot be read: no other answer will come."""
        for span in spans:
            known = self._waiting.pop(span.request, None)
            if known is not None:
                error = TFRunnerError(f"the server's answer cannot be read: {why}")
                outcomes.append((known.waiter, error))


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
    return join(parts, axes)
