"""The direct way of predict requests: the same answers as through ASGI, in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api_world import LIMIT, FakeGateway, answer, serving, tensor
from tests.waiting import wait_for
from tfrunner import packing
from tfrunner.answer import Answer
from tfrunner.casting import Call
from tfrunner.specs import MethodSpec, ModelSpec

BEGIN = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
PAGE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def asking(number: float, *, method: str = "__call__", more: bytes = b"") -> bytes:
    """Return a request whose answer holds the number."""
    document = {"instances": [[number, number]], "signature_name": method}
    return with_body(json.dumps(document).encode(), more=more)


def with_body(body: bytes, *, more: bytes = b"") -> bytes:
    """Return a predict request with this body, and more header lines."""
    return BEGIN + more + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def in_chunks(number: float) -> bytes:
    """Return the same request as `asking`, with its body in chunks."""
    body = json.dumps({"instances": [[number, number]]}).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return BEGIN + b"Transfer-Encoding: chunked\r\n\r\n" + chunk


class Watching(FakeGateway):
    """Notes which requests were submitted by a task, which ASGI needs; may hold answers back."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.by_task: list[bool] = []
        self.held: list[asyncio.Future[Answer]] = []
        self.is_holding = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self, model: ModelSpec, method: MethodSpec, call: Call, **settings: Any
    ) -> asyncio.Future[Answer]:
        """Return the future of an answer."""
        self._loop = asyncio.get_running_loop()
        self.by_task.append(asyncio.current_task() is not None)
        future = super().submit(model, method, call, **settings)
        if not self.is_holding:
            return future
        held: asyncio.Future[Answer] = self._loop.create_future()
        held.add_done_callback(lambda done: future.done())
        held.answer = future.result()  # type: ignore[attr-defined]
        self.held.append(held)
        return held

    def release(self, index: int) -> None:
        """Let one answer go; returns when its turn of the event loop is over."""
        assert self._loop is not None
        done, held = threading.Event(), self.held[index]
        answer: Answer = held.answer  # type: ignore[attr-defined]
        self._loop.call_soon_threadsafe(held.set_result, answer)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(LIMIT)


@contextlib.contextmanager
def connect(address: str) -> Iterator[socket.socket]:
    """Connect as a plain HTTP client."""
    url = httpx.URL(address)
    with socket.create_connection((url.host, url.port), LIMIT) as made:
        yield made


def receive(connection: socket.socket, count: int) -> list[tuple[bytes, bytes]]:
    """Return the next replies, each its head and its body."""
    file, replies = connection.makefile("rb"), []
    for _ in range(count):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            assert line, f"the connection ended after {head!r}"
            head += line
        fields = dict(line.split(b": ") for line in head.lower().split(b"\r\n")[1:-2])
        replies.append((head, file.read(int(fields[b"content-length"]))))
    return replies


def numbers(replies: list[tuple[bytes, bytes]]) -> list[float]:
    """Return the first number of each answer; 0 for a page."""
    documents = [json.loads(body) for _, body in replies]
    return [each["predictions"][0][0] if "predictions" in each else 0.0 for each in documents]


# --- which requests it takes -------------------------------------------------------------------

