"""What surrounds every exchange over HTTP: ids, headers, and what its end says of a request."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import ssl

import httpcore

from tfrunner import config
from tfrunner.attempts import Attempts
from tfrunner.client_http import HttpReply, HttpRequest, was_refused
from tfrunner.client_models import MAX_TIMEOUT
from tfrunner.errors import ConfigError, DeadlineExceeded, ProtocolError, TFRunnerError, Unavailable
from tfrunner.forks import OfProcess

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
TRANSLATED = tuple(kind for kind, _, _ in _TRANSLATIONS)
"""What an exchange of an event loop raises where it ends without a reply."""

OF_HTTPCORE = tuple(kind for kind in TRANSLATED if kind is not asyncio.TimeoutError)
"""What an exchange in a thread raises; a TimeoutError there is that of a signal's handler."""


def _translate(exc: BaseException, address: str, timeout: float) -> TFRunnerError:
    """Return the error of ours that an error of the connection stands for."""
    for kind, ours, message in _TRANSLATIONS:
        if isinstance(exc, kind):
            reason = str(exc) or type(exc).__name__
            return ours(message.format(address=address, timeout=timeout, reason=reason))
    raise exc


class _Ids:
    """The ids of one process's calls."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def new(self) -> str:
        """Return one that no other call has."""
        return f"{self._prefix}-{next(self._numbers):x}"


class Exchanges:
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
