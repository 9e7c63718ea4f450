"""Clients in processes that were forked: each connects for itself, and has its own rows."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client_world import Dispatcher, HttpServer, dispatcher, http_server
from tfrunner.forks import OfProcess

LIMIT = 60.0

BEGIN = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from tfrunner.client import Client
client = Client(sys.argv[1], timeout=20)
x = np.arange(6, dtype="float32").reshape(3, 2)

def own_rows(first):
    return all((client.predict("echo", x + first + n) == x + first + n).all() for n in range(100))

def fork(act):
    "Return what `act` returned in a child, once that is known."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, repr(act()).encode())
        except BaseException as exc:
            os.write(writing, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writing)

    def wait():
        os.waitpid(child, 0)
        said = os.read(reading, 10_000).decode()
        os.close(reading)
        return said

    return wait
"""

BOTH_CALL = """
assert own_rows(0)
child = fork(lambda: own_rows(5000))
mine = own_rows(1000)
assert (child(), mine) == ("True", True), child
assert own_rows(0)
"""

CHILDREN_CALL = """
assert own_rows(0)
children = [fork(lambda: own_rows(number * 1000)) for number in range(3)]
grandchild = fork(lambda: (own_rows(7000), fork(lambda: own_rows(9000))()))
assert [each() for each in children] == ["True"] * 3
assert grandchild() == "(True, 'True')"
assert own_rows(0)
"""

THREADS_OF_A_CHILD_CALL = """
assert own_rows(0)

def in_threads():
    gate = threading.Barrier(8)
    def call(number):
        gate.wait()
        return own_rows(number * 1000)
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(call, range(8)))

assert fork(in_threads)() == repr([True] * 8)
assert own_rows(0)
"""

SUBMIT = """
def submitted(first):
    futures = [client.submit("echo", x + first + n) for n in range(50)]
    return all((future.result(20) == x + first + n).all() for n, future in enumerate(futures))

assert submitted(0)
child = fork(lambda: submitted(5000))
assert submitted(1000)
assert child() == "True"
"""

CLOSE_IN_THE_CHILD = """
assert own_rows(0)

def close():
    assert own_rows(100)
    client.close()
    try:
        client.predict("echo", x)
    except Exception as exc:
        return type(exc).__name__

assert fork(client.close)() == "None"
assert fork(close)() == "'StateError'"
assert own_rows(0)
client.close()
assert fork(lambda: client.predict("echo", x))().startswith("StateError")
"""

FORK_DURING_CALLS = """
is_over = threading.Event()

def call(first):
    while not is_over.is_set():
        if not own_rows(first):
            return False
    return True

with ThreadPoolExecutor(4) as threads:
    running = [threads.submit(call, number * 1000) for number in range(4)]
    assert own_rows(20_000)
    children = [fork(lambda: own_rows(number * 1000))() for number in range(10, 20)]
    is_over.set()
    assert children == ["True"] * 10, children
    assert all(each.result() for each in running)
"""

STORIES = {
    "parent and child": BOTH_CALL,
    "children and a grandchild": CHILDREN_CALL,
    "threads of a child": THREADS_OF_A_CHILD_CALL,
    "submit": SUBMIT,
    "close in the child": CLOSE_IN_THE_CHILD,
    "while threads call": FORK_DURING_CALLS,
}


def run(story: str, *arguments: str) -> None:
    """Run a story in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + story + "\nclient.close()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=["http", "ipc"])
def server(request: pytest.FixtureRequest, run_root: Path) -> Iterator[HttpServer | Dispatcher]:
    """Run a server that answers every request with its input."""
    with http_server() if request.param == "http" else dispatcher(run_root) as running:
        yield running


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_client_may_be_used_on_both_sides_of_a_fork(
    server: HttpServer | Dispatcher, story: str
) -> None:
    """Nobody gets another's rows, waits for another's lock, or closes another's connection."""
    run(story, server.address)


A_THREAD_OPENS = """
import socket
unheard = socket.create_server(("127.0.0.1", 0))
address = f"tcp://127.0.0.1:{unheard.getsockname()[1]}"
slow = Client(address, timeout=0.5)
threading.Thread(target=slow.is_ready, kwargs={"timeout": 10}, daemon=True).start()
unheard.accept()
assert fork(lambda: slow.predict("echo", x))().startswith("Unavailable(")
os._exit(0)
"""


def test_a_child_does_not_wait_for_a_thread_that_its_parent_has(run_root: Path) -> None:
    """Who holds the lock while it connects is not there in the child."""
    run(A_THREAD_OPENS, "http://127.0.0.1:1")


IDS = """
print(client.predict("echo", x)[0, 0])
child = fork(lambda: own_rows(0))
assert own_rows(0) and child() == "True"
"""


def test_parent_and_child_name_their_requests_differently(run_root: Path) -> None:
    """The server's log can tell them apart."""
    with http_server() as server:
        run(IDS, server.address)
    assert len(server.ids) == len(set(server.ids)) > 200


A_FUTURE_OF_THE_PARENT = """
future = client.submit("echo", x, method="silent", timeout=20)

def ask():
    said = []
    for _ in range(2):
        try:
            future.result()
        except Exception as exc:
            said.append(type(exc).__name__)
        mine = client.submit("echo", x)
        future.cancel()
        said.append(bool((mine.result(10) == x).all()))
    return said

assert fork(ask)() == repr(["StateError", True, "CancelledError", True])
assert not future.done()
os._exit(0)  # to close it here would cancel the request
"""


def test_a_future_of_the_parent_is_of_no_use_in_the_child(run_root: Path) -> None:
    """It says so; and to cancel it there touches no other request, in neither process."""
    with dispatcher(run_root) as server:
        run(A_FUTURE_OF_THE_PARENT, server.address)
        assert not server.cancelled.is_set()


NOBODY_THERE = """
address = sys.argv[1]
assert own_rows(0)
print("ready", flush=True)
sys.stdin.readline()

def ask():
    said = []
    for timeout in (0.3, 0.3):
        try:
            client.predict("echo", x, timeout=timeout)
        except Exception as exc:
            said.append(type(exc).__name__)
    os.write(1, (" ".join(said) + chr(10)).encode())
    return bool((client.predict("echo", x) == x).all())

assert fork(ask)() == "True"
"""


def test_a_child_that_meets_no_server_tries_again(run_root: Path) -> None:
    """Its first calls fail within their timeouts; once there is a server, they do not."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + NOBODY_THERE]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(dispatcher(run_root))
        process = stack.enter_context(
            subprocess.Popen(
                [*command, first.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(process.kill)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first.stop()
        process.stdin.write("go\n")
        process.stdin.flush()
        assert set(process.stdout.readline().split()) <= {"Unavailable", "DeadlineExceeded"}
        stack.enter_context(dispatcher(run_root, epoch="e2"))
        assert process.wait(LIMIT) == 0


def test_a_value_is_made_once_in_a_process() -> None:
    """All threads have the same one."""
    values: OfProcess[list[int]] = OfProcess(list)
    assert values.get() is values.get()
