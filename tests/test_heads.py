"""Heads of predict requests: read as uvicorn's parser reads them, or left to it."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner.api.heads import LONGEST, MOST_KNOWN, Heads

BEGIN = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
PLAIN = BEGIN + b"Content-Length: 5\r\n\r\n"


class Parsed:
    """What httptools makes of a stream of bytes, with the body of its first request."""

    def __init__(self, data: bytes) -> None:
        self.url, self.body = b"", b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.requests = 0
        self.is_whole = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.verb = parser.get_method()

    def on_message_begin(self) -> None:
        """Count."""
        self.requests += 1

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        if self.requests == 1:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if self.requests == 1:
            self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self.requests == 1:
            self.body += body

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_whole = True


def test_what_a_head_says() -> None:
    """Path, the headers that matter, where the body begins, and how long it is."""
    data = (
        b"POST /v1/models/%6d/versions/1:predict?a=1 HTTP/1.1\r\nHOST: x\r\ncontent-length: 12\r\n"
        b"Content-Type: application/x-npy\r\nX-Request-Id: abc\r\nX-REQUEST-TIMEOUT: 3\r\n"
        b"Accept: a/b\r\nAccept: c/d\r\nX-Method: other\r\nX-Tensor-Dtype: int8\r\n"
        b"X-Tensor-Shape: 2,3\r\n\r\nbody"
    )
    found = Heads().find(data)
    assert found is not None
    head, start, length = found
    assert (data[start:], length) == (b"body", 12)
    assert head.path == "/v1/models/m/versions/1:predict"
    assert (head.content_type, head.accept) == (b"application/x-npy", b"a/b,c/d")
    assert (head.request_id, head.timeout, head.method_name()) == (b"abc", b"3", "other")
    assert (head.dtype, head.shape, head.keep_alive) == (b"int8", b"2,3", True)


@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        (b"HTTP/1.1\r\n", True),
        (b"HTTP/1.1\r\nConnection: close\r\n", False),
        (b"HTTP/1.1\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.0\r\n", False),
        (b"HTTP/1.0\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_whether_a_connection_may_stay_open(begin: bytes, expected: bool) -> None:
    """As uvicorn decides it: HTTP/1.0 connections end."""
    found = Heads().find(b"POST /m:predict " + begin + b"Content-Length: 5\r\n\r\n")
    assert found is not None
    assert found.head.keep_alive is expected


OTHERS = {
    "another verb": PLAIN.replace(b"POST", b"PUT"),
    "another path": PLAIN.replace(b":predict", b":explain"),
    "chunks": BEGIN + b"Transfer-Encoding: chunked\r\n\r\n",
    "chunks and a length": BEGIN + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no length": BEGIN + b"\r\n",
    "a length that waits": BEGIN + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "an upgrade": BEGIN + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n",
    "two lengths": BEGIN + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "two different lengths": BEGIN + b"Content-Length: 5\r\ncontent-length: 50\r\n\r\n",
    "a length in another header": BEGIN + b"X: \r\n Content-Length: 5\r\n\r\n",
    "a signed length": BEGIN + b"Content-Length: +5\r\n\r\n",
    "a list of lengths": BEGIN + b"Content-Length: 5, 5\r\n\r\n",
    "a folded length": BEGIN + b"Content-Length: 5\r\n 6\r\n\r\n",
    "a large length": BEGIN + b"Content-Length: 1234567890123456\r\n\r\n",
    "line feeds alone": PLAIN.replace(b"Host: x\r\n", b"Host: x\n"),
    "an end of line feeds": BEGIN + b"Content-Length: 5\n\n\r\n\r\n",
    "no HTTP": b"NONSENSE\r\nContent-Length: 5\r\n\r\n",
    "not whole": PLAIN[:-1],
    "an empty line": b"\r\n\r\n" + PLAIN,
    "long": BEGIN + b"X: " + b"a" * LONGEST + b"\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_no_plain_predict_request_is_left_to_uvicorn(data: bytes) -> None:
    """Also when it comes again."""
    heads = Heads()
    assert heads.find(data) is None
    assert heads.find(data) is None


def test_a_head_is_known_by_all_but_its_length() -> None:
    """Another length, the same head; what was remembered says nothing of other heads."""
    heads = Heads()
    first = heads.find(PLAIN + b"hello")
    second = heads.find(PLAIN.replace(b"5", b"007") + b"hello")
    assert first is not None and second is not None
    assert (first.length, second.length) == (5, 7)
    assert second.head is first.head
    other = heads.find(PLAIN.replace(b"Host: x", b"Host: y"))
    assert other is not None and other.head is not first.head
    for wrong in (b"+7", b"7 7", b"7,7", b"", b"0x5", b"\xb2"):
        assert heads.find(PLAIN.replace(b"5", wrong)) is None


def test_few_heads_are_remembered() -> None:
    """Those with an id of their own are not; of others, only so many."""
    heads = Heads()
    for index in range(2 * MOST_KNOWN):
        assert heads.find(PLAIN.replace(b"Host: x", b"X-Request-Id: %d" % index)) is not None
    assert repr(heads) == "<Heads [0 known]>"
    for index in range(2 * MOST_KNOWN + 1):
        assert heads.find(PLAIN.replace(b"Host: x", b"Host: %d" % index)) is not None
    assert repr(heads) == "<Heads [1 known]>"


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(b"Content-Length: 5", b"content-length: 7", b"CONTENT-LENGTH: 3"),
                *(b"Content-Length:5", b"Content-Length: 5 ", b"X-Content-Length: 4"),
                *(b"Transfer-Encoding: chunked", b"Expect: 100-continue", b" folded"),
                *(b"Connection: close", b"Accept: a", b"X-Request-Id: 1", b"Host: a", b"\tb"),
                *(b"X: Content-Length: 9", b"X:\rContent-Length: 9", b"X:\nContent-Length: 9"),
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=6,
)


@given(lines=LINES, others=LINES, ending=st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n"]))
def test_what_is_found_is_what_the_parser_finds(
    lines: list[bytes], others: list[bytes], ending: bytes
) -> None:
    """Whatever stands in the heads, and whatever was remembered before: the same body."""
    heads = Heads()
    for chosen in (lines, others, [*lines, *others], lines):
        for length in (b"5", b"2"):
            head = b"\r\n".join((BEGIN[:-2], *chosen)) + ending
            check(heads, head.replace(b": 5", b": " + length) + b"helloPOST / HTTP/1.1\r\n\r\n")


def check(heads: Heads, data: bytes) -> None:
    """Compare what is found in the bytes with what httptools reports of them."""
    found = heads.find(data)
    if found is None:
        return
    expected: Any = Parsed(data[: found.start + found.length])
    assert expected.requests == 1
    assert expected.is_whole or len(data) < found.start + found.length
    assert expected.body == data[found.start : found.start + found.length]
    assert (expected.url, expected.verb) == (b"/v1/models/m:predict", b"POST")
    given_id = dict(expected.headers).get(b"x-request-id")
    assert found.head.request_id == given_id
