"""Answers piece by piece: when pieces leave, and how a stream ends before its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.api_world import LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner import Context, Service
from tfrunner.api.calls import Calls
from tfrunner.api.streaming import Streamed, in_threads
from tfrunner.deadlines import begin_request, bounded
from tfrunner.errors import ConfigError, Overloaded
from tfrunner.io import JSON, Text

KINDS = ("sync", "asynchronous", "returned", "returned_async")
IN_THREADS = ("sync", "returned")
"""Nothing stops what these are doing; they end with it."""


class World:
    """A Service that gives words, each when the test wants it."""

    def __init__(self) -> None:
        self.service = svc = Service("words", max_concurrency=2)
        self.go_on = threading.Semaphore(0)
        self.closed = threading.Event()
        self.kept: list[Any] = []  # so that what is closed is closed by the server

        def words(text: str) -> Iterator[str]:
            try:
                for word in text.split():
                    if word == "wait":
                        assert self.go_on.acquire(timeout=LIMIT)
                    elif word == "fail":
                        raise ValueError("a secret of the user")
                    elif word == "full":
                        raise Overloaded("no room")
                    elif word == "number":
                        yield 5  # type: ignore[misc]
                    else:
                        yield word + " "
            finally:
                self.closed.set()

        async def words_async(text: str) -> AsyncIterator[str]:
            try:
                for word in text.split():
                    if word == "wait":
                        while not self.go_on.acquire(blocking=False):
                            await asyncio.sleep(0.01)
                    elif word == "fail":
                        raise ValueError("a secret of the user")
                    elif word == "full":
                        raise Overloaded("no room")
                    elif word == "number":
                        yield 5  # type: ignore[misc]
                    else:
                        yield word + " "
            finally:
                await asyncio.sleep(0)
                self.closed.set()

        svc.api(Text(), Text(), name="sync")(words)
        svc.api(Text(), Text(), name="asynchronous")(words_async)

        @svc.api(Text(), Text("text/event-stream"))
        def returned(text: str, ctx: Context) -> Any:
            ctx.response.headers["X-Kind"] = "returned"
            ctx.response.set_cookie("seen", "yes")
            self.kept.append(words(text))
            return self.kept[-1]

        @svc.api(Text(), Text())
        async def returned_async(text: str) -> Any:
            self.kept.append(words_async(text))
            return self.kept[-1]

        @svc.api(Text(), Text())
        async def whole(text: str) -> str:
            return text


@pytest.fixture
def world() -> World:
    """Return the Service."""
    return World()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    """Return a client of its server."""
    with (
        serving(FakeGateway(), services=[world.service], timeout=LIMIT) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client
        world.go_on.release(100)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_leave_as_they_come(client: httpx.Client, world: World, kind: str) -> None:
    """The first one before the second exists; the function's iterator is closed at the end."""
    with client.stream("POST", f"/{kind}", content="one wait two") as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/")
        assert "content-length" not in reply.headers
        pieces = reply.iter_text()
        assert next(pieces) == "one "
        assert not world.closed.is_set()
        world.go_on.release()
        assert "".join(pieces) == "two "
    assert world.closed.wait(LIMIT)


def test_a_stream_has_headers_and_cookies(client: httpx.Client) -> None:
    """Those that the context was given, and the type of its descriptor."""
    reply = client.post("/returned", content="data")
    assert reply.text == "data "
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-kind"] == "returned"
    assert reply.cookies["seen"] == "yes"
    assert "x-request-id" in reply.headers


def test_text_may_be_whole_or_empty(client: httpx.Client) -> None:
    """A str is no stream of letters; a stream without pieces is an empty answer."""
    reply = client.post("/whole", content="all of it")
    assert (reply.text, reply.headers["content-length"]) == ("all of it", "9")
    for kind in KINDS:
        reply = client.post(f"/{kind}", content="")
        assert (reply.status_code, reply.text) == (200, "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("text", "status"), [("fail", 500), ("full", 503), ("number", 500)], ids=str
)
def test_what_fails_before_the_first_piece_has_a_status(
    client: httpx.Client, world: World, kind: str, text: str, status: int
) -> None:
    """As any other failure."""
    reply = client.post(f"/{kind}", content=text)
    assert reply.status_code == status
    assert "secret" not in reply.text
    assert world.closed.wait(LIMIT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["one fail", "one full", "one number"])
