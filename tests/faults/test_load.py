"""The harness itself: what it counts, and what it must not overlook."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable

import pytest

from tests.faults.load import Load, Result, Row, plain, poisson, under_load
from tests.faults.report import OK, REFUSED, RESET, WRONG
from tests.faults.ways import HttpWay


class Standstill:
    """Answers at once, but stands still for a while with its fifth request."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def call(self, row: Row, timeout: float) -> Result:
        """Answer."""
        if row.id == 5:
            time.sleep(self.seconds)  # nothing moves meanwhile: that is the point
        return Result(OK)


class Silent:
    """Never answers."""

    async def call(self, row: Row, timeout: float) -> Result:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError


def test_a_standstill_is_charged_to_everybody_who_would_have_come():
    """Latency counts from the planned moment, not from the moment of sending."""

    async def run() -> list[float]:
        load = Load(Standstill(0.5))
        await load.arrive(itertools.repeat(0.005, 60))
        await load.settle()
        return [each.latency for each in load.report.sent]

    latencies = asyncio.run(run())
    assert len(latencies) == 60
    assert sum(1 for each in latencies if each > 0.25) >= 40  # 95 were due, 55 came


def test_a_call_that_never_returns_is_an_outcome():
    """It counts as hung, not as never sent."""

    async def run() -> list[str]:
        load = Load(Silent(), timeout=-10.0)  # settle waits ten seconds beyond the timeout
        load.send(time.monotonic())
        await load.settle()
        return [each.code for each in load.report.sent]

    assert asyncio.run(run()) == ["hung"]


def test_a_poisson_process_has_the_rate_that_was_asked_for():
    """And is not evenly spaced."""
    gaps = list(itertools.islice(poisson(100.0), 10_000))
    assert sum(gaps) == pytest.approx(100.0, rel=0.05)
    assert min(gaps) < 0.001 and max(gaps) > 0.05


# --- HTTP, against a server of a few lines ------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], "asyncio.Future[None]"]


def call_over_http(handler: object, *, count: int = 1) -> tuple[list[Result], HttpWay]:
    """Return what becomes of calls, one after the other, to a server with this handler."""

    async def run() -> tuple[list[Result], HttpWay]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, HttpWay(f"http://127.0.0.1:{port}") as way:
            return [await way.call(plain(id), 5.0) for id in range(1, count + 1)], way

    return asyncio.run(run())


async def read(reader: asyncio.StreamReader) -> list[list[float]]:
    """Return the rows of a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split()[0])
    return json.loads(await reader.readexactly(length))["instances"]


def reply(rows: object, *, status: int = 200, close: bool = False) -> bytes:
    """Return a reply with these predictions."""
    body = json.dumps({"predictions": rows}).encode()
    end = "Connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status} X\r\n{end}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def swap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the next request's row."""
    rows = await read(reader)
    rows[0][1] += 1
    writer.write(reply(rows))
    await writer.drain()
    writer.close()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request, and close without an answer."""
    await read(reader)
    writer.close()


async def announce(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer once, and say that the connection ends."""
    writer.write(reply(await read(reader), close=True))
    await writer.drain()
    writer.close()


def test_another_requests_row_is_found():
    """A right answer to somebody else is a wrong answer."""
    (result,), _ = call_over_http(swap)
    assert result.code == WRONG


def test_a_request_that_is_cut_off_counts_as_reset():
    """The connection was open when it was sent."""
    (result,), _ = call_over_http(cut)
    assert result.code == RESET


def test_a_connection_that_was_announced_to_close_is_not_used_again():
    """The next request opens another one, and succeeds."""
    results, way = call_over_http(announce, count=3)
    assert [each.code for each in results] == [OK] * 3
    assert way.announced == 3


def test_a_refused_connect_is_counted_apart():
    """Nobody had taken the request."""

    async def run() -> Result:
        server = await asyncio.start_server(cut, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with HttpWay(f"http://127.0.0.1:{port}") as way, under_load(way, 50.0) as report:
            result = await way.call(plain(1), 5.0)
        assert set(report.codes()) <= {REFUSED}
        return result

    assert asyncio.run(run()).code == REFUSED
