"""The event-loop end of `frontend`, in an api process or a client: models, requests, answers.

A thin shell: `Pending` knows what waits, `Link` holds the socket. One message for all
requests of one turn of the event loop; one timer for all deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from tfrunner.casting import Call
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    StateError,
    TFRunnerError,
    Unavailable,
    did_you_mean,
)
from tfrunner.link import Link, may_have_run, no_dispatcher
from tfrunner.pending import Answer, Outcome, Pending, Waiting
from tfrunner.protocol import Failures, Request, Results
from tfrunner.served import find_model
from tfrunner.specs import MethodSpec, ModelSpec

__all__ = ["Answer", "Gateway"]

LONGEST_TIMEOUT = 1e6


class _Waiter(asyncio.Future[Answer]):
    """The future of one request; cancelling it cancels the request.

    A method of our own is cheaper than a callback for each request, which would also run,
    for nothing, with every answer.
    """

    __slots__ = ("gateway", "id")

    gateway: Gateway
    id: int

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel; the dispatcher is told."""
        if not super().cancel(msg):
            return False
        self.gateway._drop(self.id)
        return True


class Gateway:
    """One end of `frontend`, for one event loop.

    Args:
        address: Where the dispatcher listens.
        name: What the dispatcher calls this peer in its log.
        find: Says where the dispatcher listens by now, asked while it does not answer.
    """

    def __init__(self, address: str, *, name: str, find: Callable[[], str] | None = None) -> None:
        self.models: dict[str, ModelSpec] = {}
        self._found: dict[tuple[str, str | None], ModelSpec] = {}
        self._link = Link(
            address, name, take=self._take, renew=self._renew, lose=self._lose, find=find
        )
        self._liveness = self._link.liveness
        self._pending: Pending[_Waiter] = Pending()
        self._last_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    @property
    def is_connected(self) -> bool:
        """Whether the dispatcher has answered lately."""
        return self._liveness.is_connected

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._link.address

    def __repr__(self) -> str:
        return f"<Gateway {self._link.name} [{self._link!r} | {self._pending!r}]>"

    async def open(self, timeout: float = 10.0) -> None:
        """Connect, and wait until the dispatcher has said which models it serves.

        Args:
            timeout: Seconds.

        Raises:
            ConfigError: The address is refused.
            Unavailable: No dispatcher answered in time.
        """
        await self._link.open(timeout)
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Fail what waits, tell the dispatcher, and close the socket."""
        if self._loop is None:
            return
        for each in self._pending.give_up():
            text = "the gateway was closed before an answer came"
            _resolve(each.waiter, _lost(each) if each.may_have_run else Unavailable(text))
        if self.is_connected:
            self._flush()
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None
        await self._link.close()

    async def __aenter__(self) -> Gateway:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def find(self, name: str, version: str | None = None) -> ModelSpec:
        """Return a served model.

        Args:
            name: Name, or tag `name:version`.
            version: A version, a serial number, a unique prefix of a version, or "latest";
                None: the latest.

        Raises:
            NotFound: It is not served; the message names what is.
        """
        found = self._found.get((name, version))
        if found is None:
            found = self._found[name, version] = find_model(self.models.values(), name, version)
        return found

    def method(self, model: ModelSpec, name: str | None) -> MethodSpec:
        """Return a method of a model, the default one for None.

        Raises:
            NotFound: The model has none of that name; the message names what it has.
        """
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
        self, model: ModelSpec, method: MethodSpec, call: Call, *, timeout: float, client: str = ""
    ) -> asyncio.Future[Answer]:
        """Send a request with all others of this turn of the event loop.

        Args:
            model: From `find`.
            method: From `method`.
            call: From `casting.cast`.
            timeout: Seconds after which DeadlineExceeded is the answer, whatever happens.
            client: Whose fair share the request is counted against.

        Returns:
            A future of the outputs; cancelling it cancels the request.

        Raises:
            InvalidInput: The timeout is no positive number.
            StateError: The gateway is not open.
        """
        loop = self._loop
        if loop is None:
            raise StateError("the gateway is not open; call `await gateway.open()` first")
        if not timeout > 0:
            raise InvalidInput(f"the timeout is {timeout!r}; expected a number of seconds above 0")
        timeout = min(float(timeout), LONGEST_TIMEOUT)
        self._last_id = id = self._last_id + 1
        waiter = _Waiter(loop=loop)
        waiter.gateway, waiter.id = self, id
        if not self._liveness.is_connected:
            _resolve(waiter, no_dispatcher())
            return waiter
        request = Request(
            id, model.tag, method.name, call.layout, call.rows, timeout, client, call.bodies
        )
        deadline = monotonic() + timeout
        self._pending.add(
            request, deadline=deadline, waiter=waiter, is_repeatable=method.repeatable
        )
        if deadline < self._timer_at:
            self._set_timer(loop, deadline)
        if not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        return waiter

    async def ask(self, timeout: float = 2.0) -> dict[str, Any]:
        """Return the dispatcher's state as plain data.

        Args:
            timeout: Seconds.

        Raises:
            StateError: The gateway is not open.
            Unavailable: The dispatcher does not answer.
        """
        return await self._link.ask(timeout)

    def count(self, name: str, label: str, amount: float = 1) -> None:
        """Add to a counter of the front desk; the dispatcher is told with the next Hello."""
        self._link.count(name, label, amount)

    def request_id(self, id: int) -> str:
        """Return the name that the server's logs give to a request."""
        return f"{self._link.identity}/{id}"

    def _flush(self) -> None:
        """Send what this turn of the event loop brought."""
        self._flush_is_due = False
        if self._loop is None:
            return
        messages = self._pending.outgoing()
        if not self.is_connected:
            return  # there are only Cancels, of requests that no dispatcher knows any more
        for message in messages:
            self._link.send(message)
        self._link.drain()

    def _drop(self, id: int) -> None:
        self._pending.drop(id)
        if not self._flush_is_due and self._loop is not None:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _take(self, message: Results | Failures) -> None:
        for waiter, outcome in self._pending.take(message):
            _resolve(waiter, outcome)

    def _renew(self, models: dict[str, ModelSpec]) -> None:
        """Meet a new dispatcher: take its models, send again what is unanswered.

        What must not run twice fails instead: the one before may have begun it.
        """
        self.models = models
        self._found.clear()
        for lost in self._pending.send_again(monotonic()):
            _resolve(lost.waiter, _lost(lost))
        for outgoing in self._pending.outgoing():
            self._link.send(outgoing)

    def _lose(self) -> None:
        """Fail everything: the dispatcher is gone."""
        for each in self._pending.give_up():
            _resolve(each.waiter, _lost(each))
        self._pending.outgoing()  # the next dispatcher knows none of it

    def _set_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = loop.call_later(max(0.001, deadline - monotonic()), self._expire)

    def _expire(self) -> None:
        """Answer what is late with DeadlineExceeded; only here does a deadline end a wait."""
        if self._loop is None:
            return
        self._timer, self._timer_at = None, float("inf")
        for late in self._pending.expire(monotonic()):
            tag, timeout = late.request.model, late.request.timeout
            error = DeadlineExceeded(f"{tag} gave no answer within {timeout:.3g} s")
            _resolve(late.waiter, error)
        deadline = self._pending.next_deadline()
        if deadline is not None:
            self._set_timer(self._loop, deadline)
        self._flush()


def _resolve(waiter: _Waiter, outcome: Outcome) -> None:
    if waiter.done():
        return
    if isinstance(outcome, TFRunnerError):
        if outcome.request_id is None:
            outcome.request_id = waiter.gateway.request_id(waiter.id)
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)


def _lost(waiting: Waiting[_Waiter]) -> Unavailable:
    """Return the error of a request that was lost with its dispatcher."""
    return may_have_run(waiting.request) if waiting.may_have_run else no_dispatcher()
