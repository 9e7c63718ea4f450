"""Calls of the client that are made again, and those that are not, over every way."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from tests.client_world import dispatcher, http_server, model, rows, socket_server
from tfrunner.client import AsyncClient, Client
from tfrunner.config import RunFile
from tfrunner.errors import DeadlineExceeded, Overloaded, Unavailable, WorkerLost
from tfrunner.rundir import RunDirectory
from tfrunner.runner import Runner

LIMIT = 20.0  # seconds, for what takes milliseconds
Ask = Callable[..., Any]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tfr-", dir="/tmp") as path:
        yield Path(path)


def ask_sync(address: str, *args: Any, retries: bool = True, **kwargs: Any) -> Any:
    """Make one call with a Client."""
    with Client(address, timeout=LIMIT, retries=retries) as client:
        return client.predict("echo", *args, **kwargs)


def ask_async(address: str, *args: Any, retries: bool = True, **kwargs: Any) -> Any:
    """Make one call with an AsyncClient."""

    async def story() -> Any:
        async with AsyncClient(address, timeout=LIMIT, retries=retries) as client:
            return await client.predict("echo", *args, **kwargs)

    return asyncio.run(story())


def ask_runner(
    address: str, *args: Any, retries: bool = True, method: str = "__call__", **kwargs: Any
) -> Any:
    """Make one call with a runner."""
    runner = Runner(model())
    runner.init_client(address, retries=retries)
    try:
        return runner.method(method).run(*args, **{"timeout": LIMIT, **kwargs})
    finally:
        runner.destroy()


def ask_runner_async(
    address: str, *args: Any, retries: bool = True, method: str = "__call__", **kwargs: Any
) -> Any:
    """Make one call with a runner, in an event loop."""
    runner = Runner(model())
    runner.init_client(address, retries=retries)
    try:
        return asyncio.run(runner.method(method).async_run(*args, **{"timeout": LIMIT, **kwargs}))
    finally:
        runner.destroy()


both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
direct = pytest.mark.parametrize(
    "ask",
    [ask_sync, ask_async, ask_runner, ask_runner_async],
    ids=["sync", "async", "runner", "runner async"],
)


def refusal(code: str = "overloaded", retry_after: str = "0.01") -> Response:
    """Return a 503 of ours."""
    return JSONResponse({"error": code, "code": code}, 503, {"retry-after": retry_after})


# --- over HTTP --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("method", ["__call__", "once"])
def test_a_refused_request_is_sent_again_over_http(ask: Ask, method: str) -> None:
    """The server says that it has not begun it: also where it must not run twice."""
    with http_server() as server:
        server.faults = [refusal("overloaded"), refusal("unavailable")]
        np.testing.assert_array_equal(ask(server.address, rows(), method=method), rows())
        assert len(server.predicts) == 3


@both
@pytest.mark.parametrize(
    "fault", [refusal("worker_lost"), Response("bad gateway", 502)], ids=["worker", "proxy"]
)
def test_what_may_have_run_is_sent_again_only_if_it_may_run_twice(
    ask: Ask, fault: Response
) -> None:
    """A model that counts its calls must not count one twice."""
    with http_server() as server:
        server.faults = [fault]
        ask(server.address, rows())
        assert len(server.predicts) == 2
        server.faults = [fault, fault]
        with pytest.raises(Unavailable) as caught:
            ask(server.address, rows(), method="once")
        assert len(server.predicts) == 3
        assert caught.value.request_id


@both
def test_without_retries_there_is_one_attempt(ask: Ask) -> None:
    """The knob."""
    with http_server() as server:
        server.faults = [refusal()]
        with pytest.raises(Overloaded):
            ask(server.address, rows(), retries=False)
        assert len(server.predicts) == 1


@both
def test_when_there_is_no_time_for_another_attempt_the_last_error_is_raised(ask: Ask) -> None:
    """With the id of the request; every attempt had been refused."""
    with http_server() as server:
        server.faults = [refusal(), refusal("unavailable"), refusal(retry_after="30")]
        with pytest.raises(Overloaded) as caught:
            ask(server.address, rows())
        assert len(server.predicts) == 3
        assert caught.value.request_id


@both
def test_a_retry_after_beyond_the_timeout_is_not_waited_for(ask: Ask) -> None:
    """The error comes at once: there is one attempt, and no hopeless wait."""
    with http_server() as server:
        server.faults = [refusal(retry_after="3600")]
        with pytest.raises(Overloaded) as caught:
            ask(server.address, rows())
        assert caught.value.retry_after == 3600.0


def cutting_server(cuts: int, seen: list[bytes]) -> Callable[[socket.socket], None]:
    """Return how a server talks that closes the connection of the first predict requests."""
    spec = msgspec.json.encode(model())

    def talk(connection: socket.socket) -> None:
        while data := connection.recv(1 << 20):
            if data.startswith(b"GET"):
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(spec)}\r\n\r\n".encode()
                connection.sendall(head + spec)
                continue
            while b"\xa6method" not in data:  # the key that the body ends with
                data += connection.recv(1 << 20)
            seen.append(data.split(b"\r\n\r\n")[1])
            if len(seen) <= cuts:
                return
            body = b'{"error": "at last", "code": "model_error"}'
            head = f"HTTP/1.1 500 Oh\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)

    return talk


@both
def test_a_connection_lost_in_mid_request_is_tried_again_if_the_method_may_run_twice(
    ask: Ask,
) -> None:
    """Else the error says that it may have run."""
    seen: list[bytes] = []
    with (
        socket_server(cutting_server(2, seen)) as address,
        pytest.raises(Exception, match="at last"),
    ):
        ask(address, rows())
    assert len(seen) == 3
    assert len(set(seen)) == 1
    seen.clear()
    with (
        socket_server(cutting_server(2, seen)) as address,
        pytest.raises(Unavailable, match="may have run; it was not sent again") as caught,
    ):
        ask(address, rows(), method="once")
    assert len(seen) == 1
    assert caught.value.request_id


@pytest.mark.parametrize("method", ["__call__", "once"])
def test_a_server_that_starts_again_is_waited_for(method: str) -> None:
    """Nothing was sent where nobody listens: every method is tried again."""
    with http_server() as server:
        port = int(server.address.rsplit(":", 1)[1])
        client = Client(server.address, timeout=LIMIT)
        client.predict("echo", rows())
    with client, ThreadPoolExecutor(1) as thread:
        with pytest.raises(Unavailable, match="nothing answers"):
            client.predict("echo", rows(), timeout=0.5)
        waiting = thread.submit(client.predict, "echo", rows(), method=method)
        with http_server(port):
            np.testing.assert_array_equal(waiting.result(LIMIT), rows())


def test_closing_a_client_ends_the_pause_of_a_call() -> None:
    """Nobody waits for a server on behalf of a closed client."""
    with http_server() as server, ThreadPoolExecutor(1) as thread:
        server.faults = [refusal(retry_after="15")]
        client = Client(server.address, timeout=60)
        waiting = thread.submit(client.predict, "echo", rows())
        while not server.predicts:
            threading.Event().wait(0.01)
        client.close()
        with pytest.raises(Exception, match="closed"):
            waiting.result(10)


# --- straight to the dispatcher ---------------------------------------------------------------


@direct
@pytest.mark.parametrize("method", ["__call__", "once"])
def test_a_refused_request_is_sent_again(ask: Ask, folder: Path, method: str) -> None:
    """Overloaded and Unavailable: the dispatcher has not begun it."""
    with dispatcher(folder) as server:
        server.faults = [("overloaded", 0.01), ("unavailable", 0.01)]
        np.testing.assert_array_equal(ask(server.address, rows(), method=method), rows())
        assert server.bodies == [rows().tobytes()] * 3


@direct
def test_a_lost_worker_ends_what_must_not_run_twice(ask: Ask, folder: Path) -> None:
    """And only that."""
    with dispatcher(folder) as server:
        server.faults = [("worker_lost", 0.01)]
        ask(server.address, rows())
        assert len(server.bodies) == 2
        server.faults = [("worker_lost", 0.01)]
        with pytest.raises(WorkerLost) as caught:
            ask(server.address, rows(), method="once")
        assert len(server.bodies) == 3
        assert caught.value.request_id is not None
        assert caught.value.request_id.startswith(("client.", "runner."))


@direct
def test_without_retries_a_refusal_is_raised(ask: Ask, folder: Path) -> None:
    """The knob; the id is the one that the server's logs name: gateway and number."""
    with dispatcher(folder) as server:
        server.faults = [("overloaded", 0.01)]
        with pytest.raises(Overloaded) as caught:
            ask(server.address, rows(), retries=False)
        assert len(server.bodies) == 1
        assert str(caught.value.request_id).endswith("/1")


