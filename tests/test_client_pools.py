"""The pools of HTTP connections: which is used, and what an interruption leaves of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.client_world import http_server, rows
from tfrunner.client import AsyncClient
from tfrunner.client_pools import POOL_CONNECTIONS, POOLS, Pools
from tfrunner.errors import StateError

LIMIT = 60.0


class Pool:
    """A pool that knows whether it is closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        """Close."""
        self.is_closed = True


class Harmless(Exception):
    """What leaves a pool as it was."""


@pytest.fixture
def pools() -> Pools[Pool]:
    """Return pools of nothing."""
    return Pools(Pool, close=Pool.close, harmless=(Harmless,))


@contextlib.contextmanager
def used(pools: Pools[Pool], count: int) -> Iterator[list[Pool]]:
    """Use so many pools at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(pools.use()) for _ in range(count)]


def test_a_pool_is_shared_until_it_is_full(pools: Pools[Pool]) -> None:
    """Then there is another, up to the last; then the one with least to do."""
    with used(pools, POOL_CONNECTIONS + 1) as taken:
        assert len(set(taken)) == 2
    with used(pools, POOLS * POOL_CONNECTIONS + 1) as taken:
        assert len(set(taken)) == POOLS
    with pools.use() as pool:
        assert pool in taken


def test_what_httpcore_raises_leaves_the_pool_in_use(pools: Pools[Pool]) -> None:
    """It has put it in order itself."""
    with pytest.raises(Harmless), pools.use() as pool:
        raise Harmless
    with pools.use() as another:
        assert another is pool
    assert not pool.is_closed


def test_a_pool_that_was_interrupted_is_used_no_more(pools: Pools[Pool]) -> None:
    """Who else uses it ends in peace; the last one closes it."""
    with pools.use() as pool:
        with pytest.raises(KeyboardInterrupt), pools.use() as same:
            assert same is pool
            raise KeyboardInterrupt
        assert not pool.is_closed
        with pools.use() as another:
            assert another is not pool
    assert pool.is_closed and not another.is_closed


def test_the_main_thread_shares_no_pool(pools: Pools[Pool]) -> None:
    """An interruption may leave a lock of its pool held; only it is ever interrupted."""
    others: list[Pool] = []

    def use() -> None:
        with pools.use() as pool:
            others.append(pool)

    with pools.use() as mine:
        for _ in range(2):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
    assert others[0] is others[1] is not mine
    assert pools.end() == [] and mine.is_closed and others[0].is_closed


def test_the_end_closes_what_is_idle_and_tells_what_is_not(pools: Pools[Pool]) -> None:
    """Who is the last to leave a pool closes it; there is no other use."""
    with used(pools, POOL_CONNECTIONS + 1) as taken:
        pass
    with pools.use() as busy:
        assert pools.end() == [busy]
        assert [each for each in set(taken) if not each.is_closed] == [busy]
        with pytest.raises(StateError, match="closed"), pools.use():
            pass
    assert busy.is_closed
    assert pools.end() == []


INTERRUPTED = """
import contextlib, faulthandler, gc, os, random, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from tests.client_world import rows
from tfrunner.client import Client

class Interrupted({base}):
    pass

CAUGHT = Interrupted if {base} is Exception else {base}  # httpcore takes it for a socket's own

is_armed = False

def interrupt(number, frame):
    global is_armed
    is_armed = False
    raise Interrupted

faulthandler.dump_traceback_later(100, exit=True)

signal.signal(signal.SIGALRM, interrupt)
draw = random.Random(4).uniform
client = Client(sys.argv[1], timeout=10)
client.predict("echo", rows())
is_over = threading.Event()

def call(first):
    number = first
    while not is_over.is_set():
        assert (client.predict("echo", rows() + number) == rows() + number).all()
        number += 1
    return number - first

count = 0
with ThreadPoolExecutor(2) as threads:
    others = [threads.submit(call, 10_000), threads.submit(call, 20_000)]
    try:
        while count < 400:
            with contextlib.suppress(CAUGHT):
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, draw(1e-5, 4e-3))
                while is_armed:  # what a destructor raises, Python passes over
                    client.predict("echo", rows())
            count += 1
            assert (client.predict("echo", rows() + count) == rows() + count).all()
    finally:
        is_over.set()
    assert all(each.result() > 0 for each in others)
client.close()
gc.collect()
for each in os.listdir("/proc/self/fd"):
    with contextlib.suppress(FileNotFoundError):
        assert "socket:" not in os.readlink("/proc/self/fd/" + each)
print("end")
"""


@pytest.mark.parametrize("base", ["Exception", "TimeoutError"])
def test_a_client_works_on_after_every_interruption(
    base: str, request: pytest.FixtureRequest
) -> None:
    """Ctrl-C in a notebook, or somebody's own alarm, so many times, while other threads call.

    In the long form 400 times. About one interruption in two thousand hits httpcore between taking
    its lock and being ready to give it back: its own clean-up then waits for ever.
    """
    if not request.config.getoption("--long"):
        pytest.skip("an interruption may hit inside httpcore's own lock: see --long")
    with http_server() as server:
        story = INTERRUPTED.format(base=base)
        command = [sys.executable, "-W", "ignore", "-c", story, server.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stdout + done.stderr


def test_an_async_client_works_on_after_every_cancelled_call() -> None:
    """Wherever a task was when it was cancelled."""
    draw = random.Random(3).uniform

    async def story(address: str) -> None:
        async with AsyncClient(address, timeout=LIMIT) as client:
            await client.predict("echo", rows())
            for number in range(300):
                task = client.submit("echo", rows())
                await asyncio.wait([task], timeout=draw(0, 4e-3))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                if number % 10 == 0:
                    got = await asyncio.gather(*[client.submit("echo", rows())] * 5)
                    np.testing.assert_array_equal(got[0], rows())

    with http_server() as server:
        asyncio.run(story(server.address))
