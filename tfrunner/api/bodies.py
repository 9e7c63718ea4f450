"""Bodies of HTTP requests, read up to a limit."""

from __future__ import annotations

from tfrunner.api.replies import Receive
from tfrunner.errors import TooLarge


class ClientGone(Exception):
    """The connection ended before the request was whole."""


async def read_body(receive: Receive, limit: int, *, length: bytes | None) -> bytes:
    """Return the body of a request.

    Args:
        receive: ASGI's.
        limit: Most bytes; no more than these are ever held.
        length: The header Content-Length, None where there is none (chunks).

    Raises:
        TooLarge: It is larger; what is left of it is not read.
        ClientGone: The client went away.
    """
    if length is not None and int(length) > limit:
        raise _too_large(limit, f"{int(length)} bytes")
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) <= limit:
        return body
    return await _read_rest(receive, limit, body)


async def _read_rest(receive: Receive, limit: int, first: bytes) -> bytes:
    pieces, size, more = [first], len(first), True
    while more and size <= limit:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        piece = message.get("body", b"")
        pieces.append(piece)
        size += len(piece)
        more = message.get("more_body", False)
    if size > limit:
        raise _too_large(limit, "more")
    return b"".join(pieces)


def _too_large(limit: int, got: str) -> TooLarge:
    return TooLarge(
        f"the body has {got}; at most {limit} bytes are taken. Send fewer rows in one request, "
        "or raise the server's body limit."
    )
