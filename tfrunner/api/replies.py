"""HTTP replies of the api process: their headers, their errors, the ids of requests."""

from __future__ import annotations

import itertools
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

import orjson

from tfrunner.errors import TFRunnerError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
ASK_FOR_KEY = ((b"www-authenticate", b'Bearer realm="tfrunner"'),)

_ID = re.compile(rb"[\x21-\x7e]{1,128}")
"""What is echoed as the id of a request: visible ASCII, no control characters, no blanks."""


class RequestIds:
    """Makes ids that no other process makes: random at the start, then counted."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6).encode()
        self._count = itertools.count(1)

    def make(self) -> bytes:
        """Return a new id."""
        return b"%s-%x" % (self._prefix, next(self._count))

    def take(self, given: bytes | None) -> bytes:
        """Return the id that the caller gave if it can be echoed, else a new one."""
        return given if given is not None and _ID.fullmatch(given) else self.make()


async def send_reply(
    send: Send,
    status: int,
    body: bytes,
    *,
    request_id: bytes,
    extra: tuple[Header, ...] = (),
) -> None:
    """Send a whole reply in JSON."""
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_body(error: TFRunnerError, request_id: bytes) -> bytes:
    """Return the JSON body of an error."""
    return orjson.dumps(
        {"error": error.message, "code": error.code, "request_id": request_id.decode()}
    )


def error_headers(error: TFRunnerError) -> tuple[Header, ...]:
    """Return Retry-After in whole seconds, at least 1, where it is known; what a 401 must have."""
    if error.retry_after is None:
        return ASK_FOR_KEY if error.status == 401 else ()
    return ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))),)


async def send_error(send: Send, error: TFRunnerError, *, request_id: bytes) -> None:
    """Send the reply for an error."""
    await send_reply(
        send,
        error.status,
        error_body(error, request_id),
        request_id=request_id,
        extra=error_headers(error),
    )


def write_error(
    error: TFRunnerError,
    request_id: bytes,
    *,
    status: int | None = None,
    default: bytes = b"",
    extra: Iterable[Header] = (),
) -> bytes:
    """Return the whole reply for an error as it goes over the wire.

    Args:
        error: What happened.
        request_id: The id that its caller knows.
        status: The status, where it is not the error's own.
        default: Header lines that every reply has.
        extra: More headers.
    """
    status = error.status if status is None else status
    body = error_body(error, request_id)
    lines = [
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"x-request-id: " + request_id,
        *(b"%s: %s" % header for header in (*error_headers(error), *extra)),
    ]
    first = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
    return first + default + b"\r\n".join((*lines, b"", body))


def unexpected() -> TFRunnerError:
    """Return what a caller is told about an error of ours: nothing but that there was one."""
    return TFRunnerError("an error inside the server; its log has the details under this id")