PLAIN = asking(1.0)
TAKEN = {
    "whole": ([PLAIN], True),
    "the body later": ([PLAIN[:-20], PLAIN[-20:]], True),
    "in chunks": ([in_chunks(1.0)], False),
    "the head in two parts": ([PLAIN[:50], PLAIN[50:]], False),
    "told to go on": ([asking(1.0, more=b"Expect: 100-continue\r\n")], False),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_which_requests_go_past_asgi(name: str) -> None:
    """Those that are a head, which came at once, and so many bytes; none with middleware."""
    pieces, is_direct = TAKEN[name]
    for direct in (True, False):
        gateway = Watching()
        with serving(gateway, direct=direct) as address, connect(address) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
                with connect(address) as other:  # the piece before was read meanwhile
                    other.sendall(PAGE)
                    receive(other, 1)
            if b"Expect" in PLAIN + pieces[0]:
                assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert numbers(receive(connection, 1)) == [1.0]
        assert gateway.by_task == [not (direct and is_direct)]


SAME = {
    "an answer": asking(1.0),
    "columns": with_body(b'{"inputs": [[1, 2]]}'),
    "MessagePack": with_body(
        packing.pack({"inputs": {"x": np.ones((1, 2), "float32")}}),
        more=b"Content-Type: application/x-msgpack\r\n",
    ),
    "a tensor": with_body(
        np.ones((1, 2), "<f4").tobytes(),
        more=b"Content-Type: application/octet-stream\r\nX-Tensor-Dtype: float32\r\n"
        b"X-Tensor-Shape: 1,2\r\n",
    ),
    "the caller's id": asking(1.0, more=b"X-Request-Id: mine\r\n"),
    "no JSON": with_body(b"{"),
    "no body": with_body(b""),
    "an unknown model": PLAIN.replace(b"models/m", b"models/none"),
    "an unknown method": asking(1.0, method="nothing"),
    "a failing model": asking(1.0, method="fail"),
    "a full queue": asking(1.0, method="full"),
    "no answer in time": asking(1.0, method="late"),
    "an error of ours": asking(1.0, method="broken"),
    "a wrong timeout": asking(1.0, more=b"X-Request-Timeout: soon\r\n"),
    "too large": with_body(b" " * 2_000_000),
    "the last one": asking(1.0, more=b"Connection: close\r\n"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an unknown form": asking(1.0, more=b"Content-Type: image/png\r\n"),
    "a packed body": asking(1.0, more=b"Content-Encoding: gzip\r\n"),
    "another protocol": asking(1.0, more=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
}


def test_replies_are_those_of_the_other_way() -> None:
    """Head and body, byte for byte but for the date and ids of the server's own."""
    replies: dict[bool, list[tuple[bytes, bytes]]] = {True: [], False: []}
    for direct, found in replies.items():
        with serving(FakeGateway(), direct=direct) as address:
            for data in SAME.values():
                with connect(address) as connection:
                    connection.sendall(data)
                    ((head, body),) = receive(connection, 1)
                    found.append((plain(head), plain(body)))
                    if b"close" in head:
                        assert connection.recv(1) == b""
    for name, one, other in zip(SAME, replies[True], replies[False], strict=True):
        assert one == other, name


def plain(data: bytes) -> bytes:
    """Return a part of a reply without what differs between two of the same request."""
    parts = data.replace(b'"request_id":', b"\r\nx-request-id: ").split(b"\r\n")
    kept = [part for part in parts if not part.lower().startswith((b"date", b"x-request-id"))]
    mine = [part for part in parts if b"mine" in part]
    return b"\r\n".join(kept + mine)


# --- order -------------------------------------------------------------------------------------

STREAM = [
    *(asking(1.0), asking(2.0), PAGE, in_chunks(3.0), asking(4.0, more=b"X-Request-Id: a\r\n")),
    *(asking(5.0), PAGE, PAGE, asking(6.0), in_chunks(7.0)),
]
EXPECTED = [1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 0.0, 0.0, 6.0, 7.0]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of the module's server."""
    with serving(FakeGateway()) as address:
        yield address


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, sum(map(len, STREAM))), max_size=8), times=st.integers(1, 3))
def test_a_stream_may_be_cut_anywhere(address: str, cuts: list[int], times: int) -> None:
    """Requests of both ways on one connection: every one is answered, in order."""
    data = b"".join(STREAM) * times
    places = [0, *sorted(cuts), len(data)]
    with connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, stop in itertools.pairwise(places):
            connection.sendall(data[start:stop])
        assert numbers(receive(connection, len(EXPECTED) * times)) == EXPECTED * times


def test_requests_that_came_together_run_together_and_are_answered_in_order() -> None:
    """The second's answer waits for the first's."""
    gateway = Watching()
    gateway.is_holding = True
    with serving(gateway) as address, connect(address) as connection:
        connection.sendall(asking(1.0) + asking(2.0) + asking(3.0) + PAGE)
        wait_for(lambda: len(gateway.held) == 3, limit=LIMIT)
        for index in (2, 1):
            gateway.release(index)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(LIMIT)
        gateway.release(0)
        assert numbers(receive(connection, 4)) == [1.0, 2.0, 3.0, 0.0]
        gateway.is_holding = False
        connection.sendall(asking(4.0))
        assert numbers(receive(connection, 1)) == [4.0]
    assert gateway.by_task == [False] * 4


def test_what_follows_the_last_request_is_not_answered() -> None:
    """`Connection: close` ends it, whatever came with it."""
    gateway = Watching()
    with serving(gateway) as address, connect(address) as connection:
        connection.sendall(asking(1.0) + asking(2.0, more=b"Connection: close\r\n") + asking(3.0))
        assert numbers(receive(connection, 2)) == [1.0, 2.0]
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert len(gateway.by_task) == 2


