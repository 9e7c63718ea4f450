"""What every gateway is made of: models, requests and answers of one end of `frontend`.

A thin shell: `Pending` knows what waits, `Link` holds the socket. One timer for all
deadlines. It lives in one event loop, whichever that is, and calls whoever waits for an
answer by the interface of futures: `Gateway` puts it into an event loop of asyncio,
`BackgroundGateway` into one that callers' threads drive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from tfrunner.answer import Outcome
from tfrunner.casting import Call
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    TFRunnerError,
    Unavailable,
    did_you_mean,
)
from tfrunner.link import Link, may_have_run, no_dispatcher
from tfrunner.padding import Short
from tfrunner.pending import Pending, Waiting
from tfrunner.protocol import SEGMENT_REFUSED, Bodies, Failure, Failures, Request, Results
from tfrunner.served import find_model
from tfrunner.shared_memory import LEND_FROM, SEGMENT_BYTES, Lender
from tfrunner.specs import MethodSpec, ModelSpec
from tfrunner.turns import Reply, Timer, Turns

LONGEST_TIMEOUT = 1e6

log = logging.getLogger(__name__)


class Waiter(Reply, Protocol):
    """Who waits for the answer of one request."""

    id: int
    cuts: tuple[Short, ...]


Settled = tuple[Waiter, Outcome]


class Exchange:
    """Models, requests and answers of one gateway.

    Args:
        address: Where the dispatcher listens.
        name: What the dispatcher calls this peer in its log.
        deliver: Called with each waiter and its answer or error; `settle` does what is left.
        find: Says where the dispatcher listens by now, asked while it does not answer.
        owns: Whether the bodies of a call may change as soon as nobody waits for it.
        shared: Bytes of shared memory for large bodies; 0: none.
        last_id: The number of the last request before.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        deliver: Callable[[Settled], object],
        find: Callable[[], str] | None = None,
        owns: bool = False,
        shared: int = SEGMENT_BYTES,
        last_id: int = 0,
    ) -> None:
        self.models: dict[str, ModelSpec] = {}
        self.link = Link(
            address, name, take=self._take, renew=self._renew, lose=self._lose, find=find
        )
        self.pending: Pending[Waiter] = Pending()
        self._lender = Lender(shared, owns=owns, count=self._count_large)
        self._found: dict[tuple[str, str | None], ModelSpec] = {}
        self._deliver = deliver
        self._liveness = self.link.liveness
        self._last_id = last_id
        self._turns: Turns | None = None
        self._timer: Timer | None = None
        self._timer_at = float("inf")

    def __repr__(self) -> str:
        return f"<Exchange {self.link.name} [{self.link!r} | {self.pending!r}]>"

    @property
    def is_settled(self) -> bool:
        """Whether no answer is awaited, of a worker or of the dispatcher."""
        return not (self.pending or self.link.is_asking)

    def open(self, turns: Turns, opened: Reply) -> None:
        """Connect; see `Link.open`."""
        self.link.open(turns, opened)
        self._turns = turns

    def stop(self) -> float:
        """Fail what waits, tell the dispatcher; see `Link.stop`."""
        if self._turns is None:
            return 0.0
        for each in self.pending.give_up():
            text = "the gateway was closed before an answer came"
            error = _lost(each) if each.may_have_run else Unavailable(text)
            self._deliver((each.waiter, error))
        if self._liveness.is_connected:
            self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._turns = None
        self._lender.forget()
        return self.link.stop()

    def leave_to_parent(self) -> int:
        """Let go of what this process has inherited, and its parent uses; return the last id."""
        self._lender.forget()
        return self._last_id

    def find(self, name: str, version: str | None = None) -> ModelSpec:
        """Return a served model; see `Gateway.find`."""
        found = self._found.get((name, version))
        if found is None:
            found = self._found[name, version] = find_model(self.models.values(), name, version)
        return found

    def method(self, model: ModelSpec, name: str | None) -> MethodSpec:
        """Return a method of a model; see `Gateway.method`."""
        chosen = model.default_method() if name is None else name
        if chosen is None:
            known = ", ".join(model.methods)
            raise NotFound(f"{model.tag} has no default method; name one of its own: {known}.")
        try:
            return model.methods[chosen]
        except KeyError:
            near = did_you_mean(chosen, model.methods)
            raise NotFound(f"{model.tag} has no method {chosen!r}.{near}") from None

    def submit(
        self,
        waiter: Waiter,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
        priority: int = 0,
    ) -> bool:
        """Take a request, to be sent with the next `flush`.

        Args:
            waiter: Gets the number of the request, and later the answer.
            model: From `find`.
            method: From `method`.
            call: From `casting.cast`.
            timeout: Seconds, more than 0.
            client: Whose fair share the request is counted against.
            priority: From -8 to 8; each step doubles its share against others.

        Returns:
            Whether there is something to flush; False: it has failed at once.
        """
        turns = self._turns
        self._last_id = id = self._last_id + 1
        waiter.id, waiter.cuts = id, call.cuts
        if turns is None or not self._liveness.is_connected:
            self._deliver((waiter, no_dispatcher()))
            return False
        bodies = call.bodies
        for body in bodies:
            if len(body) >= LEND_FROM:
                bodies = self._lend(id, bodies)
                break
        timeout = float(timeout) if timeout < LONGEST_TIMEOUT else LONGEST_TIMEOUT
        request = Request(
            id,
            model.tag,
            method.name,
            call.layout,
            call.rows,
            timeout,
            client,
            bodies,
            priority,
        )
        deadline = monotonic() + timeout
        self.pending.add(request, deadline=deadline, waiter=waiter, is_repeatable=method.repeatable)
        if deadline < self._timer_at:
            self._set_timer(turns, deadline)
        return True

    def flush(self) -> None:
        """Send what this turn of the event loop brought."""
        if self._turns is None:
            return
        messages = self.pending.outgoing()
        if self.pending.never_sent:
            self._lender.give_back(self.pending.never_sent)
        if not messages:
            return
        if not self._liveness.is_connected:
            return  # there are only Cancels, of requests that no dispatcher knows any more
        self.link.refresh()
        for message in messages:
            self.link.send(message)
        self.link.drain()

    def restore(self) -> None:
        """Begin anew after a turn that an exception cut short: what waits is sent again."""
        if self._turns is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = float("inf")
        deadline = self.pending.next_deadline()
        if deadline is not None:
            self._set_timer(self._turns, deadline)
        self.link.restore()

    # --- shared memory ------------------------------------------------------------------------

    def _lend(self, id: int, bodies: Bodies) -> Bodies:
        """Put large bodies into shared memory; begin a segment where this connection has none."""
        if self.link.segment is None:
            segment = self._lender.begin(self.link.identity)
            if segment is not None:
                self.link.announce(segment)
        return self._lender.lend(id, bodies)

    def _count_large(self, way: str) -> None:
        self.link.count("large_bodies", way, 1)

    def _send_refused_again(self, failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        """Send again, as frames, what lies in memory that workers cannot read; return the rest."""
        rest = []
        for failure in failures:
            bodies = self.pending.bodies(failure.request)
            is_refused = failure.code == SEGMENT_REFUSED and self._lender.has(failure.request)
            if bodies is None or not is_refused:
                rest.append(failure)
                continue
            if self._lender.stop():
                log.warning("large bodies travel as frames from now on: %s", failure.message)
            self._count_large("refused")
            self.pending.replace(failure.request, self._lender.copy_out(failure.request, bodies))
            self.pending.send_one_again(failure.request, monotonic())
        if len(rest) < len(failures) and self._turns is not None:
            self._turns.call_soon(self.flush)
        return tuple(rest)

    # --- the link's news ----------------------------------------------------------------------

    def _take(self, message: Results | Failures) -> None:
        if isinstance(message, Failures):
            message = Failures(self._send_refused_again(message.failures))
        for settled in self.pending.take(message):
            self._deliver(settled)
        if isinstance(message, Results) and message.released:
            self._lender.give_back(message.released)

    def _renew(self, models: dict[str, ModelSpec]) -> None:
        """Meet a new dispatcher: take its models, send again what is unanswered.

        What must not run twice fails instead: the one before may have begun it.
        """
        self.models = models
        self._found.clear()
        for id in self._lender.requests:
            if (bodies := self.pending.bodies(id)) is not None:
                self.pending.replace(id, self._lender.copy_out(id, bodies))
        self._lender.forget()
        for lost in self.pending.send_again(monotonic()):
            self._deliver((lost.waiter, _lost(lost)))
        for outgoing in self.pending.outgoing():
            self.link.send(outgoing)

    def _lose(self) -> None:
        """Fail everything: the dispatcher is gone."""
        for each in self.pending.give_up():
            self._deliver((each.waiter, _lost(each)))
        self.pending.outgoing()  # the next dispatcher knows none of it
        self._lender.forget()

    def _set_timer(self, turns: Turns, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = turns.call_later(max(0.001, deadline - monotonic()), self._expire)

    def _expire(self) -> None:
        """Answer what is late with DeadlineExceeded; only here does a deadline end a wait."""
        self._timer, self._timer_at = None, float("inf")
        if self._turns is None:
            return
        for late in self.pending.expire(monotonic()):
            tag, timeout = late.request.model, late.request.timeout
            error = DeadlineExceeded(f"{tag} gave no answer within {timeout:.3g} s")
            self._deliver((late.waiter, error))
        deadline = self.pending.next_deadline()
        if deadline is not None:
            self._set_timer(self._turns, deadline)
        self.flush()

    def settle(self, waiter: Waiter, outcome: Outcome) -> None:
        """Give a waiter its answer or error, unless it waits no more."""
        if waiter.done():
            return
        if isinstance(outcome, TFRunnerError):
            if outcome.request_id is None:
                outcome.request_id = self.request_id(waiter.id)
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome.without(waiter.cuts) if waiter.cuts else outcome)

    def request_id(self, id: int) -> str:
        """Return the name that the server's logs give to a request."""
        return f"{self.link.identity}/{id}"


def check_positive(timeout: Any) -> None:
    """Refuse a timeout that is no positive number.

    Raises:
        InvalidInput: It is none.
    """
    if not timeout > 0:
        raise InvalidInput(f"the timeout is {timeout!r}; expected a number of seconds above 0")


def _lost(waiting: Waiting[Waiter]) -> Unavailable:
    """Return the error of a request that was lost with its dispatcher."""
    return may_have_run(waiting.request) if waiting.may_have_run else no_dispatcher()
