"""The bounds of an api process: each one filled, and what the other connections notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests import test_drain_http as drain
from tests.api_world import BOTH_WAYS, LIMIT, FakeGateway, Serve, answer, serving, tensor
from tests.gateway_world import FakeDispatcher
from tests.test_api_process import ApiProcess, run
from tests.waiting import wait_for
from tfrunner.api.failures import LINES_PER_SECOND, FailureLog
from tfrunner.errors import Overloaded, TFRunnerError, Unavailable

PREDICT = "/v1/models/m:predict"
BODY = b'{"instances": [[1, 2]]}'
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n" % PREDICT.encode()
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
ENDLESS = 10 * 2**20


@pytest.fixture(**BOTH_WAYS)  # type: ignore[call-overload]
def serve(request: pytest.FixtureRequest) -> Serve:
    """Return `serving`, one of its two ways."""
    return functools.partial(serving, direct=request.param)


class Line:
    """A connection of a plain HTTP client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def reply(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Return status, headers and body of the next reply."""
        status = int(self.file.readline().split()[1])
        headers: dict[str, str] = {}
        while (text := self.file.readline().decode().strip()) != "":
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self.file.read(int(headers["content-length"])))

    def ask(self, data: bytes = REQUEST) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Send a request; return its reply."""
        self.send(data)
        return self.reply()

    def has_ended(self) -> bool:
        """Whether the server has closed the connection; waits until it has."""
        try:
            return self.file.read() == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close it."""
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def line(address: str) -> Iterator[Line]:
    """Connect."""
    with contextlib.closing(connect(address)) as made:
        yield made


def connect(address: str) -> Line:
    """Connect; the caller closes."""
    url = httpx.URL(address)
    return Line(socket.create_connection((url.host, url.port), timeout=LIMIT))


# --- connections -----------------------------------------------------------------------------


def test_a_connection_too_many_is_told_so_and_costs_the_others_nothing(serve: Serve) -> None:
    """503 with Retry-After; health pages are answered all the same; there is room again later."""
    gateway = FakeGateway()
    with serve(gateway, max_connections=3) as address, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(line(address)) for _ in range(3)]
        assert [each.ask()[0] for each in lines] == [200, 200, 200]
        with line(address) as surplus:
            status, headers, body = surplus.ask()
            assert (status, body["code"], body["request_id"]) == (503, "overloaded", "mine")
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
            assert surplus.has_ended()
        with line(address) as asking:
            status, headers, _ = asking.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (status, headers["connection"]) == (200, "close")
        assert [each.ask()[0] for each in lines] == [200, 200, 200]
        lines[0].close()

        def is_served() -> bool:
            with line(address) as newcomer:
                return newcomer.ask()[0] == 200

        wait_for(is_served, limit=LIMIT)
    assert gateway.counted["http_refused", "overloaded"] >= 1


def test_connections_far_above_the_limit_are_ended_unanswered(serve: Serve) -> None:
    """So that refusals are bounded too; those that had their place keep it."""
    with serve(FakeGateway(), max_connections=1) as address, contextlib.ExitStack() as stack:
        first = stack.enter_context(line(address))
        assert first.ask()[0] == 200
        crowd = [stack.enter_context(line(address)) for _ in range(65)]
        assert crowd[-1].has_ended()
        assert crowd[0].ask()[0] == 503
        assert first.ask()[0] == 200


# --- heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100_000], ids=["piece by piece", "at once"])
def test_a_head_above_the_limit_is_refused(serve: Serve, size: int) -> None:
    """431, however it comes; a head just below is served."""
    with serve(FakeGateway(), header_limit=20_000) as address, line(address) as other:
        fitting = HEAD + b"X-Long: " + b"a" * 19_000 + b"\r\n"
        assert other.ask(fitting + REQUEST[len(HEAD) :])[0] == 200
        for piece in (b"X-Long: " + b"a" * 30_000, b"X-More: a\r\n" * 3000):
            with line(address) as sender:
                if size > 1:
                    sender.send(HEAD + piece + b"\r\n\r\n")
                else:
                    sender.send(HEAD + piece)  # it never ends
                status, headers, body = sender.reply()
                assert (status, body["code"], headers["connection"]) == (431, "too_large", "close")
                assert sender.has_ended()
        assert other.ask()[0] == 200


def test_trailers_without_an_end_are_not_kept(serve: Serve) -> None:
    """What follows a body in chunks is bounded like a head."""
    with serve(FakeGateway(), header_limit=20_000) as address, line(address) as sender:
        chunk = b"%x\r\n%s\r\n" % (len(BODY), BODY)
        sender.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            sender.send(b"a" * ENDLESS)
            assert sender.reply()[0] == 431
        assert sender.has_ended()


def test_what_is_no_http_gets_an_answer_with_an_id(serve: Serve) -> None:
    """As every other error."""
    with serve(FakeGateway()) as address, line(address) as sender:
        status, headers, body = sender.ask(b"NONSENSE\r\n\r\n")
        assert (status, body["code"]) == (400, "invalid_input")
        assert body["request_id"] == headers["x-request-id"] != ""
        assert sender.has_ended()


# --- bodies ----------------------------------------------------------------------------------


def test_bodies_that_are_being_received_share_a_bound(serve: Serve) -> None:
    """One who exceeds it gets 503; small requests go on; what ended is no longer counted."""
    size = 700_000
    part = HEAD + b"Content-Length: %d\r\n\r\n" % size + b" " * (size - 1)
    with serve(FakeGateway(), buffer_limit=1_000_000) as address, line(address) as other:
        for _ in range(3):
            with line(address) as first, line(address) as second:
                first.send(part)
                second.send(part)
                (refused, *_), _, _ = select.select([first.sock, second.sock], [], [], LIMIT)
                unlucky, lucky = (first, second) if refused is first.sock else (second, first)
                status, headers, body = unlucky.reply()
                assert (status, body["code"], headers["retry-after"]) == (503, "overloaded", "1")
                assert other.ask()[0] == 200
                assert lucky.ask(b" ")[0] == 400  # blanks are no JSON, but all were read
                assert unlucky.ask(b" " + REQUEST)[0] == 200


# --- slow senders ----------------------------------------------------------------------------

STOPS = {
    "in the first line": REQUEST[:10],
    "in the headers": REQUEST[:60],
    "before the body": REQUEST[: -len(BODY)],
    "in the body": REQUEST[:-5],
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_request_that_stops_coming_is_given_up(serve: Serve, stop: bytes) -> None:
    """408, with the caller's id where it is known; others are served meanwhile."""
    gateway = FakeGateway()
    with serve(gateway, receive_timeout=0.3) as address, line(address) as sender:
        sender.send(stop)
        status, headers, body = sender.reply()
        assert (status, body["code"], headers["connection"]) == (408, "too_slow", "close")
        assert body["request_id"] == headers["x-request-id"]
        if b"mine" in stop:
            assert body["request_id"] == "mine"
        assert sender.has_ended()
    assert gateway.counted == {("http_refused", "too_slow"): 1}


def test_a_trickle_does_not_hold_a_connection(serve: Serve) -> None:
    """A byte now and then is no progress."""
    with serve(FakeGateway(), receive_timeout=0.5) as address, line(address) as sender:
        sender.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        sender.sock.settimeout(0.05)

        def is_answered() -> bool:
            sender.send(b" ")
            with contextlib.suppress(TimeoutError):
                return sender.sock.recv(100).startswith(b"HTTP/1.1 408")
            return False

        wait_for(is_answered, limit=LIMIT)


def test_a_slow_sender_that_gets_on_is_served(serve: Serve) -> None:
    """The limit is for the next piece of a body, not for all of it."""
    piece = b" " * 100_000
    with serve(FakeGateway(), receive_timeout=2.0) as address, line(address) as sender:
        sender.send(HEAD + b"Content-Length: %d\r\n\r\n" % (8 * len(piece)))
        sender.sock.settimeout(0.3)
        for _ in range(8):
            with contextlib.suppress(TimeoutError):
                assert sender.sock.recv(1) == b"", "it was answered before its end"
            sender.send(piece)
        sender.sock.settimeout(LIMIT)
        assert sender.sock.recv(100).startswith(b"HTTP/1.1 400 ")  # blanks are no JSON


def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    """Before its first request as soon as a late request would be; between requests later."""
    with serve(FakeGateway(), receive_timeout=0.3, keep_alive=0.6) as address:
        with line(address) as silent:
            assert silent.has_ended()
        with line(address) as used:
            assert used.ask()[0] == 200
            assert used.has_ended()


def test_a_request_that_is_being_answered_is_not_late(serve: Serve) -> None:
    """Its own timeout ends it, not the one for its arrival."""
    gateway = FakeGateway()
    body = b'{"instances": [[1, 2]], "signature_name": "hang"}'
    request = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with serve(gateway, receive_timeout=0.1) as address, line(address) as waiting:
        waiting.send(request)
        assert gateway.hanging.wait(LIMIT)
        with line(address) as late:
            late.send(STOPS["in the body"])
            assert late.reply()[0] == 408  # this one came later, and is given up before
        waiting.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.sock.recv(1)


def test_two_hundred_slow_senders_cost_only_themselves(serve: Serve) -> None:
    """Answers on other connections keep coming while they are open."""
    with serve(FakeGateway()) as address, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(line(address)) for _ in range(200)]
        for index, each in enumerate(slow):
            each.send(REQUEST[: 10 + index % (len(REQUEST) - 10)])
        with line(address) as other:
            for _ in range(50):
                assert other.ask()[0] == 200
                for each in slow[:20]:
                    each.send(b"")
        for index, each in enumerate(slow):
            each.send(REQUEST[10 + index % (len(REQUEST) - 10) :])
        assert [each.reply()[0] for each in slow] == [200] * len(slow)