def test_what_looks_like_a_request_inside_another_is_none() -> None:
    """In a head that came in parts, and in a body that was refused before its end."""
    gateway = Watching()
    with serving(gateway) as address, connect(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(BEGIN + b"X-Rest: ")
        with connect(address) as other:  # the piece before was read meanwhile
            other.sendall(PAGE)
            receive(other, 1)
        connection.sendall(asking(1.0) + PAGE)
        assert numbers(receive(connection, 2)) == [1.0, 0.0]
        assert gateway.by_task == [True]
        hidden = asking(2.0)
        size = 2_000_000
        connection.sendall(BEGIN + b"Content-Length: %d\r\n\r\n" % size)
        assert receive(connection, 1)[0][0].startswith(b"HTTP/1.1 413 ")
        connection.sendall(hidden)
        connection.sendall(b" " * (size - len(hidden)) + PAGE)
        assert numbers(receive(connection, 1)) == [0.0]
    assert gateway.by_task == [True]


# --- callers that go away, bodies that do not end ------------------------------------------------


def test_a_caller_that_goes_away_cancels_all_its_requests() -> None:
    """At once; others are answered."""
    gateway = Watching()
    gateway.is_holding = True
    with serving(gateway) as address:
        with connect(address) as connection:
            connection.sendall(asking(1.0))
            wait_for(lambda: len(gateway.held) == 1, limit=LIMIT)
        wait_for(gateway.held[0].cancelled, limit=LIMIT)
        gateway.is_holding = False
        with connect(address) as connection:
            connection.sendall(asking(2.0))
            assert numbers(receive(connection, 1)) == [2.0]


def test_a_large_body_comes_whole_and_is_not_held_for_long() -> None:
    """In pieces of any size; one that never ends is forgotten with its connection."""
    rows = np.arange(400_000, dtype="<f4").reshape(-1, 2)
    more = b"Content-Type: application/octet-stream\r\nX-Tensor-Dtype: float32\r\n"
    data = with_body(rows.tobytes(), more=more + b"X-Tensor-Shape: 200000,2\r\n")
    limit = 2 * rows.nbytes  # two that are not forgotten would fill it
    gateway = Watching()
    with serving(gateway, body_limit=limit, buffer_limit=limit) as address:
        for _ in range(3):
            with connect(address) as connection:
                connection.sendall(data[:-1000])
            with connect(address) as connection:
                for place in range(0, 100_000, 777):
                    connection.sendall(data[place : min(place + 777, 100_000)])
                connection.sendall(data[100_000:] + asking(5.0))
                first, second = receive(connection, 2)
                assert np.array_equal(np.frombuffer(first[1], "<f4").reshape(-1, 2), rows)
                assert b"x-tensor-shape: 200000,2\r\n" in first[0]
                assert numbers([second]) == [5.0]
                for _ in range(3):
                    connection.sendall(data)
                    assert receive(connection, 1)[0][1] == first[1]
    assert gateway.by_task == [False] * 15


def test_a_connection_does_not_keep_its_last_answer() -> None:
    """An idle connection costs no memory for what was answered on it."""
    answers: list[weakref.ref[Any]] = []

    def noting(method: MethodSpec, arrays: list[Any]) -> Answer:
        made = arrays[0].copy()
        answers.append(weakref.ref(made))
        return Answer([made], tensor("y", "float32", 1, 2))

    with serving(FakeGateway(answering=noting)) as address, connect(address) as connection:
        connection.sendall(asking(1.0))
        assert numbers(receive(connection, 1)) == [1.0]
        wait_for(lambda: answers[0]() is None, limit=LIMIT)


def test_a_slow_reader_gets_every_answer_in_order() -> None:
    """Answers wait until it has read those before; none is lost."""
    rows = np.full((1, 500_000), 1.5, "float32")
    gateway = Watching(answering=answer([rows], tensor("y", "float32", 1, 500_000)))
    with serving(gateway) as address, connect(address) as connection:
        connection.sendall(b"".join(asking(n, more=b"X-Request-Id: %d\r\n" % n) for n in range(8)))
        wait_for(lambda: len(gateway.by_task) == 8, limit=LIMIT)
        with connect(address) as other:  # until there was a turn for each of the answers
            for _ in range(10):
                other.sendall(PAGE)
                receive(other, 1)
        replies = receive(connection, 8)
    ids = [head.split(b"x-request-id: ")[1].split(b"\r\n")[0] for head, _ in replies]
    assert ids == [b"%d" % n for n in range(8)]
    assert {len(body) for _, body in replies} == {len(replies[0][1])}


def test_who_sends_without_reading_is_not_read_from() -> None:
    """Two requests in flight are enough for one connection; the rest stays with its sender."""
    gateway = Watching()
    gateway.is_holding = True
    data = with_body(b'{"instances": [[1, 2]]}' + b" " * 50_000)
    with serving(gateway) as address, connect(address) as connection, connect(address) as other:
        connection.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                sent += connection.send(data)
        for _ in range(20):  # it could have read all of that meanwhile
            other.sendall(PAGE)
            receive(other, 1)
        most = 2 * 2**18 // len(data)  # two reads of the largest size
        assert 1 <= len(gateway.held) <= most < sent // len(data)


def test_an_answer_that_cannot_be_written_fails_alone() -> None:
    """Its neighbours on the connection are answered."""
    gateway = FakeGateway(answering=refuse_two)
    with serving(gateway) as address, connect(address) as connection:
        connection.sendall(asking(1.0) + asking(2.0) + asking(3.0))
        replies = receive(connection, 3)
    assert [head.split()[1] for head, _ in replies] == [b"200", b"400", b"200"]
    assert json.loads(replies[1][1])["code"] == "invalid_input"


def refuse_two(method: MethodSpec, arrays: list[Any]) -> Answer:
    """Answer with what JSON cannot hold where the input is 2."""
    dtype = "complex64" if arrays[0][0, 0] == 2 else "float32"
    return Answer([arrays[0].astype(dtype)], tensor("y", dtype, 1, 2))
