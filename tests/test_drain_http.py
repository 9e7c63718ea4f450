"""The end of an api process, seen from open connections: no request is lost, none is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from tests.gateway_world import LIMIT, FakeDispatcher, block, rows
from tests.test_api_process import ApiProcess, run
from tfrunner import protocol as p
from tfrunner.api.server import take_waiting

CONNECTIONS = 16
BEFORE = 200
"""Answers that the connections have had, all together, when the signal comes."""

BODY = b'{"instances": [[1, 2]]}'
REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
IN_CHUNKS = (
    b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
)
BOTH_WAYS = pytest.mark.parametrize("data", [REQUEST, IN_CHUNKS], ids=["direct", "ASGI"])
"""A body in chunks always goes through ASGI."""

READY = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Outcome:
    """What became of the requests of all connections.

    `cut` are connections that the kernel made in the very moment in which the last copy of the
    listener was closed: nobody could take them. They are new, and their callers knew of the end.
    """

    answered: int = 0
    told: int = 0
    refused: int = 0
    cut: int = 0
    failed: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Reply:
    """A reply as it came over the wire."""

    status: int
    head: bytes
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether it says that the connection ends."""
        return b"connection: close" in self.head.lower()


class Line:
    """A keep-alive connection of a plain HTTP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def reply(self) -> Reply:
        """Return the next reply."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        return Reply(int(head.split()[1]), head, await self.reader.readexactly(length))

    async def ask(self, data: bytes) -> Reply:
        """Send a request; return its reply."""
        self.send(data)
        return await self.reply()

    async def end(self) -> bytes:
        """Return what comes until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), LIMIT)


@contextlib.asynccontextmanager
async def line(api: ApiProcess) -> AsyncIterator[Line]:
    """Connect to an api process."""
    url = httpx.URL(api.address)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(dispatcher: FakeDispatcher) -> AsyncIterator[None]:
    """Answer every request with the row 0, as long as the block runs."""

    async def answer() -> None:
        while True:
            submit = await dispatcher.next(p.Submit)
            spans = [(request.id, 0, 1, 1) for request in submit.requests]
            for span in spans:
                dispatcher.send(p.Results((block([span], rows(0, 1)),)))

    task = asyncio.ensure_future(answer())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, asyncio.TimeoutError):
            await task


async def call_until_refused(
    api: ApiProcess, outcome: Outcome, *, pause: float, data: bytes
) -> None:
    """Send request after request, on a new connection whenever the server says that one ends."""
    was_told, answers = False, 0
    while True:
        try:
            async with line(api) as connection:
                answers = 0
                while not (reply := await connection.ask(data)).is_last:
                    answers += 1
                    count(outcome, reply)
                    await asyncio.sleep(pause)
                count(outcome, reply)
                outcome.told += 1
                was_told = True
        except ConnectionRefusedError:
            outcome.refused += 1
            return
        except (OSError, asyncio.IncompleteReadError) as exc:
            if was_told and not answers:
                outcome.cut += 1
            else:
                outcome.failed.append(repr(exc))
            return


def count(outcome: Outcome, reply: Reply) -> None:
    """Note a reply."""
    outcome.answered += 1
    if reply.status != 200:
        outcome.failed.append(f"status {reply.status}: {reply.body!r}")
    if outcome.answered == BEFORE:
        outcome.enough.set()


@BOTH_WAYS
@pytest.mark.parametrize("pause", [0.0, 0.2], ids=["without pause", "with pauses"])
def test_no_request_on_an_open_connection_fails(pause: float, data: bytes) -> None:
    """Sixteen connections send on while SIGTERM comes: all are answered, and told of the end."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        outcome = Outcome()
        async with answering(dispatcher):
            callers = [
                asyncio.ensure_future(call_until_refused(api, outcome, pause=pause, data=data))
                for _ in range(CONNECTIONS)
            ]
            await asyncio.wait_for(outcome.enough.wait(), LIMIT)
            api.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(asyncio.gather(*callers), LIMIT)
            assert await api.end() == 0
        assert outcome.failed == []
        assert outcome.refused + outcome.cut == CONNECTIONS
        assert outcome.told >= CONNECTIONS
        assert outcome.answered > BEFORE

    run(story)