# --- slow readers ----------------------------------------------------------------------------


def large() -> FakeGateway:
    """Return a gateway whose answers have about 20 MB."""
    rows = np.full((1, 4_000_000), 1.5, "float32")
    return FakeGateway(answering=answer([rows], tensor("y", "float32", 1, 4_000_000)))


def test_an_answer_that_nobody_reads_ends_with_its_connection(serve: Serve) -> None:
    """After the timeout; meanwhile and afterwards others are answered."""
    with serve(large(), send_timeout=0.5) as address, line(address) as reader:
        reader.send(REQUEST)
        with line(address) as other:
            assert other.ask()[0] == 200
        assert_is_reset(reader)
        with line(address) as other:
            assert other.ask()[0] == 200


def test_answers_that_nobody_reads_share_a_bound(serve: Serve) -> None:
    """Above it the largest go first, long before their own timeout."""
    with serve(large(), buffer_limit=2**20) as address, line(address) as reader:
        reader.send(REQUEST)
        assert_is_reset(reader)


def assert_is_reset(reader: Line) -> None:
    """Wait until the server has dropped a connection whose answer was not read."""

    def is_reset() -> bool:
        return reader.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07"

    wait_for(is_reset, limit=LIMIT)  # 7: the connection is closed on both sides


# --- descriptors -----------------------------------------------------------------------------


