"""The heads of predict requests: what they say, read once and remembered.

Nearly every request of a client has the same head but for its Content-Length. So a head is
looked up as it is on the wire, without that number; httptools reads the ones that are new.
What has any other form than a plain predict request is None here: uvicorn takes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

import httptools

END = b"\r\n\r\n"
LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""The two ways in which nearly all clients write it; others are read by uvicorn."""

MOST_DIGITS = 15
LONGEST = 2048
"""Bytes of a head that is looked at here."""

MOST_KNOWN = 512
"""Heads that are remembered: a megabyte at most."""

ELSEWHERE = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"content-encoding"))
"""Headers that make more of a request than a head and so many bytes, or have it refused."""


class Head(NamedTuple):
    """What the head of a predict request says.

    Args:
        path: Where it goes, decoded.
        keep_alive: Whether the connection may stay open.
        request_id: The caller's id; this and what follows is None or empty if it is not there.
        timeout: X-Request-Timeout.
        content_type: The form of the body.
        accept: The forms that the answer may have.
        method: X-Method, for bodies that cannot name the model's method.
        dtype: X-Tensor-Dtype, for bodies that are nothing but a tensor's bytes.
        shape: X-Tensor-Shape.
        client: X-Client: whose share of the workers' time it is counted against.
        priority: X-Priority.
        server_timing: X-Server-Timing: the answer shall say where the time went.
        authorization: Authorization, which may hold an API key.
        api_key: X-Api-Key.
        origin: Origin: of which site the page is that asks.
        traceparent: The span that this request is a part of, as W3C Trace Context has it.
        tracestate: What else belongs to it.
    """

    path: str
    keep_alive: bool = True
    request_id: bytes | None = None
    timeout: bytes | None = None
    content_type: bytes = b""
    accept: bytes = b""
    method: bytes | None = None
    dtype: bytes | None = None
    shape: bytes | None = None
    client: bytes = b""
    priority: bytes | None = None
    server_timing: bytes | None = None
    authorization: bytes = b""
    api_key: bytes = b""
    origin: bytes = b""
    traceparent: bytes = b""
    tracestate: bytes = b""

    def method_name(self) -> str | None:
        """Return the model's method that X-Method names; None: the default one."""
        return None if self.method is None else self.method.decode("latin-1")


FIELDS = {
    b"x-request-id": "request_id",
    b"x-request-timeout": "timeout",
    b"content-type": "content_type",
    b"x-method": "method",
    b"x-tensor-dtype": "dtype",
    b"x-tensor-shape": "shape",
    b"x-client": "client",
    b"x-priority": "priority",
    b"x-server-timing": "server_timing",
    b"authorization": "authorization",
    b"x-api-key": "api_key",
    b"origin": "origin",
    b"traceparent": "traceparent",
    b"tracestate": "tracestate",
}


def make_head(
    path: str, headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool = True
) -> Head:
    """Return the head of a request with these headers, their names in lower case."""
    given = {FIELDS[name]: value for name, value in headers if name in FIELDS}
    accept = b",".join([value for name, value in headers if name == b"accept"])
    return Head(path, keep_alive, accept=accept, **given)


class Found(NamedTuple):
    """A predict request in some bytes: its head, and where its body is."""

    head: Head
    start: int
    length: int


class Heads:
    """Finds predict requests in what clients send."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head | None] = {}

    def __repr__(self) -> str:
        return f"<Heads [{len(self._known)} known]>"

    def find(self, data: bytes, place: int = 0) -> Found | None:
        """Return the predict request at a place; None: what is there is for uvicorn.

        Args:
            data: What came.
            place: Where a request may begin.
        """
        end = data.find(END, place, place + LONGEST) + len(END)
        if end < len(END):
            return None
        for name in LENGTHS:
            begin = data.find(name, place, end)
            if begin >= 0:
                break
        else:
            return None
        begin += len(name)
        stop = data.index(b"\r", begin)
        digits = data[begin:stop]
        if not digits.isdigit() or len(digits) > MOST_DIGITS:
            return None
        key = data[place:begin] + data[stop:end]
        try:
            head = self._known[key]
        except KeyError:
            head = read_head(data[place:end], digits)
            self._remember(key, head)
        return None if head is None else Found(head, end, int(digits))

    def _remember(self, key: bytes, head: Head | None) -> None:
        if head is not None and (head.request_id is not None or head.traceparent):
            return  # it will not come again
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[key] = head


class _Reader:
    """Takes what httptools reports."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def read_head(data: bytes, length: bytes) -> Head | None:
    """Return what a whole head says; None if it is not that of a plain predict request.

    Args:
        data: The head, up to and with its empty line.
        length: The digits after its first Content-Length.
    """
    # httptools refuses a lone CR or LF (0.6.0 to 0.9.0 do). For a parser that is more lenient
    # the head might end elsewhere than here, and what follows be another request.
    if not data.count(b"\r\n") == data.count(b"\r") == data.count(b"\n"):
        return None
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(data)
        path = httptools.parse_url(reader.url).path.decode("ascii")
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError, AttributeError):
        return None
    lengths = [value for name, value in reader.headers if name == b"content-length"]
    if parser.get_method() != b"POST" or lengths != [length]:
        return None
    if any(name in ELSEWHERE for name, _ in reader.headers) or parser.should_upgrade():
        return None
    path = unquote(path) if "%" in path else path
    if not path.endswith(":predict"):
        return None
    keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
    return make_head(path, reader.headers, keep_alive=keep_alive)
