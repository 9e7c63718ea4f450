"""The client for an event loop; `tfrunner.client` has the one for threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar, Union

from tfrunner import config
from tfrunner.attempts import OPEN_SECONDS, Attempts, async_repeat, first_attempt
from tfrunner.client_address import describe, find_address, finder, is_http
from tfrunner.client_connection import AsyncHttpChannel, http_channel
from tfrunner.client_direct import AsyncDirectChannel
from tfrunner.client_models import ModelCall, ModelState, check_timeout
from tfrunner.errors import DeadlineExceeded, NotFound, StateError, Unavailable

T = TypeVar("T")
AsyncChannel = Union[AsyncHttpChannel, AsyncDirectChannel]


class AsyncClient:
    """Calls a server from an event loop; an async context manager. Otherwise as `Client`."""

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
        self._channel: AsyncChannel | None = None
        self._has_met = False
        self._is_closed = False

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
        """Close the connections; calls that wait fail. Safe to repeat."""
        async with self._lock:
            channel, self._channel = self._channel, None
            self._is_closed = True
        if channel is not None:
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
        attempts = first_attempt(
            self.timeout if timeout is None else check_timeout(timeout),
            is_enabled=self.retries if retries is None else retries,
            has_met=self._has_met,
        )

        async def once(left: float) -> T:
            channel = await self._open(attempts, left)
            return await act(channel, attempts, attempts.left(time.monotonic()))

        try:
            return await async_repeat(attempts, once, sleep=asyncio.sleep)
        finally:
            self._has_met = self._has_met or not attempts.is_alone

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
            if self._is_closed:
                raise StateError("The client is closed; make a new one.")
            if self._channel is None:
                attempts.is_alone = True
                address = find_address(self._given)
                channel: AsyncChannel
                if is_http(address):
                    channel = AsyncHttpChannel(address)
                else:
                    channel = AsyncDirectChannel(address, find=finder(self._given))
                await channel.open(min(timeout, OPEN_SECONDS))
                attempts.is_alone = False
                self._channel = channel
            return self._channel
        finally:
            self._lock.release()