def test_an_error_in_mid_stream_ends_the_connection(
    client: httpx.Client, world: World, caplog: pytest.LogCaptureFixture, kind: str, text: str
) -> None:
    """Without the end of the body, so that nobody takes it for whole; the log has the id."""
    with client.stream("POST", f"/{kind}", content=text, headers={"X-Request-Id": "id-9"}) as reply:
        assert reply.status_code == 200
        pieces = reply.iter_text()
        assert next(pieces) == "one "
        with pytest.raises(httpx.RemoteProtocolError):
            list(pieces)
    wait_for(lambda: "request id-9 failed" in caplog.text, limit=LIMIT)
    assert ("a secret of the user" in caplog.text) == ("fail" in text)
    assert world.closed.wait(LIMIT)
    assert client.post("/whole", content="x").text == "x"


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_goes_away_ends_the_stream(
    client: httpx.Client, world: World, kind: str
) -> None:
    """The iterator is closed: at once, or when the piece that it works on is there."""
    with client.stream("POST", f"/{kind}", content="one wait two three") as reply:
        assert next(reply.iter_text()) == "one "
    if kind in IN_THREADS:
        world.go_on.release()
    assert world.closed.wait(LIMIT)
    for _ in range(2):  # its place is free, all two are
        wait_for(lambda: client.post("/whole", content="x").status_code == 200, limit=LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_that_is_late(client: httpx.Client, world: World, kind: str) -> None:
    """The first is answered with 504; a later one ends the connection."""
    headers = {"X-Request-Timeout": "0.3"}
    reply = client.post(f"/{kind}", content="wait", headers=headers)
    assert reply.status_code == 504
    assert "no piece within 0.3 s" in reply.json()["error"]
    if kind in IN_THREADS:
        world.go_on.release()
    assert world.closed.wait(LIMIT)
    headers = {"X-Request-Timeout": "2"}  # in which the first piece must come
    with (
        client.stream("POST", f"/{kind}", content="one wait two", headers=headers) as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        list(reply.iter_text())


def test_a_stream_holds_its_place(client: httpx.Client, world: World) -> None:
    """Until its end: it is a request that is worked on."""
    with (
        client.stream("POST", "/sync", content="one wait") as first,
        client.stream("POST", "/asynchronous", content="one wait") as second,
    ):
        pieces = first.iter_text(), second.iter_text()
        assert [next(each) for each in pieces] == ["one ", "one "]
        assert client.post("/whole", content="x").status_code == 503
        world.go_on.release(2)
    wait_for(lambda: client.post("/whole", content="x").status_code == 200, limit=LIMIT)


def test_a_pull_that_nobody_waits_for_holds_its_place_until_the_iterator_is_closed() -> None:
    """And frees it once, or each caller that goes away would let one more request in."""
    entered, go_on = threading.Event(), threading.Event()
    running: list[int] = []
    calls = Calls(Service("s", max_concurrency=1))

    def words() -> Iterator[str]:
        try:
            entered.set()
            assert go_on.wait(LIMIT)
            yield "x"
        finally:
            running.append(calls.running)

    async def story() -> None:
        place = calls.enter(needs_thread=True)
        pull = asyncio.ensure_future(anext(in_threads(words(), calls, place)))
        assert await asyncio.to_thread(entered.wait, LIMIT)
        pull.cancel()
        await asyncio.wait((pull,), timeout=LIMIT)
        place.leave()
        with pytest.raises(Overloaded):
            calls.enter(needs_thread=False)
        go_on.set()
        await asyncio.to_thread(wait_for, lambda: running and calls.running <= 0, limit=LIMIT)
        calls.enter(needs_thread=True).leave()

    asyncio.run(story())
    calls.close()
    assert (running, calls.running) == ([1], 0)


@pytest.mark.parametrize("is_async", [False, True], ids=["in threads", "in the event loop"])
def test_calls_of_models_have_the_time_of_their_piece(is_async: bool) -> None:
    """Not what the whole request had at first: a stream may be older than its timeout."""
    seen: list[float] = []
    calls = Calls(Service("s"))

    def pieces() -> Iterator[str]:
        for _ in range(3):
            seen.append(bounded(100 * LIMIT))
            yield "x"

    async def pieces_async() -> AsyncIterator[str]:
        for piece in pieces():
            yield piece

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        pass

    async def story() -> None:
        begin_request(-LIMIT)  # long ago
        place = calls.enter(needs_thread=True)
        streamed = Streamed(
            pieces_async() if is_async else in_threads(pieces(), calls, place),
            str.encode,
            timeout=LIMIT,
            deadline=asyncio.get_running_loop().time() + LIMIT,
            what="it",
        )
        await streamed.run(lambda: {"type": "http.response.start"}, never, send)

    asyncio.run(story())
    calls.close()
    assert seen[0] < 1
    assert [each > LIMIT / 2 for each in seen[1:]] == [True, True]


def test_a_generator_needs_a_descriptor_that_sends_pieces() -> None:
    """Said when it is declared."""

    def pieces(value: Any) -> Iterator[str]:
        yield "x"

    with pytest.raises(ConfigError, match=r"JSON cannot send; declare output=Text\(\)"):
        Service("s").api(JSON(), JSON())(pieces)
