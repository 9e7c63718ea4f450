"""The client for an event loop; `tfrunner.client` has the one for threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, Union

from tfrunner import config
from tfrunner.attempts import OPEN_SECONDS, Attempts, async_repeat, first_attempt
from tfrunner.client_address import describe, find_address, finder, is_http
from tfrunner.client_connection import AsyncHttpChannel, http_channel
from tfrunner.client_direct import AsyncDirectChannel
from tfrunner.client_models import ModelCall, ModelState, check_timeout, client_closed
from tfrunner.errors import DeadlineExceeded, NotFound, StateError, Unavailable

T = TypeVar("T")
AsyncChannel = Union[AsyncHttpChannel, AsyncDirectChannel]


class AsyncClient:
    """Calls a server from an event loop; an async context manager. Otherwise as `Client`.

    It belongs to the event loop of its first call; in another one, or in a process that was
    forked since, every call is a StateError.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = config.DEFAULTS.timeout,
        retries: bool = True,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self.retries = retries
        self._given = address
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: AsyncChannel | None = None
        self._opening: asyncio.Future[None] | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._has_met = False
        self._closed = asyncio.Event()

    def __repr__(self) -> str:
        return describe(self, self._given, self._channel)

    @property
    def address(self) -> str:
        """The address that is called."""
        channel = self._channel
        return channel.address if channel is not None else find_address(self._given)

    async def predict(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a model on these inputs; see `Client.predict`. Cancelling cancels the request."""
        call = ModelCall(model, method, args, kwargs)
        return await self._call(lambda channel, *left: channel.predict(call, *left), timeout)

    def submit(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[Any]:
        """Begin what `predict` does, and return a task that gives its outputs.

        Requests that begin in one turn of the event loop travel together.
        """
        running = asyncio.get_running_loop()
        predicting = self.predict(model, *args, method=method, timeout=timeout, **kwargs)
        return running.create_task(predicting)

    async def call(self, endpoint: str, value: Any, *, timeout: float | None = None) -> Any:
        """Send a value to an endpoint of a Service; see `Client.call`."""

        async def act(channel: AsyncChannel, attempts: Attempts, left: float) -> Any:
            http = http_channel(channel, AsyncHttpChannel)
            return await http.call(endpoint, value, attempts, left)

        return await self._call(act, timeout)

    async def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """Return every model version that the server knows, and its state."""
        return await self._call(lambda channel, *left: channel.models(*left), timeout)

    async def is_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Return whether the server, or one model of it, answers requests now."""
        try:
            return await self._call(
                lambda channel, *left: channel.is_ready(model, *left), timeout, retries=False
            )
        except (NotFound, Unavailable, DeadlineExceeded):
            return False

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's whole state as plain data: models, workers, counters."""
        return await self._call(lambda channel, *left: channel.status(*left), timeout)

    async def close(self) -> None:
        """Close the connections; calls that wait fail. Safe to repeat.

        Raises:
            StateError: They belong to another event loop, which still runs.
        """
        if self._loop is None or not self._loop.is_closed():
            self._enter_loop()
        self._closed.set()
        if self._opening is not None:
            self._opening.cancel()
        channel, self._channel = self._channel, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if channel is None:
            return
        if self._loop is asyncio.get_running_loop():
            await channel.close()
        else:  # what its event loop had of it has ended with it
            with contextlib.suppress(RuntimeError):
                await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(
        self,
        act: Callable[[AsyncChannel, Attempts, float], Awaitable[T]],
        timeout: float | None,
        *,
        retries: bool | None = None,
    ) -> T:
        """Return what `act` returns with the open channel; again while that is of use."""
        self._enter_loop()
        attempts = first_attempt(
            self.timeout if timeout is None else check_timeout(timeout),
            is_enabled=self.retries if retries is None else retries,
            has_met=self._has_met,
        )

        async def once(left: float) -> T:
            channel = await self._open(attempts, left)
            return await act(channel, attempts, attempts.left(time.monotonic()))

        try:
            return await async_repeat(attempts, once, sleep=self._pause)
        finally:
            self._has_met = self._has_met or not attempts.is_alone

    def _enter_loop(self) -> None:
        """Belong to this event loop, or refuse to be used in another one."""
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise StateError(
                "An AsyncClient belongs to the event loop of its first call, and this is another "
                "one: make a client in each event loop, or share one Client between threads."
            )

    async def _pause(self, seconds: float) -> None:
        """Sleep, at most until the client is closed."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)

    async def _open(self, attempts: Attempts, timeout: float) -> AsyncChannel:
        """Return the open channel; the first call of all opens it."""
        if self._channel is not None:
            return self._channel
        try:
            await asyncio.wait_for(self._lock.acquire(), timeout)
        except asyncio.TimeoutError as exc:
            raise DeadlineExceeded(
                f"no connection to {self._given} within {timeout:.3g} s"
            ) from exc
        try:
            if self._channel is None:
                attempts.is_alone = True
                self._channel = await self._connect(timeout)
                attempts.is_alone = False
            return self._channel
        finally:
            self._lock.release()

    async def _connect(self, timeout: float) -> AsyncChannel:
        """Return a channel that is open."""
        if self._closed.is_set():
            raise client_closed()
        address = find_address(self._given)
        channel: AsyncChannel
        if is_http(address):
            channel = AsyncHttpChannel(address)
        else:
            channel = AsyncDirectChannel(address, find=finder(self._given))
        self._opening = asyncio.ensure_future(channel.open(min(timeout, OPEN_SECONDS)))
        try:
            await self._opening
        except asyncio.CancelledError:
            if self._closed.is_set():
                raise client_closed() from None
            raise
        finally:
            self._opening = None
        if self._closed.is_set():
            await channel.close()
            raise client_closed()
        self._finalizer = weakref.finalize(
            self, _let_go, channel, asyncio.get_running_loop(), process=os.getpid()
        )
        self._finalizer.atexit = False
        return channel


def _let_go(channel: AsyncChannel, loop: asyncio.AbstractEventLoop, *, process: int) -> None:
    """Close the connections of a client that nobody has closed, in their event loop.

    A garbage collector may call this in any thread. Once the event loop is closed its
    transports and sockets are closed by finalizers of their own.
    """
    if process != os.getpid() or loop.is_closed():
        return
    with contextlib.suppress(RuntimeError):  # it is closed meanwhile
        loop.call_soon_threadsafe(lambda: loop.create_task(channel.close()))
    warnings.warn(f"An AsyncClient of {channel.address} was not closed", ResourceWarning, 2)
