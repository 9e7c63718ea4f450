"""The client over HTTP when the other end answers late, wrongly, or not at all."""

from __future__ import annotations

import asyncio
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from starlette.responses import Response

from tests.client_world import http_server, model, rows, socket_server
from tfrunner import packing
from tfrunner.client import AsyncClient, Client
from tfrunner.client_http import HttpCalls
from tfrunner.client_models import ModelCall
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    ProtocolError,
    TFRunnerError,
    TooLarge,
    Unavailable,
)

Ask = Callable[..., Any]


def ask_sync(address: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """Make one call with a Client."""
    with Client(address, timeout=10, retries=False) as client:
        return getattr(client, name)(*args, **kwargs)


def ask_async(address: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """Make one call with an AsyncClient."""

    async def story() -> Any:
        async with AsyncClient(address, timeout=10, retries=False) as client:
            return await getattr(client, name)(*args, **kwargs)

    return asyncio.run(story())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Give one call with either client."""
    return request.param


# --- what a reply means -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (
            Response('{"error": "full", "code": "overloaded"}', 503, {"retry-after": "2"}),
            Overloaded,
            "full",
        ),
        (Response('{"error": "no such route"}', 404), NotFound, "no such route"),
        (Response("<html>Bad Gateway</html>", 502), Unavailable, "status 502: <html>Bad"),
        (Response("", 413), TooLarge, "status 413: no text"),
        (Response(b"\xff\xfe", 504), DeadlineExceeded, "504"),
        (Response("I am a teapot", 418), TFRunnerError, "418: I am a teapot"),
        (Response('{"error": "new", "code": "of a newer server"}', 400), InvalidInput, "new"),
    ],
    ids=["ours", "no code", "proxy", "empty", "no text", "other", "unknown code"],
)
def test_an_error_reply_becomes_the_class_it_stands_for(ask, reply, kind, text):
    """By its code, else by its status."""
    with http_server() as server:
        server.answer = lambda: reply
        with pytest.raises(TFRunnerError, match=text) as caught:
            ask(server.address, "predict", "echo", rows())
    assert type(caught.value) is kind
    assert caught.value.retry_after == (2.0 if kind is Overloaded else None)


@pytest.mark.parametrize(
    ("headers", "retry_after", "request_id"),
    [
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, "[0-9a-f]{12}-1"),
        ({"retry-after": "1.5", "x-request-id": "abc"}, 1.5, "abc"),
    ],
)
def test_what_the_headers_say_is_kept(headers, retry_after, request_id):
    """A date is allowed in Retry-After, and passed over; the client's own id is sent."""
    with http_server() as server:
        server.answer = lambda: Response("later", 503, headers)
        with pytest.raises(Unavailable) as caught:
            ask_sync(server.address, "models")
    assert caught.value.retry_after == retry_after
    assert re.fullmatch(request_id, str(caught.value.request_id))


class Bomb:
    """Its pickle, when opened, ends the test."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb(
            {
                "outputs": {
                    b"nd": True,
                    b"type": "|O",
                    b"kind": b"O",
                    b"shape": [1],
                    b"data": pickle.dumps(Bomb()),
                }
            }
        ),
        msgpack.packb([1]),
        msgpack.packb({"predictions": 1}),
        b"\xc1",
    ],
    ids=["pickle", "a list", "no outputs", "no msgpack"],
)
def test_an_answer_that_is_none_is_refused(body):
    """A server cannot make the client open a pickle."""
    with http_server() as server, Client(server.address) as client:
        client.predict("echo", rows())
        server.answer = lambda: Response(body, media_type=packing.CONTENT_TYPE)
        with pytest.raises(ProtocolError):
            client.predict("echo", rows())


def test_a_specification_that_is_none_is_refused(ask):
    """JSON of another form is no metadata."""
    with http_server() as server:
        server.answer = lambda: Response('{"model_spec": {}}')
        with pytest.raises(ProtocolError, match="not what was asked for"):
            ask(server.address, "predict", "echo", rows())


def test_names_are_quoted_in_the_path():
    """A name cannot lead to another route."""
    request = next(HttpCalls().predict(ModelCall("../a b?c:d/e", None, (), {})))
    assert request.path == "/v1/models/..%2Fa%20b%3Fc/versions/d%2Fe/metadata"


def test_the_wire_carries_what_the_specification_asks_for():
    """The input is cast before it is sent, and named; the method too."""
    with http_server() as server, Client(server.address) as client:
        client.predict("echo", [[1, 2]])
        _, _, body = server.requests[-1]
    assert body["method"] == "__call__"
    assert body["inputs"]["x"].dtype == np.float32


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    """The address that was given is called, and no other."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with http_server() as server, Client(server.address) as client:
        assert client.is_ready()


# --- connections ------------------------------------------------------------------------------


def test_nothing_at_the_address_is_said_at_once(ask):
    """Unavailable: what was tried, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Unavailable, match=r"nothing answers at http://127.*tfrunner serve"):
        ask(address, "predict", "echo", rows())
    assert ask(address, "is_ready") is False
    assert ask(address, "is_ready", "echo") is False


@pytest.mark.parametrize(
    ("reply", "text"),
    [(b"", "closed the connection"), (b"SSH-2.0-x\r\n", "did not answer in HTTP")],
    ids=["nothing", "not HTTP"],
)
def test_a_connection_that_ends_without_an_answer_is_unavailable(ask, reply, text):
    """The caller may try again."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(reply)

    with socket_server(talk) as address, pytest.raises(Unavailable, match=text):
        ask(address, "models")


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Give an event that is set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("part", ["headers", "body", "nothing"])
def test_a_reply_that_never_ends_ends_at_the_timeout(ask, let_go, part):
    """A byte now and then does not keep the caller: the timeout is for the whole call."""
    begin = {
        "headers": b"HTTP/1.1 200 OK\r\nx: ",
        "body": b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
        "nothing": b"",
    }[part]

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(begin)
        while not let_go.wait(0.05):
            if part != "nothing":
                connection.sendall(b"a")

    with socket_server(talk) as address:
        with pytest.raises(DeadlineExceeded, match=r"within 0.3 s"):
            ask(address, "models", timeout=0.3)
        let_go.set()


def test_a_server_that_does_not_read_ends_at_the_timeout(ask, let_go):
    """A large input cannot leave: the same timeout holds."""
    spec = msgspec.json.encode(model())
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(spec)}\r\n\r\n".encode()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head + spec)
        let_go.wait()

    big = np.zeros((4_000_000, 2), "float32")
    with socket_server(talk) as address:
        with pytest.raises(DeadlineExceeded):
            ask(address, "predict", "echo", big, timeout=1)
        let_go.set()


def test_a_connection_that_the_server_has_closed_is_not_used_again():
    """Kept connections are checked: the next call opens a new one."""
    closed = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n" + b'{"models":[]}')
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # returns when the client has seen the end
        closed.set()

    with socket_server(talk) as address, Client(address) as client:
        assert client.models() == []
        assert client.models() == []
    assert closed.is_set()
