"""The client's connections over HTTP: requests exchanged for replies, within a timeout.

httpcore's pool is used directly: a lone call over it takes 0.27 ms where httpx takes 0.43 ms,
and its backend can be bounded (`client_budget`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, TypeVar

import httpcore

from tfrunner.attempts import Attempts
from tfrunner.client_budget import BoundedPool, Budget
from tfrunner.client_exchanges import OF_HTTPCORE, TRANSLATED, Exchanges, make_tls
from tfrunner.client_http import HttpCalls, HttpReply, HttpRequest, Steps
from tfrunner.client_models import ModelCall, ModelState
from tfrunner.client_pools import POOL_CONNECTIONS, Pools
from tfrunner.errors import StateError, TFRunnerError

T = TypeVar("T")

KEEPALIVE_SECONDS = 3.0
"""Shorter than a server keeps an idle connection, so that none is used while it closes."""


def http_channel(channel: object, kind: type[T]) -> T:
    """Return a channel that speaks HTTP.

    Raises:
        StateError: It speaks to the dispatcher, which knows no endpoints.
    """
    if not isinstance(channel, kind):
        raise StateError(
            "Endpoints of Services are called over HTTP: make the client with the server's "
            "address, Client('http://127.0.0.1:8000')."
        )
    return channel


class HttpChannel:
    """Connections to one server, shared by any number of threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls = HttpCalls()
        self._exchanges = Exchanges(address)
        tls = make_tls(address)
        self._pools = Pools(
            lambda: BoundedPool(
                ssl_context=tls,
                max_connections=POOL_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            close=BoundedPool.close,
            harmless=OF_HTTPCORE,
        )

    def run(self, steps: Steps[T], attempts: Attempts, timeout: float) -> T:
        """Perform the steps of a call; return its result.

        Raises:
            TFRunnerError: What went wrong, no later than `timeout` seconds from now.
        """
        deadline = time.monotonic() + timeout
        id = self._exchanges.new_id()
        try:
            request = next(steps)
            while True:
                attempts.is_repeatable = request.is_repeatable
                try:
                    reply = self._exchange(request, attempts, id, deadline)
                except TFRunnerError as exc:
                    request = steps.throw(exc)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except TFRunnerError as exc:
            exc.request_id = exc.request_id or id
            raise

    def _exchange(
        self, request: HttpRequest, attempts: Attempts, id: str, deadline: float
    ) -> HttpReply:
        left = deadline - time.monotonic()
        try:
            with self._pools.use() as pool:
                response = pool.request(
                    request.verb,
                    self.address + request.path,
                    headers=self._exchanges.headers(request, left, id),
                    content=request.body or None,
                    extensions=Budget(left).extensions(),
                )
        except OF_HTTPCORE as exc:
            is_closed = self._pools.is_closed
            raise self._exchanges.failed(exc, attempts, is_closed=is_closed) from exc
        return self._exchanges.replied(response, attempts)

    def open(self, timeout: float) -> None:
        """Connections are made when they are first needed."""

    def predict(self, call: ModelCall, attempts: Attempts, timeout: float) -> Any:
        """Return the outputs of a call."""
        return self.run(self._calls.predict(call), attempts, timeout)

    def call(self, endpoint: str, value: Any, attempts: Attempts, timeout: float) -> Any:
        """Return what an endpoint of a Service answers."""
        return self.run(self._calls.call(endpoint, value), attempts, timeout)

    def models(self, attempts: Attempts, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        return self.run(self._calls.models(), attempts, timeout)

    def is_ready(self, model: str | None, attempts: Attempts, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        return self.run(self._calls.is_ready(model), attempts, timeout)

    def status(self, attempts: Attempts, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return self.run(self._calls.status(), attempts, timeout)

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        for pool in self._pools.end():
            pool.shut()


class AsyncHttpChannel:
    """Connections to one server, for one event loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls = HttpCalls()
        self._exchanges = Exchanges(address)
        self._closing: list[httpcore.AsyncConnectionPool] = []
        self._under_way: set[asyncio.Task[Any]] = set()
        tls = make_tls(address)
        self._pools = Pools(
            lambda: httpcore.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=POOL_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            close=self._closing.append,
            harmless=(BaseException,),  # one thread at a time, and no signal's handler in between
        )

    async def run(self, steps: Steps[T], attempts: Attempts, timeout: float) -> T:
        """Perform the steps of a call; return its result.

        Raises:
            TFRunnerError: What went wrong, no later than `timeout` seconds from now.
        """
        deadline = time.monotonic() + timeout
        id = self._exchanges.new_id()
        try:
            request = next(steps)
            while True:
                attempts.is_repeatable = request.is_repeatable
                try:
                    reply = await self._exchange(request, attempts, id, deadline)
                except TFRunnerError as exc:
                    request = steps.throw(exc)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        except TFRunnerError as exc:
            exc.request_id = exc.request_id or id
            raise

    async def _exchange(
        self, request: HttpRequest, attempts: Attempts, id: str, deadline: float
    ) -> HttpReply:
        left = deadline - time.monotonic()
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            with self._pools.use() as pool:
                exchange = pool.request(
                    request.verb,
                    self.address + request.path,
                    headers=self._exchanges.headers(request, left, id),
                    content=request.body or None,
                )
                response = await asyncio.wait_for(exchange, left)
        except TRANSLATED as exc:
            is_closed = self._pools.is_closed
            raise self._exchanges.failed(exc, attempts, is_closed=is_closed) from exc
        except asyncio.CancelledError as exc:
            if task in self._under_way or _is_cancelled_else(task):
                raise
            raise self._exchanges.failed(exc, attempts, is_closed=True) from None
        finally:
            self._under_way.discard(task)
        return self._exchanges.replied(response, attempts)

    async def open(self, timeout: float) -> None:
        """Connections are made when they are first needed."""

    async def predict(self, call: ModelCall, attempts: Attempts, timeout: float) -> Any:
        """Return the outputs of a call."""
        return await self.run(self._calls.predict(call), attempts, timeout)

    async def call(self, endpoint: str, value: Any, attempts: Attempts, timeout: float) -> Any:
        """Return what an endpoint of a Service answers."""
        return await self.run(self._calls.call(endpoint, value), attempts, timeout)

    async def models(self, attempts: Attempts, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        return await self.run(self._calls.models(), attempts, timeout)

    async def is_ready(self, model: str | None, attempts: Attempts, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        return await self.run(self._calls.is_ready(model), attempts, timeout)

    async def status(self, attempts: Attempts, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return await self.run(self._calls.status(), attempts, timeout)

    async def close(self) -> None:
        """Close the connections; what is under way fails.

        Cancelling ends it wherever it is: one that still connects has no connection to close.
        """
        under_way, self._under_way = self._under_way, set()
        for task in under_way:
            task.cancel()
        self._closing += self._pools.end()
        while self._closing:
            await self._closing.pop().aclose()


def _is_cancelled_else(task: asyncio.Task[Any]) -> bool:
    """Take back what `close` has asked a task; return whether somebody else cancelled it too.

    Python 3.10 does not count who did.
    """
    return sys.version_info >= (3, 11) and task.uncancel() > 0
