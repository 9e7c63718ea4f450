"""What clients survive or leave behind: event loops, collection, exits, servers that go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.client_world import Dispatcher, HttpServer, dispatcher, http_server, rows
from tfrunner.client import AsyncClient, Client
from tfrunner.errors import DeadlineExceeded, StateError, Unavailable

LIMIT = 30.0


@pytest.fixture(params=["http", "ipc"])
def server(request: pytest.FixtureRequest, run_root: Path) -> Iterator[HttpServer | Dispatcher]:
    """Run a server that answers every request with its input."""
    with http_server() if request.param == "http" else dispatcher(run_root) as running:
        yield running


# --- event loops ------------------------------------------------------------------------------


def test_an_async_client_refuses_another_event_loop(server: HttpServer | Dispatcher) -> None:
    """One error, whatever is called, and whether the first event loop still runs or not."""
    client = AsyncClient(server.address, timeout=LIMIT)

    async def refused() -> None:
        every = (client.models, client.is_ready, client.status)
        for call in (*every, lambda: client.predict("echo", rows())):
            with pytest.raises(StateError, match="belongs to the event loop of its first call"):
                await call()

    async def story() -> None:
        await client.predict("echo", rows())
        await asyncio.to_thread(asyncio.run, refused())
        with pytest.raises(StateError, match="event loop"):
            await asyncio.to_thread(asyncio.run, client.close())
        np.testing.assert_array_equal(await client.predict("echo", rows()), rows())
        await client.close()

    asyncio.run(story())
    asyncio.run(client.close())


def test_an_async_client_outlives_its_event_loop_to_be_closed(
    server: HttpServer | Dispatcher,
) -> None:
    """Its connections ended with the event loop; closing it elsewhere then is no error."""
    story = f"""
import asyncio, gc
from tests.client_world import rows
from tfrunner.client import AsyncClient
client = AsyncClient({server.address!r})
asyncio.run(client.predict("echo", rows()))
try:
    asyncio.run(client.predict("echo", rows()))
except Exception as exc:
    print(type(exc).__name__)
asyncio.run(client.close())
asyncio.run(client.close())
del client
gc.collect()
print("end")
"""
    assert in_process(story) == ["StateError", "end"]


# --- what nobody closes -----------------------------------------------------------------------


def in_process(story: str, *, warnings: str = "ignore") -> list[str]:
    """Run a story in a process of its own; return its words."""
    command = [sys.executable, "-W", warnings, "-c", story]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.split()


UNCLOSED = """
import asyncio, gc, os, threading, time
from concurrent.futures import ThreadPoolExecutor
from tests.client_world import rows
from tfrunner.client import AsyncClient, Client
ADDRESS = {address!r}

def held():
    "Descriptors and threads of this process."
    return len(os.listdir("/proc/self/fd")), threading.active_count()

async def call_async():
    assert (await AsyncClient(ADDRESS).predict("echo", rows())).shape == (3, 2)

def call():
    assert Client(ADDRESS).predict("echo", rows()).shape == (3, 2)

def is_left(least):
    gc.collect()
    return any(now > then for now, then in zip(held(), least))

async def until_gone(least):
    limit = time.monotonic() + 20
    while is_left(least) and time.monotonic() < limit:
        await asyncio.sleep(0.05)
    assert not is_left(least), (held(), least)
"""

IN_LOOPS_OF_THEIR_OWN = """
asyncio.run(call_async())
gc.collect()
before = held()
for number in range(20):
    asyncio.run(call_async())
assert not is_left(before), (held(), before)
print("end")
"""

IN_ONE_LOOP = """
async def story():
    await call_async()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    await asyncio.to_thread(int)  # the thread in which links are closed
    await until_gone((1000, 1000))
    before = held()
    for number in range(20):
        await call_async()
    await until_gone(before)

asyncio.run(story())
print("end")
"""

IN_THREADS = """
async def story():
    before = held()
    for number in range(20):
        call()
    await until_gone(before)

asyncio.run(story())
print("end")
"""


@pytest.mark.parametrize(
    "story",
    [IN_LOOPS_OF_THEIR_OWN, IN_ONE_LOOP, IN_THREADS],
    ids=["loops", "one loop", "threads"],
)
def test_what_nobody_closes_is_collected(server: HttpServer | Dispatcher, story: str) -> None:
    """Its process does not hang, and loses neither descriptors nor threads."""
    assert in_process(UNCLOSED.format(address=server.address) + story) == ["end"]


def test_what_nobody_closes_is_warned_of(run_root: Path) -> None:
    """Python's own warning, where it is asked for."""
    with dispatcher(run_root) as server:
        begin = UNCLOSED.format(address=server.address)
        command = [sys.executable, "-W", "default", "-c", begin + IN_ONE_LOOP]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" in done.stderr
    assert "was not closed" in done.stderr


# --- the end of the process -------------------------------------------------------------------


EXIT = """
import threading
from tests.client_world import rows
from tfrunner.client import Client
client = Client({address!r}, timeout=2)
client.predict("echo", rows())
futures = [client.submit("echo", rows(), method="silent") for _ in range(4)]
for _ in range(4):
    def call():
        try:
            client.predict("echo", rows(), method="silent")
        except Exception:
            pass
    threading.Thread(target=call, daemon=True).start()
{more}
print("end")
"""


@pytest.mark.parametrize("more", ["", "client.close()", "raise SystemExit(0)"])
def test_a_process_ends_with_calls_in_flight(server: HttpServer | Dispatcher, more: str) -> None:
    """Within their timeout, without a word on standard error."""
    told = in_process(EXIT.format(address=server.address, more=more))
    assert told == ([] if "raise" in more else ["end"])


# --- a server that starts again ---------------------------------------------------------------


@pytest.mark.parametrize("way", ["http", "ipc"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_client_is_used_again_after_its_server_began_again(
    run_root: Path, way: str, is_async: bool
) -> None:
    """With connections that the server of before has ended; one that runs first, too."""
    loop = asyncio.new_event_loop()
    port, client = 0, None
    try:
        for life in range(3):
            begun = dispatcher(run_root, epoch=f"e{life}") if way == "ipc" else http_server(port)
            with begun as server:
                if client is None:
                    client = (AsyncClient if is_async else Client)(server.address, timeout=LIMIT)
                    port = int(server.address.rpartition(":")[2]) if way == "http" else 0
                for number in range(3):
                    got = client.predict("echo", rows() + number)
                    got = loop.run_until_complete(got) if is_async else got
                    np.testing.assert_array_equal(got, rows() + number)
            with pytest.raises((Unavailable, DeadlineExceeded)):
                got = client.predict("echo", rows(), timeout=0.3)
                loop.run_until_complete(got)
    finally:
        closing = client.close() if client is not None else None
        if closing is not None:
            loop.run_until_complete(closing)
        loop.close()
