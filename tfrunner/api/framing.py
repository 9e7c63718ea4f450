"""What HTTP leaves to the one who receives a request: Upgrade, codings, answers without a length.

Functions of heads, and what stands between an application and uvicorn for HTTP/1.0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

import httptools

from tfrunner.errors import UnsupportedForm

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from tfrunner.api.replies import Header, Scope

UNCODED = (b"", b"identity")


def head_without_upgrade(
    method: bytes, url: bytes, version: str, headers: Iterable[Header]
) -> bytes:
    """Return the head of a request that asks for another protocol, as one that does not.

    A server may ignore Upgrade (RFC 9110, section 7.8); the request is then one like others.
    httptools takes no body after such a head: it would be read as the next request.

    Args:
        method: The verb.
        url: The target as it came.
        version: That of HTTP, as `1.1`.
        headers: Names in lower case, and values.
    """
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join((*lines, b"", b""))


def make_parser(protocol: object) -> Any:
    """Return a parser of requests as uvicorn makes them.

    Args:
        protocol: Is told what it finds.
    """
    parser = httptools.HttpRequestParser(protocol)
    with contextlib.suppress(AttributeError):  # before 0.6.3
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def find_transfer_coding(headers: Iterable[Header]) -> bytes | None:
    """Return the Transfer-Encoding of a head if it is another one than chunked alone.

    Args:
        headers: Names in lower case, and values.
    """
    given = b", ".join([value for name, value in headers if name == b"transfer-encoding"])
    return given if given and given.strip().lower() != b"chunked" else None


def check_coding(scope: Scope) -> None:
    """Refuse a body that is packed: its form says nothing about that.

    Raises:
        UnsupportedForm: Content-Encoding names a coding.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in UNCODED:
            raise UnsupportedForm(
                f"the body has Content-Encoding {value.decode('latin-1')!r}, which is not "
                "understood. Send it unpacked, without that header."
            )


class OpenEnded:
    """Sends answers to a client of HTTP/1.0, which knows no chunks.

    Where the length is not known, the end of the connection is that of the body (RFC 9112,
    section 6.3). uvicorn would send chunks.

    Args:
        cycle: uvicorn's, of one request.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._is_open = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer; stands in place of the cycle's own."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            headers = [each for each in message.get("headers", ()) if _may_be_sent(each)]
            message = {**message, "headers": headers}
            self._is_open = not any(name.lower() == b"content-length" for name, _ in headers)
            if self._is_open:
                cycle.chunked_encoding = False
                cycle.keep_alive = False
        elif self._is_open:
            cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)  # type: ignore[arg-type]


def _may_be_sent(header: Header) -> bool:
    """Whether a client of HTTP/1.0 knows it: all but Transfer-Encoding."""
    return header[0].lower() != b"transfer-encoding"
