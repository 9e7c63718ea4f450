"""The gateway of an asyncio event loop, in an api process or an async client.

One message for all requests of one turn of the event loop. `Exchange` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from tfrunner.answer import Answer
from tfrunner.casting import Call
from tfrunner.errors import StateError
from tfrunner.exchange import Exchange, Settled, check_positive
from tfrunner.link import no_status, nobody_there
from tfrunner.metric_series import Reporter
from tfrunner.padding import Short
from tfrunner.shared_memory import SEGMENT_BYTES
from tfrunner.specs import MethodSpec, ModelSpec

__all__ = ["Answer", "Follow", "Gateway"]

Follow = Callable[["asyncio.Future[Answer]", ModelSpec, MethodSpec, Call], None]


class _Waiter(asyncio.Future[Answer]):
    """The future of one request; cancelling it cancels the request.

    A method of our own is cheaper than a callback for each request, which would also run,
    for nothing, with every answer.
    """

    __slots__ = ("cuts", "gateway", "id")

    cuts: tuple[Short, ...]
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
        owns: Whether the bodies of a call may change as soon as nobody waits for it.
        shared: Bytes of shared memory for large bodies; 0: none.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        find: Callable[[], str] | None = None,
        owns: bool = False,
        shared: int = SEGMENT_BYTES,
    ) -> None:
        self._exchange = Exchange(
            address, name, deliver=self._settle, find=find, owns=owns, shared=shared
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_is_due = False

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """What the dispatcher serves, by tag."""
        return self._exchange.models

    @property
    def is_connected(self) -> bool:
        """Whether the dispatcher has answered lately."""
        return self._exchange.link.liveness.is_connected

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._exchange.link.address

    def __repr__(self) -> str:
        exchange = self._exchange
        return f"<Gateway {exchange.link.name} [{exchange.link!r} | {exchange.pending!r}]>"

    async def open(self, timeout: float = 10.0) -> None:
        """Connect, and wait until the dispatcher has said which models it serves.

        Args:
            timeout: Seconds.

        Raises:
            ConfigError: The address is refused.
            Unavailable: No dispatcher answered in time.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        try:
            self._exchange.open(loop, opened)
            await asyncio.wait_for(opened, timeout)
        except BaseException as exc:
            self._exchange.link.close(self._exchange.stop())
            if isinstance(exc, asyncio.TimeoutError):
                raise nobody_there(self.address, timeout) from exc
            raise
        self._loop = loop

    async def close(self) -> None:
        """Fail what waits, tell the dispatcher, and close the socket."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        linger = self._exchange.stop()
        if linger:
            running = asyncio.get_running_loop()  # the gateway's own may be closed
            await running.run_in_executor(None, self._exchange.link.close, linger)
        else:
            self._exchange.link.close(0.0)

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
        return self._exchange.find(name, version)

    def method(self, model: ModelSpec, name: str | None) -> MethodSpec:
        """Return a method of a model, the default one for None.

        Raises:
            NotFound: The model has none of that name; the message names what it has.
        """
        return self._exchange.method(model, name)

    def submit(
        self,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
        priority: int = 0,
    ) -> asyncio.Future[Answer]:
        """Send a request with all others of this turn of the event loop.

        Args:
            model: From `find`.
            method: From `method`.
            call: From `casting.cast`.
            timeout: Seconds after which DeadlineExceeded is the answer, whatever happens.
            client: Whose fair share the request is counted against.
            priority: From -8 to 8; each step doubles its share against others.

        Returns:
            A future of the outputs; cancelling it cancels the request.

        Raises:
            InvalidInput: The timeout is no positive number.
            StateError: The gateway is not open.
        """
        loop = self._loop
        if loop is None:
            raise StateError("the gateway is not open; call `await gateway.open()` first")
        check_positive(timeout)
        waiter = _Waiter(loop=loop)
        waiter.gateway = self
        is_due = self._exchange.submit(
            waiter, model, method, call, timeout=timeout, client=client, priority=priority
        )
        if is_due and not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        return waiter

    async def ask(self, timeout: float = 2.0, *, told: bool = False) -> dict[str, Any]:
        """Return the dispatcher's state as plain data.

        Args:
            timeout: Seconds.
            told: With what users' own metrics add up to, those of this process as they are now.

        Raises:
            StateError: The gateway is not open.
            Unavailable: The dispatcher does not answer.
        """
        if self._loop is None:
            raise StateError("the gateway is not open; call `await gateway.open()` first")
        link = self._exchange.link
        reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        id = link.ask(reply, told=told)
        try:
            return await asyncio.wait_for(reply, timeout)
        except asyncio.TimeoutError as exc:
            raise no_status(timeout) from exc
        finally:
            link.forget(id)

    def count(self, name: str, label: str, amount: float = 1) -> None:
        """Add to a counter of the front desk; the dispatcher is told with the next Hello."""
        self._exchange.link.count(name, label, amount)

    def watch(self, follow: Follow) -> None:
        """Have somebody look at each request that is submitted from now on.

        Where nobody watches, it costs nothing.

        Args:
            follow: Called with the future and what was submitted.
        """
        submit = self.submit

        def submit_watched(
            model: ModelSpec, method: MethodSpec, call: Call, **options: Any
        ) -> asyncio.Future[Answer]:
            future = submit(model, method, call, **options)
            follow(future, model, method, call)
            return future

        self.submit = submit_watched  # type: ignore[method-assign]

    def report_metrics(self, reporter: Reporter) -> None:
        """Tell the dispatcher what users' own metrics of this process count, from now on."""
        self._exchange.link.reporter = reporter

    def request_id(self, id: int) -> str:
        """Return the name that the server's logs give to a request."""
        return self._exchange.request_id(id)

    def _settle(self, settled: Settled) -> None:
        self._exchange.settle(*settled)

    def _flush(self) -> None:
        self._flush_is_due = False
        self._exchange.flush()

    def _drop(self, id: int) -> None:
        self._exchange.pending.drop(id)
        if not self._flush_is_due and self._loop is not None:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
