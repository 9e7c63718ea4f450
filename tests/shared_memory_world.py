"""A real server, and gateways beside it whose shared memory is as small as a test wants.

A body is a row that consists of one number, but for its first and third elements: `work` sleeps
as many seconds as the first says, and ends its worker if the third is then -1. So a slot that
is used again while a worker still holds it kills that worker, or answers with another's number.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.waiting import wait_for
from tfrunner.background import BackgroundGateway
from tfrunner.casting import cast
from tfrunner.testing import ServedClient

COLUMNS = 20_000
BODY = 4 * COLUMNS
"""Bytes of a row."""

ROOM = 81_920
"""Bytes of a slot for one row."""

PATIENCE = 60.0

Rows = NDArray[np.float32]


def row(number: float, *, seconds: float = 0.0, mark: float = 0.0) -> Rows:
    """Return one row."""
    array = np.full((1, COLUMNS), number, np.float32)
    array[0, 0], array[0, 2] = seconds, mark
    return array


class Caller:
    """A gateway of this process, with shared memory for so many rows.

    Args:
        address: The dispatcher's frontend.
        rows: How many there is room for.
    """

    def __init__(self, address: str, rows: int) -> None:
        self.gateway = BackgroundGateway(address, name="caller", shared=rows * ROOM)
        self.sent = 0

    def submit(self, array: Rows, method: str = "work", timeout: float = PATIENCE) -> Future[Any]:
        """Send rows."""
        self.sent += 1
        model = self.gateway.find("echo")
        spec = model.methods[method]
        return self.gateway.submit(model, spec, cast(spec, (array,), {}), timeout=timeout)

    def way_of(self, array: Rows, method: str = "__call__") -> str:
        """Send rows, check that they come back, and return how they went."""
        before = self.ways()
        assert np.array_equal(self.submit(array, method).result(PATIENCE), array)
        after = self.ways()
        (way,) = [way for way, count in after.items() if count != before.get(way, 0)]
        return way

    def ways(self) -> dict[str, float]:
        """Return how many large bodies went which way, once the dispatcher was told of all."""

        def find() -> tuple[dict[str, float], ...]:
            found = self.gateway.ask()["counters"].get("large_bodies", {})
            return (found,) if sum(found.values()) >= self.sent else ()

        (counted,) = wait_for(find)
        return counted


@contextmanager
def caller(server: ServedClient, *, rows: int) -> Iterator[Caller]:
    """Open a gateway."""
    made = Caller(server.address, rows)
    with made.gateway:
        yield made


def running(server: ServedClient) -> list[int]:
    """Return the process ids of workers that run a batch."""
    workers = server.status()["workers"].values()
    return [worker["pid"] for worker in workers if worker["running"]]


def wait_until_running(server: ServedClient, count: int = 1) -> list[int]:
    """Return them once there are so many."""
    return wait_for(lambda: found if len(found := running(server)) >= count else [])


def maps(pid: int) -> list[str]:
    """Return the segments that a process has mapped."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    return sorted({line.split("/memfd:")[1] for line in lines if "/memfd:tfrunner" in line})


async def wait_until(condition: Callable[[], bool]) -> None:
    """Let an event loop go on until a condition holds, with a limit."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, f"it did not happen within {PATIENCE} s"
        await asyncio.sleep(0.005)


def open_files() -> list[str]:
    """Return what this process's descriptors are."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found
