"""Calls of endpoints: their deadlines, who blocks whom, how many at once, and what fails."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.api_world import ECHO, LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner import Runner, Service
from tfrunner.api.calls import THREADS
from tfrunner.api.disconnects import Disconnects
from tfrunner.errors import ConfigError, DeadlineExceeded
from tfrunner.io import JSON, Body, NumpyNdarray, Text


class Odd:
    """Writes nothing, as a descriptor of a user's with an error in it."""

    def read(self, body: Body) -> Any:
        """Return the bytes."""
        return body.data

    def write(self, value: Any) -> Body:
        """Raise."""
        raise KeyError("no such thing")

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        return {}


class World:
    """A Service whose functions wait until they are told, and notes of what they saw."""

    def __init__(self) -> None:
        self.service = svc = Service("slow", max_concurrency=THREADS + 2)
        self.go_on = threading.Event()
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Event()

        @svc.api(JSON(), JSON())
        def block(value: Any) -> Any:
            self.entered.release()
            assert self.go_on.wait(LIMIT)
            return value

        @svc.api(JSON(), Text())
        def block_stream(value: Any) -> Iterator[str]:
            self.entered.release()
            assert self.go_on.wait(LIMIT)
            yield "x"

        @svc.api(JSON(), JSON())
        async def wait(value: Any) -> Any:
            self.entered.release()
            try:
                await asyncio.sleep(100 * LIMIT)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        @svc.api(JSON(), JSON())
        async def quick(value: Any) -> Any:
            return value

        @svc.api(JSON(), JSON())
        def in_thread(value: Any) -> Any:
            return threading.current_thread().name

        @svc.api(JSON(), JSON())
        async def cancelled(value: Any) -> Any:
            raise asyncio.CancelledError

        @svc.api(JSON(), JSON())
        def stop(value: Any) -> Any:
            return next(iter(()))

        @svc.api(JSON(), JSON())
        def late(value: Any) -> Any:
            raise DeadlineExceeded("the model was late")

        @svc.api(JSON(), Odd())
        def odd(value: Any) -> Any:
            return value

        @svc.api(JSON(), NumpyNdarray())
        def no_array(value: Any) -> Any:
            return [1, [2, {}]]

    def wait_entered(self, count: int = 1) -> None:
        """Wait until so many calls have begun."""
        for _ in range(count):
            assert self.entered.acquire(timeout=LIMIT)


@pytest.fixture
def world() -> Iterator[World]:
    """Return the Service, let go at the end."""
    world = World()
    yield world
    world.go_on.set()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    """Return a client of a server with the Service and a neighbour."""
    neighbour = Service("neighbour")

    @neighbour.api(JSON(), JSON())
    def next_door(value: Any) -> Any:
        return value

    limits = httpx.Limits(max_connections=None)
    with (
        serving(FakeGateway(), services=[world.service, neighbour], timeout=LIMIT) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False, limits=limits) as client,
    ):
        yield client
        world.go_on.set()


@pytest.mark.parametrize("path", ["/block", "/wait"])
def test_an_endpoint_that_is_late_is_answered_for(
    client: httpx.Client, world: World, path: str
) -> None:
    """With 504 and its message; others, in threads and in the event loop, go on."""
    reply = client.post(path, json=1, headers={"X-Request-Timeout": "0.2"})
    assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")
    assert reply.json()["error"] == f"the endpoint {path[1:]!r} gave no answer within 0.2 s"
    assert client.post("/quick", json=2).json() == 2
    assert client.post("/next_door", json=3).json() == 3
    if path == "/wait":
        assert world.cancelled.wait(LIMIT)


def test_the_servers_timeout_holds_where_the_request_has_none(world: World) -> None:
    """As for predict requests."""
    with serving(FakeGateway(), services=[world.service], timeout=0.3) as address:
        reply = httpx.post(f"{address}/wait", json=1, timeout=LIMIT, trust_env=False)
    assert reply.status_code == 504
    assert "0.3 s" in reply.json()["error"]


def test_a_timeout_that_is_no_number(client: httpx.Client) -> None:
    """Refused before anything is run."""
    reply = client.post("/quick", json=1, headers={"X-Request-Timeout": "soon"})
    assert reply.status_code == 400


@pytest.mark.parametrize("path", ["/block", "/block_stream"])
def test_functions_that_block_take_the_threads_of_their_service_only(
    client: httpx.Client, world: World, path: str
) -> None:
    """Its async endpoints go on too; once all its threads are lost it says so, not 504."""
    with ThreadPoolExecutor(THREADS) as pool:
        headers = {"X-Request-Timeout": "2"}
        replies = [pool.submit(client.post, path, json=1, headers=headers) for _ in range(THREADS)]
        world.wait_entered(THREADS)
        assert client.post("/quick", json=2).json() == 2
        assert client.post("/next_door", json=3).json() == 3
        assert {each.result(LIMIT).status_code for each in replies} == {504}
    refused = client.post("/in_thread", json=1)
    assert refused.status_code == 503
    assert "beyond their timeouts" in refused.json()["error"]
    assert client.post("/quick", json=2).json() == 2
    assert client.post("/next_door", json=3).json() == 3
    world.go_on.set()
    wait_for(lambda: client.post("/in_thread", json=1).status_code == 200)


