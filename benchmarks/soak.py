"""Many requests, and what each process of the server holds before and after them.

    python benchmarks/soak.py --requests 1000000

Starts a server of the echo model (or takes a running one: --address, --pid), sends a warm-up,
waits until it is idle, notes the private memory (USS) of each process, sends the requests,
waits again, and compares. Every answer is compared with its row. Exits with 1 if a process
grew by more than --allow megabytes, or if an answer was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit

import msgspec
import orjson
import psutil
import uvloop

from tfrunner.config import RunFile

MEGABYTE = 2**20
STEADY_BYTES = 128 * 2**10
STEADY_SECONDS = 1.0
SETTLE_SECONDS = 30.0
STOP_SECONDS = 60.0


class Load:
    """So many requests, sent by all callers together.

    Args:
        total: How many.
        path: Of the predict route.
    """

    def __init__(self, total: int, path: str) -> None:
        self.total = total
        self.path = path
        self.sent = 0
        self.answered = 0
        self.wrong: list[str] = []

    def next_row(self) -> list[float] | None:
        """Return a row that no other request has, None at the end."""
        if self.sent >= self.total:
            return None
        self.sent += 1
        return [float(self.sent), -float(self.sent)]


class Caller(asyncio.Protocol):
    """A keep-alive connection that sends the next request when it has its answer."""

    def __init__(self, load: Load, done: asyncio.Future[None]) -> None:
        self.load = load
        self.done = done
        self.row: list[float] | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Send the first request."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the next request, or end."""
        self.row = self.load.next_row()
        if self.row is None:
            self.transport.close()
            return
        body = orjson.dumps({"instances": [self.row]})
        head = f"POST {self.load.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        """Compare a whole answer with its row."""
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end or len(body) < content_length(head):
            return
        self.buffer = b""
        self.load.answered += 1
        if not head.startswith(b"HTTP/1.1 200") or answer_of(body) != [self.row]:
            self.load.wrong.append(f"{self.row}: {head[:30]!r} {body[:200]!r}")
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that this caller has ended."""
        if self.row is not None:
            self.load.wrong.append(f"the connection ended: {exc}")
        if not self.done.done():
            self.done.set_result(None)


def content_length(head: bytes) -> int:
    """Return the length that the head of an answer gives."""
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])


def answer_of(body: bytes) -> object:
    """Return the rows of an answer."""
    return orjson.loads(body).get("predictions")


async def send(address: str, load: Load, *, connections: int) -> None:
    """Send all requests of a load."""
    url = urlsplit(address)
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(partial(Caller, load, end), url.hostname or "", url.port or 80)
    await asyncio.gather(*ends)


class Process(msgspec.Struct, frozen=True):
    """One process of the server, its memory in bytes."""

    name: str
    pid: int
    uss: int


def measure(pid: int) -> list[Process]:
    """Return the private memory of the supervisor and of every child."""
    supervisor = psutil.Process(pid)
    found = [Process("supervisor", pid, supervisor.memory_full_info().uss)]
    for child in supervisor.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            word = child.cmdline()
            name = word[2] if len(word) > 2 else child.name()
            found.append(Process(name, child.pid, child.memory_full_info().uss))
    return found


def settle(pid: int) -> list[Process]:
    """Return the memory once it no longer changes: the server is idle."""
    before, deadline = measure(pid), time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(STEADY_SECONDS)
        now = measure(pid)
        sizes = zip(before, now, strict=False)
        if len(before) == len(now) and all(abs(a.uss - b.uss) < STEADY_BYTES for a, b in sizes):
            return now
        before = now
    return before


@contextlib.contextmanager
def server(options: list[str]) -> Iterator[RunFile]:
    """Serve the echo model."""
    command = [sys.executable, "-m", "tfrunner", "serve", "--echo", "echo", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--json", "--log-level", "warning", *options], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield msgspec.json.decode(process.stdout.readline(), type=RunFile)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)


def soak(address: str, pid: int, arguments: argparse.Namespace) -> int:
    """Send, measure, compare; return the exit status."""
    path = f"/v1/models/{arguments.model}:predict"

    def run(total: int) -> tuple[Load, float]:
        load, begin = Load(total, path), time.monotonic()
        uvloop.run(send(address, load, connections=arguments.connections))
        return load, time.monotonic() - begin

    run(arguments.warm_up)
    before = {each.pid: each for each in settle(pid)}
    load, seconds = run(arguments.requests)
    after = {each.pid: each for each in settle(pid)}
    rows = [
        {
            "process": each.name,
            "before_mb": round(each.uss / MEGABYTE, 2),
            "after_mb": round(after[each.pid].uss / MEGABYTE, 2) if each.pid in after else None,
        }
        for each in before.values()
    ]
    is_flat = before.keys() == after.keys() and all(
        after[pid].uss - each.uss <= arguments.allow * MEGABYTE for pid, each in before.items()
    )
    outcome = {
        "requests": load.answered,
        "per_second": round(load.answered / seconds),
        "wrong": load.wrong[:10],
        "is_flat": is_flat,
        "processes": rows,
    }
    print(json.dumps(outcome, indent=2))
    return 0 if is_flat and not load.wrong and load.answered == load.total else 1


def main() -> int:
    """Read the arguments; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=20_000, help="requests before")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument(
        "--allow", type=float, default=4.0, help="megabytes that a process may grow"
    )
    parser.add_argument("--model", default="echo")
    parser.add_argument("--address", help="http://..., of a running server; with --pid")
    parser.add_argument("--pid", type=int, help="pid of its supervisor")
    parser.add_argument("options", nargs="*", help="further options of tfrunner serve, after --")
    arguments = parser.parse_args()
    if arguments.address and arguments.pid:
        return soak(arguments.address, arguments.pid, arguments)
    with server(arguments.options) as running:
        return soak(running.http, running.pid, arguments)


if __name__ == "__main__":
    sys.exit(main())