def test_a_process_without_descriptors_goes_on() -> None:
    """New connections are refused, the open one is served; new ones come in when there is room."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        async with drain.answering(dispatcher), drain.line(api) as first:
            assert (await first.ask(drain.REQUEST)).status == 200
            used = len(os.listdir(f"/proc/{api.process.pid}/fd"))
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.prlimit(api.process.pid, resource.RLIMIT_NOFILE, (used + 3, hard))
            answered = 0
            async with contextlib.AsyncExitStack() as stack:
                crowd = [await stack.enter_async_context(drain.line(api)) for _ in range(20)]
                for each in crowd:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        answered += (await each.ask(drain.REQUEST)).status == 200
                assert answered <= 3
                assert (await first.ask(drain.REQUEST)).status == 200
            is_served = False
            while not is_served:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    async with drain.line(api) as newcomer:
                        is_served = (await newcomer.ask(drain.REQUEST)).status == 200
            assert (await first.ask(drain.REQUEST)).status == 200

    run(story)


DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
from tfrunner.api.__main__ import fit
from tfrunner.config import Bounds
print(fit(Bounds()).max_connections, fit(Bounds(max_connections=7)).max_connections)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
fit(Bounds())
"""


def test_connections_fit_into_the_descriptors() -> None:
    """The soft limit is raised to the hard one; a few are kept for the process itself."""
    done = subprocess.run(
        [sys.executable, "-c", DESCRIPTORS], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["172", "7", "300", "300"]
    assert "ulimit -n" in done.stderr.splitlines()[-1]


# --- the log ---------------------------------------------------------------------------------


def test_every_failed_request_has_a_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """With its id, model, status and reason; refused input has none."""
    with serve(FakeGateway()) as address, line(address) as caller:
        for name in ("fail", "full", "late", "nothing"):
            body = b'{"instances": [[1, 2]], "signature_name": "%s"}' % name.encode()
            caller.ask(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    assert [each.getMessage() for each in caplog.records if each.name == "tfrunner.api"] == [
        "request mine failed: m:v1, 500 model_error: the model raised ValueError: no",
        "request mine failed: m:v1, 503 overloaded: the queue is full",
        "request mine failed: m:v1, 504 deadline_exceeded: no answer in time",
    ]


def test_too_many_lines_become_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """An overloaded server does not spend its time on its log."""
    now = [0.0]
    log = FailureLog(clock=lambda: now[0])
    for _ in range(LINES_PER_SECOND + 5):
        log.write(Overloaded("full"), request_id=b"1", where="m:1")
    assert len(caplog.records) == LINES_PER_SECOND
    now[0] = 1.0
    log.write(Unavailable("gone"), request_id=b"2", where="m:1")
    assert [each.getMessage() for each in caplog.records[LINES_PER_SECOND:]] == [
        "5 more requests failed just before",
        "request 2 failed: m:1, 503 unavailable: gone",
    ]


def test_an_error_of_ours_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A caller learns only the id; whoever reads the log, everything."""
    error = TFRunnerError("an error inside")
    error.__cause__ = ValueError("a secret")
    FailureLog().write(error, request_id=b"1", where="m:1")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None and record.exc_info[1] is error.__cause__