@BOTH_WAYS
def test_the_end_is_said_on_open_connections_and_then_done(data: bytes) -> None:
    """/readyz is 503 at once; each answer says that its connection ends; idle ones end silently."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with answering(dispatcher), line(api) as asking, line(api) as idle, line(api) as new:
            assert (await idle.ask(data)).status == 200
            api.process.send_signal(signal.SIGTERM)
            while not (await asking.ask(data)).is_last:
                pass
            assert await asking.end() == b""
            reply = await new.ask(READY)
            assert (reply.status, json.loads(reply.body)) == (503, {"status": "draining"})
            assert reply.is_last
            assert await idle.end() == b""
            assert await api.end() == 0

    run(story)


@pytest.mark.parametrize("status", [200, 400])
@BOTH_WAYS
def test_the_last_of_pipelined_requests_says_that_the_connection_ends(
    data: bytes, status: int
) -> None:
    """Those before it are answered too, also where nobody has to be asked for the answer."""
    sent = data if status == 200 else data.replace(b"[[1, 2]]", b"[[1, {]]")

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with answering(dispatcher), line(api) as asking, line(api) as pipelining:
            assert (await pipelining.ask(data)).status == 200
            api.process.send_signal(signal.SIGTERM)
            while not (await asking.ask(data)).is_last:
                pass
            pipelining.send(sent * 3)
            replies = [await pipelining.reply() for _ in range(3)]
            assert [(each.status, each.is_last) for each in replies] == [
                (status, False),
                (status, False),
                (status, True),
            ]
            assert await pipelining.end() == b""

    run(story)


def test_what_waits_in_the_backlog_goes_to_a_sibling() -> None:
    """Our copy of the listener closes; a connection that nobody has taken is not reset."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with answering(dispatcher), line(api) as connection:
            assert (await connection.ask(REQUEST)).status == 200
        api.process.send_signal(signal.SIGTERM)
        assert await api.end() == 0
        listener = api.listener
        loop = asyncio.get_running_loop()
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"hello")
            listener.setblocking(False)
            taken, _ = await asyncio.wait_for(loop.sock_accept(listener), LIMIT)
            with taken:
                assert await loop.sock_recv(taken, 5) == b"hello"

    run(story, keep_listener=True)


@BOTH_WAYS
def test_what_waits_in_the_backlog_of_the_last_process_is_answered(data: bytes) -> None:
    """Nobody else holds the listener: who was connected before it closes gets an answer."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with answering(dispatcher):
            async with line(api) as connection:
                assert (await connection.ask(data)).status == 200
            api.process.send_signal(signal.SIGSTOP)
            async with contextlib.AsyncExitStack() as stack:
                waiting = [await stack.enter_async_context(line(api)) for _ in range(50)]
                for each in waiting:
                    each.send(data)
                api.process.send_signal(signal.SIGTERM)
                api.process.send_signal(signal.SIGCONT)
                replies = [await each.reply() for each in waiting]
            assert [reply.status for reply in replies] == [200] * 50
            assert await api.end() == 0

    run(story)


def test_everything_in_the_backlog_is_taken() -> None:
    """With its bytes; afterwards this copy of the listener is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(20)
        ]
        for number, client in enumerate(clients):
            client.sendall(bytes([number]))
        copy = listener.dup()
        taken = [stack.enter_context(each) for each in take_waiting(copy)]
        assert sorted(each.recv(1)[0] for each in taken) == list(range(20))
        assert copy.fileno() == -1


@BOTH_WAYS
def test_at_the_end_of_the_grace_period_what_waits_is_told(data: bytes) -> None:
    """503 with the id of the request; the process ends with 0."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with line(api) as connection:
            connection.send(data.replace(b"Host: x", b"Host: x\r\nX-Request-Id: mine"))
            await dispatcher.next(p.Submit)
            api.process.send_signal(signal.SIGTERM)
            reply = await connection.reply()
            assert reply.status == 503
            assert json.loads(reply.body)["request_id"] == "mine"
            assert reply.is_last
            assert await api.end() == 0

    run(story, grace=0.5)
