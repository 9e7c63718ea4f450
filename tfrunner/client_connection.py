"""The client's connections over HTTP: requests exchanged for replies, within a timeout.

httpcore's pool is used directly: a lone call over it takes 0.27 ms where httpx takes 0.43 ms,
and its backend can be bounded. A timeout of either holds for each single read; the backend
here counts one budget down over all of them, so that a server which sends a byte now and
then cannot keep a caller beyond its timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import httpcore

from tfrunner import packing
from tfrunner.client_http import HttpCalls, HttpReply, HttpRequest, Steps
from tfrunner.client_models import ModelCall, ModelState
from tfrunner.errors import (
    ConfigError,
    DeadlineExceeded,
    ProtocolError,
    TFRunnerError,
    Unavailable,
)

T = TypeVar("T")

MAX_CONNECTIONS = 100
KEEPALIVE_SECONDS = 3.0
"""Shorter than a server keeps an idle connection, so that none is used while it closes."""

WRITE_BYTES = 65536
MAX_TIMEOUT = 1e6
"""Seconds; a server refuses more."""

_LATE = "no answer from {address} within {timeout:.3g} s"
_TRANSLATIONS: tuple[tuple[type[Exception], type[TFRunnerError], str], ...] = (
    (asyncio.TimeoutError, DeadlineExceeded, _LATE),
    (httpcore.TimeoutException, DeadlineExceeded, _LATE),
    (
        httpcore.ConnectError,
        Unavailable,
        "nothing answers at {address} ({reason}). Start a server with `tfrunner serve <model>`, "
        "or give the address of one that runs.",
    ),
    (
        httpcore.NetworkError,
        Unavailable,
        "the connection to {address} was lost before the answer came ({reason}). Try again.",
    ),
    (
        httpcore.RemoteProtocolError,
        Unavailable,
        "{address} did not answer in HTTP, or closed the connection ({reason}). Try again.",
    ),
    (httpcore.LocalProtocolError, ProtocolError, "the request cannot be sent: {reason}"),
    (httpcore.UnsupportedProtocol, ConfigError, "{address} cannot be called: {reason}"),
)
_TRANSLATED = tuple(kind for kind, _, _ in _TRANSLATIONS)


def _translate(exc: Exception, address: str, timeout: float) -> NoReturn:
    """Raise the error of ours that an error of the connection stands for."""
    for kind, ours, message in _TRANSLATIONS:
        if isinstance(exc, kind):
            reason = str(exc) or type(exc).__name__
            text = message.format(address=address, timeout=timeout, reason=reason)
            raise ours(text) from exc
    raise exc


class _Budget(float):
    """The seconds that a call may take in all; `left` counts them down."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def left(self, late: type[httpcore.TimeoutException]) -> float:
        """Return the seconds that are left, or raise `late`."""
        left = self._moment - time.monotonic()
        if left <= 0:
            raise late("the timeout passed")
        return left

    def extensions(self) -> dict[str, Any]:
        """Return what tells httpcore to use this budget for everything."""
        return {"timeout": dict.fromkeys(("pool", "connect", "read", "write"), self)}


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose reads and writes share the budget of the call they are for."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if isinstance(timeout, _Budget):
            timeout = timeout.left(httpcore.ReadTimeout)
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pieces = memoryview(buffer)
        for start in range(0, len(pieces), WRITE_BYTES):
            left = timeout.left(httpcore.WriteTimeout) if isinstance(timeout, _Budget) else timeout
            self._inner.write(bytes(pieces[start : start + WRITE_BYTES]), left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _BoundedStream(self._inner.start_tls(*args, **kwargs))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _BoundedBackend(httpcore.NetworkBackend):
    """Connects as httpcore does, to streams that share a budget."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if isinstance(timeout, _Budget):
            timeout = timeout.left(httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _BoundedStream(stream)


class HttpChannel:
    """Connections to one server, shared by any number of threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls = HttpCalls()
        self._pool = httpcore.ConnectionPool(
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_BoundedBackend(),
        )

    def run(self, steps: Steps[T], *, timeout: float) -> T:
        """Perform the steps of a call; return its result.

        Raises:
            TFRunnerError: What went wrong, no later than `timeout` seconds from now.
        """
        deadline = time.monotonic() + timeout
        try:
            request = next(steps)
            while True:
                try:
                    reply = self._exchange(request, deadline, timeout)
                except TFRunnerError as exc:
                    request = steps.throw(exc)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _exchange(self, request: HttpRequest, deadline: float, timeout: float) -> HttpReply:
        left = deadline - time.monotonic()
        try:
            return _reply(
                self._pool.request(
                    request.verb,
                    self.address + request.path,
                    headers=_headers(request, left),
                    content=request.body or None,
                    extensions=_Budget(left).extensions(),
                )
            )
        except _TRANSLATED as exc:
            _translate(exc, self.address, timeout)

    def open(self, timeout: float) -> None:
        """Connections are made when they are first needed."""

    def predict(self, call: ModelCall, timeout: float) -> Any:
        """Return the outputs of a call."""
        return self.run(self._calls.predict(call), timeout=timeout)

    def models(self, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        return self.run(self._calls.models(), timeout=timeout)

    def is_ready(self, model: str | None, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        return self.run(self._calls.is_ready(model), timeout=timeout)

    def status(self, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return self.run(self._calls.status(), timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncHttpChannel:
    """Connections to one server, for one event loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls = HttpCalls()
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS
        )

    async def run(self, steps: Steps[T], *, timeout: float) -> T:
        """Perform the steps of a call; return its result.

        Raises:
            TFRunnerError: What went wrong, no later than `timeout` seconds from now.
        """
        deadline = time.monotonic() + timeout
        try:
            request = next(steps)
            while True:
                try:
                    reply = await self._exchange(request, deadline, timeout)
                except TFRunnerError as exc:
                    request = steps.throw(exc)
                else:
                    request = steps.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _exchange(self, request: HttpRequest, deadline: float, timeout: float) -> HttpReply:
        left = deadline - time.monotonic()
        exchange = self._pool.request(
            request.verb,
            self.address + request.path,
            headers=_headers(request, left),
            content=request.body or None,
        )
        try:
            return _reply(await asyncio.wait_for(exchange, left))
        except _TRANSLATED as exc:
            _translate(exc, self.address, timeout)

    async def open(self, timeout: float) -> None:
        """Connections are made when they are first needed."""

    async def predict(self, call: ModelCall, timeout: float) -> Any:
        """Return the outputs of a call."""
        return await self.run(self._calls.predict(call), timeout=timeout)

    async def models(self, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        return await self.run(self._calls.models(), timeout=timeout)

    async def is_ready(self, model: str | None, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        return await self.run(self._calls.is_ready(model), timeout=timeout)

    async def status(self, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return await self.run(self._calls.status(), timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def _headers(request: HttpRequest, left: float) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request; `left` is what the server may take, in seconds."""
    headers = [(b"User-Agent", b"tfrunner"), (b"Connection", b"keep-alive")]
    headers.append((b"X-Request-Timeout", f"{min(max(left, 0.001), MAX_TIMEOUT):.3f}".encode()))
    if request.body:
        headers.append((b"Content-Type", packing.CONTENT_TYPE.encode()))
    return headers


def _reply(response: httpcore.Response) -> HttpReply:
    headers = {name.lower(): value for name, value in response.headers}
    return HttpReply(response.status, headers, response.content)
