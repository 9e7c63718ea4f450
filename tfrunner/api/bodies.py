"""Bodies of HTTP requests, read up to a limit."""

from __future__ import annotations

from tfrunner.api.replies import Receive
from tfrunner.api.state import Held
from tfrunner.errors import TooLarge


class ClientGone(Exception):
    """The connection ended before the request was whole."""


async def read_body(receive: Receive, limit: int, *, length: bytes | None, held: Held) -> bytes:
    """Return the body of a request.

    Args:
        receive: ASGI's.
        limit: Most bytes; no more than these are ever held.
        length: The header Content-Length, None where there is none (chunks).
        held: Told of what is held while the rest of the body is awaited.

    Raises:
        TooLarge: It is larger; what is left of it is not read.
        Overloaded: The process holds too much of other bodies.
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
    return await _read_rest(receive, limit, body, held)


async def _read_rest(receive: Receive, limit: int, first: bytes, held: Held) -> bytes:
    body, more, counted = bytearray(), True, 0
    piece = first
    try:
        while True:
            held.add(len(piece))
            counted += len(piece)
            body += piece
            if not more or len(body) > limit:
                break
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            piece, more = message.get("body", b""), message.get("more_body", False)
    finally:
        held.remove(counted)
    if len(body) > limit:
        raise _too_large(limit, "more")
    return bytes(body)


def _too_large(limit: int, got: str) -> TooLarge:
    return TooLarge(
        f"the body has {got}; at most {limit} bytes are taken. Send fewer rows in one request, "
        "or raise the server's body limit."
    )