@direct
def test_the_last_refusal_is_raised_at_the_end(ask: Ask, folder: Path) -> None:
    """Not a DeadlineExceeded, which would hide the reason."""
    with dispatcher(folder) as server:
        server.faults = [("unavailable", 0.01), ("overloaded", 0.01), ("overloaded", 30.0)]
        with pytest.raises(Overloaded, match="it is overloaded"):
            ask(server.address, rows())
        assert len(server.bodies) == 3


def test_a_deadline_in_a_later_attempt_names_the_refusal(folder: Path) -> None:
    """Why it took so long is not lost."""
    with dispatcher(folder) as server:
        server.faults = [("overloaded", 0.01)]
        with pytest.raises(DeadlineExceeded, match="attempt before failed: it is overloaded"):
            ask_sync(server.address, rows(), method="silent", timeout=2.0)


# --- a server that was found ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "runner"])
def test_a_server_that_was_found_is_found_again_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It starts again under another run directory; the call in between waits for it."""
    monkeypatch.delenv("TFRUNNER_ADDRESS", raising=False)
    monkeypatch.setenv("TFRUNNER_RUN_DIR", str(folder))
    with RunDirectory(folder) as first, dispatcher(first.path) as server:
        first.publish(RunFile(os.getpid(), "http://127.0.0.1:9", (server.address,), ()))
        if kind == "client":
            client = Client(timeout=LIMIT)
            ask, close = lambda: client.predict("echo", rows()), client.close
        else:
            runner = Runner(model())
            runner.init_client()
            ask, close = lambda: runner.run(rows(), timeout=LIMIT), runner.destroy
        np.testing.assert_array_equal(ask(), rows())
    with ThreadPoolExecutor(1) as thread, RunDirectory(folder) as second:
        waiting = thread.submit(ask)
        with dispatcher(second.path, epoch="e2") as server:
            second.publish(RunFile(os.getpid(), "http://127.0.0.1:9", (server.address,), ()))
            try:
                np.testing.assert_array_equal(waiting.result(LIMIT), rows())
                np.testing.assert_array_equal(ask(), rows())
                assert server.bodies
            finally:
                close()


# --- the caller's memory ----------------------------------------------------------------------


def test_an_array_may_be_changed_as_soon_as_its_caller_stops_waiting(folder: Path) -> None:
    """100 requests time out, and their memory is used again: nothing else was ever sent."""
    given = np.zeros((100_000, 2), "float32")

    async def give_up(address: str) -> None:
        async with AsyncClient(address) as client:
            await client.predict("echo", rows())
            for number in range(100):
                given[:] = number
                call = client.predict("echo", given, method="silent")
                task = asyncio.ensure_future(call)
                await asyncio.sleep(0)  # it submits in its first step
                task.cancel()
                given[:] = -1
            for number in range(20):
                given[:] = number
                task = asyncio.ensure_future(
                    client.predict("echo", given, method="silent", timeout=0.02)
                )
                await asyncio.wait([task])
                given[:] = -1
                assert isinstance(task.exception(), DeadlineExceeded)

    with dispatcher(folder) as server:
        asyncio.run(give_up(server.address))
    sent = [np.frombuffer(body, "float32") for body in server.bodies[1:]]
    assert len(sent) >= 10  # a busy machine may send nothing within 20 ms now and then
    assert all(float(each.min()) == float(each.max()) >= 0 for each in sent)


def test_a_runners_array_may_be_changed_after_its_timeout(folder: Path) -> None:
    """The dispatcher reads it only afterwards, and gets what was given."""
    given = np.zeros((500_000, 2), "float32")
    with dispatcher(folder, reads_ahead=1) as server:
        runner = Runner(model())
        runner.init_client(server.address)
        server.pause()
        for number in range(4):
            given[:] = number
            with pytest.raises(DeadlineExceeded):
                runner.silent.run(given, timeout=0.4)
            given[:] = -1
        server.resume()
        runner.run(rows(), timeout=LIMIT)
        runner.destroy()
    sent = [np.frombuffer(body, "float32") for body in server.bodies[:4]]
    assert [(float(each.min()), float(each.max())) for each in sent] == [
        (number, number) for number in range(4)
    ]


def test_what_is_sent_again_is_what_was_given(folder: Path) -> None:
    """Also to the next dispatcher, and whatever became of the array."""
    given = np.full((100_000, 2), 7, "float32")

    async def story() -> Any:
        with dispatcher(folder) as first:
            client = AsyncClient(first.address, timeout=LIMIT)
            await client.predict("echo", rows())
            first.pause()
            waiting = asyncio.ensure_future(client.predict("echo", given))
            await asyncio.sleep(0)  # it submits in its first step
            given[:] = -1
            first.is_silent = True
        with dispatcher(folder, epoch="e2"):
            answer = await asyncio.wait_for(waiting, LIMIT)
            await client.close()
            return answer

    np.testing.assert_array_equal(asyncio.run(story()), np.full((100_000, 2), 7, "float32"))
