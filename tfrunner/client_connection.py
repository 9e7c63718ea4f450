"""The client's connections over HTTP: requests exchanged for replies, within a timeout.

httpcore's pool is used directly: a lone call over it takes 0.27 ms where httpx takes 0.43 ms,
and its backend can be bounded (`client_budget`).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl
import sys
import time
from typing import Any, TypeVar

import httpcore

from tfrunner import config
from tfrunner.attempts import Attempts
from tfrunner.client_budget import BoundedPool, Budget
from tfrunner.client_http import HttpCalls, HttpReply, HttpRequest, Steps, was_refused
from tfrunner.client_models import MAX_TIMEOUT, ModelCall, ModelState
from tfrunner.client_pools import POOL_CONNECTIONS, Pools
from tfrunner.errors import (
    ConfigError,
    DeadlineExceeded,
    ProtocolError,
    StateError,
    TFRunnerError,
    Unavailable,
)
from tfrunner.forks import OfProcess

T = TypeVar("T")

KEEPALIVE_SECONDS = 3.0
"""Shorter than a server keeps an idle connection, so that none is used while it closes."""

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
        "the connection to {address} was lost before the answer came ({reason}).",
    ),
    (
        httpcore.RemoteProtocolError,
        Unavailable,
        "{address} did not answer in HTTP, or closed the connection ({reason}).",
    ),
    (httpcore.LocalProtocolError, ProtocolError, "the request cannot be sent: {reason}"),
    (httpcore.UnsupportedProtocol, ConfigError, "{address} cannot be called: {reason}"),
)
_TRANSLATED = tuple(kind for kind, _, _ in _TRANSLATIONS)
_OF_HTTPCORE = tuple(kind for kind in _TRANSLATED if kind is not asyncio.TimeoutError)
"""What an exchange in a thread raises; a TimeoutError there is that of a signal's handler."""


def _translate(exc: BaseException, address: str, timeout: float) -> TFRunnerError:
    """Return the error of ours that an error of the connection stands for."""
    for kind, ours, message in _TRANSLATIONS:
        if isinstance(exc, kind):
            reason = str(exc) or type(exc).__name__
            return ours(message.format(address=address, timeout=timeout, reason=reason))
    raise exc


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


class _Ids:
    """The ids of one process's calls."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """Return one that no other call has."""
        return f"{self._prefix}-{next(self._numbers):x}"


class _Exchanges:
    """What happens around every exchange: ids, headers, and what its end says of the request."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ids: OfProcess[_Ids] = OfProcess(_Ids)
        key = config.api_key()
        self._own = [(b"Authorization", b"Bearer " + key.encode())] if key else []

    def new_id(self) -> str:
        """Return the id of a call, by which the server's log knows it too."""
        return self._ids.get().new()

    def headers(self, request: HttpRequest, left: float, id: str) -> list[tuple[bytes, bytes]]:
        """Return the headers of a request; `left` is what the server may take, in seconds."""
        headers = [(b"User-Agent", b"tfrunner"), (b"Connection", b"keep-alive"), *self._own]
        seconds = f"{min(max(left, 0.001), MAX_TIMEOUT):.3f}"
        headers += [(b"X-Request-Timeout", seconds.encode()), (b"X-Request-Id", id.encode())]
        if request.body:
            headers.append((b"Content-Type", request.content_type.encode()))
        return headers

    def failed(
        self, exc: BaseException, attempts: Attempts, *, is_closed: bool = False
    ) -> TFRunnerError:
        """Return what an exchange that ended without a reply is raised as.

        Once there is a connection, the server may have read the whole request.
        """
        if is_closed:
            attempts.may_have_run = True
            return Unavailable("the client was closed before the answer came.")
        attempts.is_alone = isinstance(exc, httpcore.ConnectError)
        attempts.may_have_run = not attempts.is_alone
        return _translate(exc, self._address, attempts.timeout)

    def replied(self, response: httpcore.Response, attempts: Attempts) -> HttpReply:
        """Return the reply; note whether it says that the request was not begun."""
        headers = {name.lower(): value for name, value in response.headers}
        reply = HttpReply(response.status, headers, response.content)
        attempts.may_have_run = reply.status in (502, 503) and not was_refused(reply)
        return reply


def make_tls(address: str) -> ssl.SSLContext | None:
    """Return whom a client trusts at an https address: the usual authorities, and the system's.

    $SSL_CERT_FILE names others, as everywhere where OpenSSL is used.
    """
    if not address.startswith("https:"):
        return None
    context = httpcore.default_ssl_context()
    context.load_default_certs()
    return context


class HttpChannel:
    """Connections to one server, shared by any number of threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._calls = HttpCalls()
        self._exchanges = _Exchanges(address)
        tls = make_tls(address)
        self._pools = Pools(
            lambda: BoundedPool(
                ssl_context=tls,
                max_connections=POOL_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            close=BoundedPool.close,
            harmless=_OF_HTTPCORE,
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
        except _OF_HTTPCORE as exc:
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
        self._exchanges = _Exchanges(address)
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
        except _TRANSLATED as exc:
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
