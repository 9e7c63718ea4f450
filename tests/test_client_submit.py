"""`Client.submit` and `AsyncClient.submit`: many requests under way from one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeout  # another one before Python 3.11
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client_world import ROWS, Dispatcher, dispatcher, http_server, method, model, rows
from tests.waiting import wait_for
from tfrunner.client import SUBMIT_THREADS, AsyncClient, Client
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    StateError,
    TFRunnerError,
    Unavailable,
)

LIMIT = 20.0


@pytest.fixture
def server(run_root: Path) -> Iterator[Dispatcher]:
    """Run a dispatcher that answers every request with its input."""
    with dispatcher(run_root) as running:
        yield running


@pytest.mark.parametrize("way", ["http", "ipc"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_every_future_gets_its_own_rows(run_root: Path, way: str, is_async: bool) -> None:
    """Asked in any order, also by who waits for whichever comes first."""
    inputs = [rows() + number for number in range(100)]

    async def story(address: str) -> list[Any]:
        async with AsyncClient(address) as client:
            return await asyncio.gather(*(client.submit("echo", each) for each in inputs))

    with http_server() if way == "http" else dispatcher(run_root) as server:
        if is_async:
            outputs = asyncio.run(story(server.address))
        else:
            with Client(server.address) as client:
                futures = [client.submit("echo", each) for each in inputs]
                assert len(list(as_completed(futures[:10], LIMIT))) == 10
                outputs = [each.result(LIMIT) for each in reversed(futures)][::-1]
    for given, got in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(got, given)


def test_what_is_wrong_at_once_is_raised_at_once(server: Dispatcher) -> None:
    """Before anything is sent."""
    with Client(server.address) as client:
        with pytest.raises(InvalidInput, match=r"\[\?, 2\]"):
            client.submit("echo", [1, 2, 3])
        with pytest.raises(NotFound, match="'echo'"):
            client.submit("ehco", rows())
        with pytest.raises(InvalidInput, match="positive number"):
            client.submit("echo", rows(), timeout=0)
    with pytest.raises(StateError, match="closed"):
        client.submit("echo", rows())


def test_the_array_may_be_changed_after_submit(server: Dispatcher) -> None:
    """The request has bytes of its own, of large arrays too."""
    with Client(server.address) as client:
        values = np.ones((20_000, 2), np.float32)
        future = client.submit("echo", values)
        values[:] = 7
        assert future.result(LIMIT).max() == 1


def test_a_future_without_an_answer_ends_at_its_deadline(server: Dispatcher) -> None:
    """The error is a TimeoutError as well; waiting for it shorter ends earlier."""
    with Client(server.address) as client:
        future = client.submit("echo", rows(), method="silent", timeout=1.0)
        with pytest.raises(FutureTimeout) as caught:
            future.result(0.05)
        assert not isinstance(caught.value, TFRunnerError)
        with pytest.raises(DeadlineExceeded):
            future.result(LIMIT)
        assert server.cancelled.wait(LIMIT)


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "not repeatable"])
def test_a_refused_request_is_made_again(server: Dispatcher, repeatable: bool) -> None:
    """The server has certainly not begun it: again until it is answered, in another thread."""
    server.models = [model(__call__=method("__call__", ("x", ROWS), repeatable=repeatable))]
    server.faults = [("overloaded", 0.01), ("overloaded", 0.01)]
    with Client(server.address) as client:
        future = client.submit("echo", rows())
        called: Future[Any] = Future()
        future.add_done_callback(called.set_result)
        np.testing.assert_array_equal(called.result(LIMIT).result(), rows())
    assert len(server.bodies) == 3


def test_a_lost_request_that_must_not_run_twice_is_not_made_again(server: Dispatcher) -> None:
    """It may have run."""
    server.models = [model(__call__=method("__call__", ("x", ROWS), repeatable=False))]
    server.faults = [("worker_lost", None)]
    with Client(server.address) as client, pytest.raises(Unavailable):
        client.submit("echo", rows()).result(LIMIT)
    assert len(server.bodies) == 1


def test_without_retries_a_refusal_is_the_answer(server: Dispatcher) -> None:
    """The caller decides."""
    server.faults = [("overloaded", 0.01)]
    with Client(server.address, retries=False) as client, pytest.raises(Overloaded):
        client.submit("echo", rows()).result(LIMIT)


def test_a_request_that_is_cancelled_between_attempts_stays_cancelled(server: Dispatcher) -> None:
    """What the further attempt comes to is of no interest any more."""
    server.faults = [("overloaded", 1.0)]
    with Client(server.address) as client:
        future = client.submit("echo", rows())
        wait_for(lambda: client._own.get().threads)  # it was refused, and waits in a thread
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result()
        np.testing.assert_array_equal(client.predict("echo", rows()), rows())
        wait_for(lambda: len(server.bodies) == 3)  # the further attempt was the last
        assert future.cancelled()


def test_a_future_that_waits_for_a_thread_is_cancelled_before_it_is_sent() -> None:
    """Over HTTP one that has a thread goes on: nothing can be taken back there."""
    with http_server() as server, Client(server.address) as client:
        silent = [
            client.submit("echo", rows(), method="silent", timeout=LIMIT)
            for _ in range(SUBMIT_THREADS)
        ]
        assert server.waited_for.wait(LIMIT)
        wait_for(lambda: len(server.predicts) == SUBMIT_THREADS)
        queued = [client.submit("echo", rows() + number) for number in range(4)]
        assert [each.cancel() for each in queued] == [True] * 4
        assert [each.cancel() for each in silent] == [False] * SUBMIT_THREADS
        with pytest.raises(CancelledError):
            queued[0].result()
        np.testing.assert_array_equal(client.predict("echo", rows()), rows())
        assert len(server.predicts) == SUBMIT_THREADS + 1


@pytest.mark.parametrize("timeout", [float("inf"), 10**400, np.float32(9)])
@pytest.mark.parametrize("way", ["http", "ipc"])
def test_any_number_of_seconds_is_a_timeout(run_root: Path, way: str, timeout: Any) -> None:
    """As for `predict`."""
    with (
        http_server() if way == "http" else dispatcher(run_root) as server,
        Client(server.address) as client,
    ):
        future = client.submit("echo", rows(), timeout=timeout)
        np.testing.assert_array_equal(future.result(LIMIT), rows())


def test_a_closed_client_leaves_no_future_open(server: Dispatcher) -> None:
    """They fail, between attempts too."""
    server.faults = [("overloaded", 15.0)]
    client = Client(server.address)
    futures = [client.submit("echo", rows())]
    with pytest.raises(FutureTimeout):
        futures[0].result(0.2)
    futures.append(client.submit("echo", rows(), method="silent"))
    client.close()
    for each in futures:
        with pytest.raises((Unavailable, StateError), match="closed"):
            each.result(LIMIT)


def test_a_cancelled_task_of_submit_cancels_its_request(server: Dispatcher) -> None:
    """As that of `predict`."""

    async def story() -> None:
        async with AsyncClient(server.address) as client:
            task = client.submit("echo", rows(), method="silent")
            assert await asyncio.to_thread(server.waited_for.wait, LIMIT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.cancelled.wait, LIMIT)

    asyncio.run(story())
