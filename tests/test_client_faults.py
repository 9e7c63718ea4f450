"""Clients of a real server whose processes are stopped or killed: no call outlives its timeout."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.test_serve import serving
from tests.waiting import wait_for
from tfrunner import Client
from tfrunner.errors import DeadlineExceeded, TFRunnerError, Unavailable
from tfrunner.testing import ServedClient, serve

LIMIT = 30.0  # seconds, for what takes one


@pytest.fixture(scope="module")
def server() -> Iterator[ServedClient]:
    """Serve the echo model."""
    with serve("echo", echo=True, workers=2) as client:
        yield client


def rows(number: float) -> np.ndarray:
    """Return rows that tell a request from others."""
    return np.full((2, 3), number, "float32")


def pid_of(server: ServedClient, kind: str) -> int:
    """Return the process id of the server's process of a kind, once it is known."""

    def find() -> int:
        rows = server.status()["processes"]
        return next((int(row["pid"]) for row in rows if row["kind"] == kind and row["pid"]), 0)

    return wait_for(find)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the length of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returns or raises, in a thread that is not waited for for ever."""
    result: list[object] = []

    def run() -> None:
        try:
            result.append(call())
        except TFRunnerError as exc:
            result.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert result, "the call hangs"
    return result[0]


@pytest.mark.parametrize("way", ["ipc", "http"])
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "new"])
@pytest.mark.parametrize("retries", [True, False], ids=["retries", "one attempt"])
@pytest.mark.parametrize("kind", ["dispatcher", "api"])
def test_no_call_hangs_while_a_process_is_stopped(
    server: ServedClient, kind: str, way: str, is_open: bool, retries: bool
) -> None:
    """Connecting, hello, sending, waiting: each ends with the caller's timeout."""
    address = server.http_address if way == "http" else server.address
    pid, is_on_the_way = pid_of(server, kind), kind == "dispatcher" or way == "http"
    limit = 0.4 if is_on_the_way else LIMIT
    with Client(address, retries=retries) as client:
        if is_open:
            client.predict("echo", rows(0))
        with stopped(pid):
            small = outcome(lambda: client.predict("echo", rows(1), timeout=limit))
            large = np.zeros((500, 5000), "float32")
            big = outcome(lambda: client.predict("echo", large, timeout=limit))
            outcome(lambda: client.status(timeout=0.4))
            outcome(lambda: client.is_ready(timeout=0.4))
        for each in (small, big):
            if is_on_the_way:
                assert isinstance(each, (DeadlineExceeded, Unavailable))
            else:
                assert isinstance(each, np.ndarray), "the api process is not on this way"
    # An api process whose dispatcher stood still for 2 s says 503 until the next Welcome.
    with Client(address) as client:
        got = client.predict("echo", rows(2), timeout=LIMIT)
        np.testing.assert_array_equal(got, rows(2))


@pytest.mark.parametrize("way", ["ipc", "http"])
@pytest.mark.parametrize("kind", ["dispatcher", "api", "worker"])
def test_calls_survive_the_death_of_a_process(server: ServedClient, kind: str, way: str) -> None:
    """Kill -9 under load: every call is answered, with its own rows."""
    address = server.http_address if way == "http" else server.address
    with Client(address, timeout=LIMIT) as client, ThreadPoolExecutor(4) as threads:
        client.predict("echo", rows(0))
        pid = pid_of(server, kind)
        is_over = threading.Event()

        def call(first: int) -> int:
            number = first
            while not (is_over.is_set() and number > first + 100):
                got = client.predict("echo", rows(number))
                np.testing.assert_array_equal(got, rows(number))
                number += 1
            return number - first

        running = [threads.submit(call, first) for first in (1000, 200_000, 400_000, 600_000)]
        try:
            os.kill(pid, signal.SIGKILL)
            while pid_of(server, kind) == pid:
                pass
            client.predict("echo", rows(1))
        finally:
            is_over.set()
        assert all(each.result(3 * LIMIT) > 100 for each in running)


def wait_until_free(port: int) -> None:
    """Wait until nobody listens at a port."""

    def is_free() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_for(is_free)


class Calling:
    """A thread's calls with a client that it shares; each answer is checked."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.done = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        """Call until it is over."""
        while not self.is_over.is_set():
            value = 100_000 * self.number + self.done
            futures = [self.client.submit("echo", rows(value + 0.5)) for _ in range(3)]
            np.testing.assert_array_equal(self.client.predict("echo", rows(value)), rows(value))
            for each in futures:
                np.testing.assert_array_equal(each.result(3 * LIMIT), rows(value + 0.5))
            self.done += 1

    def wait_for_more(self) -> None:
        """Wait until it has made twenty more calls."""
        enough = self.done + 20
        wait_for(lambda: self.done > enough)


@pytest.mark.parametrize("way", ["ipc", "http"])
def test_threads_go_on_with_a_server_that_is_killed_and_started_again(
    run_root: Path, way: str
) -> None:
    """The whole of it, twice: what was under way is answered by the next, to its own caller."""
    with serving() as server:
        port = urlsplit(server.address.http).port or 0
    wait_until_free(port)
    address = f"http://127.0.0.1:{port}" if way == "http" else None
    with Client(address, timeout=3 * LIMIT) as client, ThreadPoolExecutor(4) as threads:
        calling = [Calling(client, number) for number in range(4)]
        running = []
        try:
            for _ in range(3):
                with serving("--port", str(port)):  # killed at the end
                    running = running or [threads.submit(each.run) for each in calling]
                    for each in calling:
                        each.wait_for_more()
                wait_until_free(port)
            with serving("--port", str(port)):
                for each in calling:
                    each.is_over.set()
                for future in running:
                    future.result(3 * LIMIT)
        finally:
            for each in calling:
                each.is_over.set()
