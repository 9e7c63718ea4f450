"""Open-loop load: requests leave when the plan says so, whatever became of the earlier ones.

Latency counts from the planned moment: a server that stands still is charged for everybody
who would have come meanwhile. Every request has an id in its row, and the answer is compared
with the row. Moments are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from tests.faults.report import OK, Report, Sent

SERVICE_SECONDS = 1 / 32
"""How long the echo model sleeps for a batch; a fraction that float32 and JSON keep exactly."""

DIES = -1.0
RAISES = -2.0
"""Marks of a row: what `work` of the echo model does when it meets one."""


class Row(NamedTuple):
    """One request of one row: the seconds that its batch takes, its id, its mark.

    `width` more columns hold the id: rows of thousands do not travel inside the message.
    """

    seconds: float
    id: int
    mark: float = 0.0
    width: int = 0

    def values(self) -> list[float]:
        """Return the row as the model gets it."""
        return [self.seconds, float(self.id), self.mark, *([float(self.id)] * self.width)]


class Result(NamedTuple):
    """What became of one call: `code` is "ok", "wrong", an error's code, "reset" or "refused"."""

    code: str
    text: str = ""
    place: int = 0


class Way(Protocol):
    """A way to call the server."""

    async def call(self, row: Row, timeout: float) -> Result:
        """Send one row, compare the answer with it; never raise for what the server did."""


Rows = Callable[[int], Row]


def plain(id: int) -> Row:
    """Return the row of most requests."""
    return Row(SERVICE_SECONDS, id)


def constant(rate: float) -> Iterator[float]:
    """Return the seconds between arrivals, `rate` of them in each second."""
    return itertools.repeat(1.0 / rate)


def poisson(rate: float, seed: int = 1) -> Iterator[float]:
    """Return the seconds between arrivals of a Poisson process."""
    choose = random.Random(seed)
    while True:
        yield choose.expovariate(rate)


class Load:
    """What was sent, and what became of it.

    Args:
        way: How the server is called.
        rows: Gives the row for each id.
        timeout: Seconds that each request has.
    """

    def __init__(self, way: Way, *, rows: Rows = plain, timeout: float = 30.0) -> None:
        self.report = Report(timeout)
        self._way = way
        self._rows = rows
        self._timeout = timeout
        self._last_id = 0
        self._is_stopped = False
        self._calls: set[asyncio.Task[None]] = set()

    async def arrive(self, gaps: Iterator[float]) -> None:
        """Send requests with these gaps between them, until cancelled."""
        planned = time.monotonic()
        for gap in gaps:
            planned += gap
            ahead = planned - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            self.send(planned)

    async def burst(self, rows: Iterable[Row]) -> None:
        """Send these rows at once, and wait for their outcomes."""
        now = time.monotonic()
        await asyncio.gather(*(self._send_row(row, now) for row in rows))

    async def repeat(self) -> None:
        """Be one caller of a closed loop: the next request follows the answer; until `stop`."""
        while not self._is_stopped:
            await self._call(time.monotonic())

    def stop(self) -> None:
        """Let `repeat` end; before Python 3.12 `wait_for` may swallow a cancellation."""
        self._is_stopped = True

    def send(self, planned: float) -> None:
        """Send one request that was planned for this moment."""
        task = asyncio.get_running_loop().create_task(self._call(planned))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def settle(self) -> None:
        """Wait until every request has its outcome; a call that hangs is an outcome, too."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._timeout + 10.0)
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _call(self, planned: float) -> None:
        self._last_id += 1
        await self._send_row(self._rows(self._last_id), planned)

    async def _send_row(self, row: Row, planned: float) -> None:
        begun = time.monotonic()
        result = Result("cancelled")
        try:
            result = await self._way.call(row, self._timeout)
        except asyncio.CancelledError:
            if begun + self._timeout < time.monotonic():
                result = Result("hung")
            raise
        finally:
            self.report.add(Sent(row.id, planned, begun, time.monotonic(), *result))


@asynccontextmanager
async def under_load(
    way: Way,
    rate: float,
    *,
    rows: Rows = plain,
    timeout: float = 30.0,
    bursty: bool = False,
) -> AsyncIterator[Report]:
    """Send `rate` requests a second while the block runs; wait for all answers at its end.

    Args:
        way: How the server is called.
        rate: Requests a second.
        rows: Gives the row for each id.
        timeout: Seconds that each request has.
        bursty: Whether arrivals are a Poisson process rather than evenly spaced.
    """
    load = Load(way, rows=rows, timeout=timeout)
    gaps = poisson(rate) if bursty else constant(rate)
    arrivals = asyncio.get_running_loop().create_task(load.arrive(gaps))
    try:
        yield load.report
    finally:
        arrivals.cancel()
        await asyncio.gather(arrivals, return_exceptions=True)
        await load.settle()


async def capacity(way: Way, *, callers: int, seconds: float = 1.5, rows: Rows = plain) -> float:
    """Return the answers per second that a closed loop gets.

    Args:
        way: How the server is called.
        callers: Requests that are always in flight.
        seconds: How long it is measured, after a third of that to warm up.
        rows: Gives the row for each id.
    """
    load = Load(way, rows=rows)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(load.repeat()) for _ in range(callers)]
    await asyncio.sleep(seconds / 3)
    begin = time.monotonic()
    await asyncio.sleep(seconds)
    end = time.monotonic()
    load.stop()
    await asyncio.gather(*tasks)
    good = sum(1 for s in load.report.sent if s.code == OK and begin <= s.ended < end)
    return good / (end - begin)