def test_too_many_requests_are_refused(world: World, client: httpx.Client) -> None:
    """With 503 and Retry-After, until one is done; what runs is not touched."""
    world.service.max_concurrency = 2
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(client.post, "/block", json=each) for each in range(2)]
        world.wait_entered(2)
        refused = client.post("/quick", json=1)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.json()["error"].startswith("too many requests")
        assert refused.headers["retry-after"] == "1"
        assert client.post("/next_door", json=1).status_code == 200
        world.go_on.set()
        assert [each.result(LIMIT).json() for each in replies] == [0, 1]
    assert client.post("/quick", json=1).status_code == 200


def test_a_function_that_runs_beyond_its_timeout_keeps_its_place(
    world: World, client: httpx.Client
) -> None:
    """It still uses the machine, whoever is told what."""
    world.service.max_concurrency = 1
    assert client.post("/block", json=1, headers={"X-Request-Timeout": "0.1"}).status_code == 504
    assert client.post("/quick", json=1).status_code == 503
    world.go_on.set()
    wait_for(lambda: client.post("/quick", json=1).status_code == 200)


def test_a_caller_that_goes_away_ends_its_call(client: httpx.Client, world: World) -> None:
    """An async function is cancelled."""
    host, port = client.base_url.host, client.base_url.port
    head = f"POST /wait HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    head += f"X-Request-Timeout: {50 * LIMIT}\r\nContent-Length: 1\r\n\r\n"
    with socket.create_connection((host, port)) as caller:
        caller.sendall(head.encode() + b"1")
        world.wait_entered()
    assert world.cancelled.wait(LIMIT)
    assert client.post("/quick", json=1).status_code == 200


def test_a_call_that_was_given_up_is_cancelled_once() -> None:
    """The end of its reply, which servers report as the end of the connection, is none of it."""

    async def story() -> list[str]:
        watched, replied, go_on = (asyncio.Event() for _ in range(3))
        seen: list[str] = []

        async def call() -> None:
            try:
                await asyncio.sleep(100 * LIMIT)
            finally:
                await go_on.wait()
                seen.append("tidied up")

        async def receive() -> dict[str, Any]:
            watched.set()
            await replied.wait()
            return {"type": "http.disconnect"}

        task, disconnects = asyncio.ensure_future(call()), Disconnects()
        disconnects.add(task, receive)
        await asyncio.wait_for(watched.wait(), LIMIT)
        task.cancel()
        assert not disconnects.remove(task)
        replied.set()
        watches = asyncio.all_tasks() - {task, asyncio.current_task()}
        assert len(watches) == 1
        await asyncio.wait(watches, timeout=LIMIT)
        go_on.set()
        await asyncio.wait((task,), timeout=LIMIT)
        assert not disconnects.remove(task)  # nor is it kept
        return seen

    assert asyncio.run(story()) == ["tidied up"]


@pytest.mark.parametrize(
    ("path", "status", "code", "text"),
    [
        ("/cancelled", 500, "internal", "the endpoint 'cancelled' failed"),
        ("/stop", 500, "internal", "the endpoint 'stop' failed"),
        ("/late", 504, "deadline_exceeded", "the model was late"),
        ("/odd", 500, "model_error", "the endpoint 'odd' returned a int, which Odd cannot write"),
        ("/no_array", 500, "model_error", ""),
    ],
)
def test_functions_that_fail(
    client: httpx.Client,
    caplog: pytest.LogCaptureFixture,
    path: str,
    status: int,
    code: str,
    text: str,
) -> None:
    """Each is answered, named, and in the log with the request's id."""
    reply = client.post(path, json=1, headers={"X-Request-Id": "id-7"})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert text in reply.json()["error"]
    assert "Traceback" not in reply.text
    assert "request id-7 failed" in caplog.text
    assert client.post("/quick", json=1).json() == 1


def test_a_model_is_called_for_no_longer_than_its_request_has_left() -> None:
    """So a thread that waits for a slow model is free again when its request is late."""
    gateway = FakeGateway()
    runner = Runner(ECHO, name="m")
    svc = Service("svc", runners=[runner])

    @svc.on_startup
    async def attach() -> None:
        runner.attach(gateway, timeout=30.0)  # type: ignore[arg-type]

    @svc.api(JSON(), JSON())
    def in_thread(timeout: Any) -> Any:
        return runner.run([[1.0, 2.0]], timeout=timeout)

    @svc.api(JSON(), JSON())
    async def in_loop(timeout: Any) -> Any:
        return await runner.async_run([[1.0, 2.0]], timeout=timeout)

    @svc.api(JSON(), JSON())
    def hang(timeout: Any) -> Any:
        return runner.hang.run([[1.0, 2.0]], timeout=timeout)

    asked = [
        ("5", "null", 4, 5.2),
        ("5", "1.5", 1.5, 1.5),
        ("5", "50", 4, 5.2),
        ("25", "null", 24, 25.2),
        ("50", "null", 30, 30),
    ]
    with (
        serving(gateway, services=[svc], timeout=LIMIT) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        for path in ("/in_thread", "/in_loop"):
            for header, own, least, most in asked:
                headers = {"X-Request-Timeout": header}
                assert client.post(path, content=own, headers=headers).json() == [[1.0, 2.0]]
                assert least <= gateway.timeouts[-1] <= most
        late = client.post("/hang", content="null", headers={"X-Request-Timeout": "0.3"})
        assert late.json()["error"] == "the endpoint 'hang' gave no answer within 0.3 s"


@pytest.mark.parametrize("limit", [0, -1, "many"])
def test_a_limit_that_is_none(limit: Any) -> None:
    """Refused when the Service is made."""
    with pytest.raises(ConfigError, match="max_concurrency"):
        Service("s", max_concurrency=limit)
