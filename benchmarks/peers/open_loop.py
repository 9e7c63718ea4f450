"""An open loop: requests fall due at fixed moments, whether or not answers come.

    python open_loop.py URL RATE SECONDS CONNECTIONS    (BODY and HEADERS as for closed.lua)

Latency counts from the moment at which a request was *due*: what waits for a free connection
because the server is slow, waits at the server's expense (no coordinated omission). What has
no answer GRACE_SECONDS after the last was due counts as failed, with the time it had.
wrk cannot do it: its connections send when they have their answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop

GRACE_SECONDS = 3.0
TICK_SECONDS = 0.0005


class Schedule:
    """Requests that are due, those that wait for a connection, and what became of them.

    Args:
        message: The bytes of the request.
        rate: Requests per second.
        total: How many.
    """

    def __init__(self, message: bytes, rate: float, total: int) -> None:
        self.message = message
        self.rate = rate
        self.total = total
        self.started = 0.0
        self.next = 0
        self.waiting: deque[float] = deque()
        self.idle: list[Connection] = []
        self.open = 0
        self.latencies: list[float] = []
        self.failed = 0

    def release(self, now: float) -> None:
        """Queue what has fallen due, and give it to idle connections."""
        while self.next < self.total and self.started + self.next / self.rate <= now:
            self.waiting.append(self.started + self.next / self.rate)
            self.next += 1
        while self.waiting and self.idle:
            self.idle.pop().send(self.waiting.popleft())

    def has_answered(self, due: float, status: int) -> None:
        """Note an answer."""
        self.latencies.append(time.perf_counter() - due)
        self.failed += status != 200

    def is_over(self) -> bool:
        """Return whether every request has its answer."""
        return len(self.latencies) == self.total


class Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request under way."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.due = 0.0
        self.is_busy = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Be ready."""
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.schedule.idle.append(self)
        self.schedule.open += 1

    def send(self, due: float) -> None:
        """Send a request that was due then."""
        self.due, self.is_busy = due, True
        self.transport.write(self.schedule.message)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Note the answer, and be ready again."""
        self.is_busy = False
        self.schedule.has_answered(self.due, self.parser.get_status_code())
        if self.parser.should_keep_alive():
            self.schedule.idle.append(self)
            self.schedule.release(time.perf_counter())
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that was under way as failed."""
        self.schedule.open -= 1
        if self in self.schedule.idle:
            self.schedule.idle.remove(self)
        if self.is_busy:
            self.is_busy = False
            self.schedule.has_answered(self.due, 0)


async def run(url: str, schedule: Schedule, *, connections: int) -> float:
    """Play the schedule; return the seconds it took."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    loop = asyncio.get_running_loop()

    async def connect() -> None:
        await loop.create_connection(lambda: Connection(schedule), host, port)

    await asyncio.gather(*(connect() for _ in range(connections)))
    schedule.started = time.perf_counter()
    end = schedule.started + schedule.total / schedule.rate + GRACE_SECONDS
    while not schedule.is_over() and (now := time.perf_counter()) < end:
        schedule.release(now)
        for _ in range(schedule.open, connections):  # servers may close what they have answered
            await connect()
        await asyncio.sleep(TICK_SECONDS)
    return time.perf_counter() - schedule.started


def main() -> int:
    """Run as said on the command line; print the result."""
    url, rate, seconds, connections = sys.argv[1], *map(float, sys.argv[2:5])
    parts = urlsplit(url)
    body = Path(os.environ["BODY"]).read_bytes()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n"
    head += os.environ["HEADERS"].replace("\n", "\r\n") + "\r\n"
    schedule = Schedule(head.encode() + body, rate, max(1, round(rate * seconds)))
    taken = uvloop.run(run(url, schedule, connections=int(connections)))
    unanswered = schedule.total - len(schedule.latencies)
    latencies = np.array(schedule.latencies + [taken] * unanswered)
    result = {
        "requests": schedule.total,
        "seconds": taken,
        "p50": float(np.percentile(latencies, 50)),
        "p99": float(np.percentile(latencies, 99)),
        "mean": float(latencies.mean()),
        "failed": schedule.failed + unanswered,
    }
    print("RESULT " + json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
