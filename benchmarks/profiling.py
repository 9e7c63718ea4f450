"""Where each microsecond of a lone request goes: over ipc, and over HTTP with JSON.

    python -m benchmarks.profiling                  # the linear model
    python -m benchmarks.profiling --model echo     # without TensorFlow

Starts a server with nothing set whose processes note when each step of a request begins
(`benchmarks/marks`; the moments are of the system's monotonic clock, which all processes
share), sends one request after the other, and prints a table: the median of each step, and
of the whole. A step ends where the next one begins, so the steps of one request add up to
the whole exactly; their medians nearly do. Requests between whose notes others stand (a
Hello, say) are left out. A note costs 0.3 us, 12 of them a request.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

MARKS = Path(__file__).parent / "marks"

Notes = list[tuple[int, str]]
Step = tuple[str, str, str]
"""The note that begins it, where it happens, and what."""

DISPATCH_AND_RUN: tuple[Step, ...] = (
    ("frontend receive", "dispatcher", "decode, queue, assign, encode"),
    ("backend send", "ZeroMQ", "dispatcher to worker"),
    ("worker receive", "worker", "decode, assemble"),
    ("model begin", "model", "run"),
    ("model end", "worker", "check, cut, encode"),
    ("worker send", "ZeroMQ", "worker to dispatcher"),
    ("backend receive", "dispatcher", "decode, account, encode"),
    ("frontend send", "ZeroMQ", "dispatcher to gateway"),
)
IPC: tuple[Step, ...] = (
    ("begin", "client", "cast, queue, encode"),
    ("client send", "ZeroMQ", "client to dispatcher"),
    *DISPATCH_AND_RUN,
    ("client receive", "client", "decode, cut, deliver"),
)
HTTP: tuple[Step, ...] = (
    ("begin", "HTTP", "client's request, TCP"),
    ("http receive", "api", "parse, check, cast, queue, encode"),
    ("api send", "ZeroMQ", "api to dispatcher"),
    *DISPATCH_AND_RUN,
    ("api receive", "api", "decode, cut, JSON"),
    ("http send", "HTTP", "TCP, client reads the answer"),
)


def table(steps: tuple[Step, ...], windows: list[tuple[int, int]], notes: Notes) -> str:
    """Return the table of steps, in microseconds.

    Args:
        steps: In their order.
        windows: When each request began and ended, nanoseconds.
        notes: Of all processes, sorted.

    Raises:
        RuntimeError: Hardly a request left the notes that are expected.
    """
    expected = [name for name, _, _ in steps]
    rows = [row for row in _rows(expected, windows, notes) if row is not None]
    if len(rows) < len(windows) / 2:
        raise RuntimeError(f"only {len(rows)} of {len(windows)} requests left the notes {expected}")
    lines = ["| where | what | median us | share |", "|---|---|---|---|"]
    whole = statistics.median(sum(row) for row in rows)
    for index, (_, where, what) in enumerate(steps):
        middle = statistics.median(row[index] for row in rows)
        lines.append(f"| {where} | {what} | {middle / 1000:.0f} | {middle / whole:.0%} |")
    lines.append(f"| **whole** | {len(rows)} requests | {whole / 1000:.0f} | |")
    return "\n".join(lines)


def _rows(
    expected: list[str], windows: list[tuple[int, int]], notes: Notes
) -> Iterator[list[int] | None]:
    """Yield the nanoseconds of each step of each request, None where other notes stand between."""
    moments = [moment for moment, _ in notes]
    for begin, end in windows:
        inside = notes[bisect.bisect_left(moments, begin) : bisect.bisect_right(moments, end)]
        # Of several writes of one answer the first counts.
        inside = [each for before, each in pairwise([(0, ""), *inside]) if each[1] != before[1]]
        if [name for _, name in inside] != expected[1:]:
            yield None
            continue
        marks = [begin, *(moment for moment, _ in inside), end]
        yield [later - earlier for earlier, later in pairwise(marks)]


def timed(call: Callable[[], Any], count: int) -> list[tuple[int, int]]:
    """Return when each call began and ended; the first ones do not count."""
    windows = []
    for _ in range(count + count // 5):
        begin = time.monotonic_ns()
        call()
        windows.append((begin, time.monotonic_ns()))
    return windows[count // 5 :]


def over_http(address: str, name: str, row: list[float]) -> Callable[[], Any]:
    """Return a function that sends a row as JSON over a connection that stays open."""
    url = urlsplit(address)
    connection = socket.create_connection((url.hostname or "", url.port or 80))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = json.dumps({"instances": [row]}).encode()
    head = f"POST /v1/models/{name}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body

    def call() -> Any:
        connection.sendall(request)
        answer = b""
        while not answer.endswith(b"}"):
            received = connection.recv(65536)
            if not received:
                raise RuntimeError(f"the connection ended after {answer!r}")
            answer += received
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the answer is {answer!r}")

    return call


def collect(folder: Path) -> Notes:
    """Return the notes of all processes, sorted."""
    notes: Notes = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            moment, _, name = line.partition(" ")
            notes.append((int(moment), name))
    return sorted(notes)


def measure(model: str, count: int, folder: Path) -> None:
    """Serve a model, send requests, and print both tables."""
    marks = folder / "marks"
    marks.mkdir()
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(MARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    sys.path.insert(0, str(MARKS))
    import sitecustomize  # type: ignore[import-not-found]

    sitecustomize.install()
    os.environ["TFRUNNER_MARKS"] = str(marks)
    from benchmarks.client import BATCHABLE, COLUMNS, linear
    from tfrunner.testing import serve

    row = np.ones((1, COLUMNS), np.float32)
    served: Any = "echo"
    if model == "linear":
        from tfrunner.tensorflow import save

        served = save(linear(), "linear", signatures=BATCHABLE, home=folder)
    with serve(served, echo=model == "echo") as client:
        direct = timed(lambda: client.predict(model, row), count)
        web = timed(over_http(client.http_address, model, row[0].tolist()), count)
    notes = sorted([*collect(marks), *sitecustomize.notes])
    print(f"A lone request over ipc, {model} model, one row:\n\n{table(IPC, direct, notes)}\n")
    print(f"A lone request over HTTP with JSON:\n\n{table(HTTP, web, notes)}")


def main() -> int:
    """Read the arguments; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("linear", "echo"), default="linear")
    parser.add_argument("--requests", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        measure(args.model, args.requests, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
