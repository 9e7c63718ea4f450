"""The access log: a line for every request, whichever way it goes and however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_world import BOTH_WAYS, LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner.api.access_log import AccessLog, Line
from tfrunner.api.guard import make_guard
from tfrunner.entrance import Entrance
from tfrunner.errors import ConfigError

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}
TEXT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    r"127\.0\.0\.1 (\S+) (\S+) (\d+) \d+\.\d{6} (\d+) (\S+) -"
)

World = tuple[httpx.Client, Callable[[int], list[Any]]]


@pytest.fixture(**BOTH_WAYS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Serve with a log as JSON; yield a client, and what waits for a number of lines."""
    file = tmp_path / "access.log"
    entrance = Entrance(access_log="json", access_log_file=str(file))

    def lines(count: int) -> list[Any]:
        wait_for(lambda: len(file.read_text().splitlines()) >= count, limit=LIMIT)
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(found) == count
        return found

    with (
        serving(FakeGateway(), direct=request.param, entrance=entrance, header_limit=4000) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield client, lines


def test_a_line_says_who_asked_what_and_what_came_of_it(world: World) -> None:
    """Every field of a predict request's line."""
    client, lines = world
    reply = client.post(PREDICT, json=BODY, headers={"X-Request-Id": "abc"})
    (line,) = lines(1)
    assert 0 < line.pop("seconds") < LIMIT
    assert line.pop("time").endswith("Z")
    assert line == {
        "address": "127.0.0.1",
        "method": "POST",
        "path": PREDICT,
        "status": 200,
        "bytes": len(reply.content),
        "request_id": "abc",
        "key": "",
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/livez", None, 200),
        ("GET", "/nothing", None, 404),
        ("POST", "/v1/models/unknown:predict", BODY, 404),
        ("POST", PREDICT, {"instances": "no"}, 400),
        ("POST", PREDICT, {**BODY, "signature_name": "fail"}, 500),
        ("POST", PREDICT, {**BODY, "signature_name": "full"}, 503),
    ],
    ids=["page", "no page", "no model", "bad input", "model error", "overloaded"],
)
def test_what_is_answered_otherwise_has_a_line_too(
    world: World, method: str, path: str, body: Any, status: int
) -> None:
    """With its status, the bytes of its body, and the id that the caller was told."""
    client, lines = world
    reply = client.request(method, path, json=body)
    (line,) = lines(1)
    assert reply.status_code == status
    assert (line["status"], line["bytes"]) == (status, len(reply.content))
    assert (line["method"], line["path"]) == (method, path)
    assert line["request_id"] == reply.headers["x-request-id"]


def test_a_caller_that_goes_away_is_noted(world: World) -> None:
    """As nginx does: 499."""
    client, lines = world
    with pytest.raises(httpx.ReadTimeout):
        client.post(PREDICT, json={**BODY, "signature_name": "hang"}, timeout=1.0)
    (line,) = lines(1)
    assert (line["status"], line["bytes"]) == (499, 0)


def test_a_refusal_before_there_is_a_request_is_noted(world: World) -> None:
    """A head that is too large."""
    client, lines = world
    url = client.base_url
    with socket.create_connection((url.host, url.port), LIMIT) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 9000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")
    (line,) = lines(1)
    assert (line["status"], line["method"], line["path"]) == (431, "-", "-")


def test_a_connection_too_many_is_noted(tmp_path: Path) -> None:
    """With what it asked for."""
    file = tmp_path / "access.log"
    entrance = Entrance(access_log="json", access_log_file=str(file))
    with serving(FakeGateway(), entrance=entrance, max_connections=1) as url:
        with httpx.Client(base_url=url, trust_env=False) as first:
            first.get("/livez")
            assert httpx.post(url + PREDICT, json=BODY, trust_env=False).status_code == 503
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        wait_for(lambda: file.read_text().count("\n") >= 3, limit=LIMIT)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [("/livez", 200), (PREDICT, 503), ("/healthz", 200)]
    assert [(line["path"], line["status"]) for line in found] == expected


def test_lines_keep_the_order_of_pipelined_requests(world: World) -> None:
    """One line for each, and none twice."""
    client, lines = world
    for index in range(20):
        client.post(PREDICT, json=BODY, headers={"X-Request-Id": f"id{index}"})
    assert [line["request_id"] for line in lines(20)] == [f"id{index}" for index in range(20)]


def test_text_is_one_line_of_words(tmp_path: Path) -> None:
    """Blanks and control characters of a path stay encoded: nobody can forge a line."""
    file = tmp_path / "access.log"
    entrance = Entrance(access_log="text", access_log_file=str(file))
    path = "/a%20b%0A2026-01-01T00:00:00.000Z%20GET"
    with serving(FakeGateway(), entrance=entrance) as url:
        httpx.post(url + PREDICT, json=BODY, trust_env=False)
        httpx.get(url + path, trust_env=False)
    first, second = file.read_text().splitlines()
    assert (found := TEXT.fullmatch(first)) and found.groups()[:3] == ("POST", PREDICT, "200")
    assert (found := TEXT.fullmatch(second)) and found.groups()[:3] == ("GET", path, "404")


def test_nothing_is_lost_at_the_end(tmp_path: Path) -> None:
    """Lines that wait to be written are written before the process ends."""
    file = tmp_path / "access.log"
    entrance = Entrance(access_log="text", access_log_file=str(file))
    with serving(FakeGateway(), entrance=entrance) as url:
        for _ in range(5):
            httpx.get(f"{url}/livez", trust_env=False)
    assert len(file.read_text().splitlines()) == 5


def test_a_file_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    """As logrotate does it."""
    file, old = tmp_path / "access.log", tmp_path / "access.log.1"
    entrance = Entrance(access_log="text", access_log_file=str(file))
    with serving(FakeGateway(), entrance=entrance) as url:
        httpx.get(f"{url}/livez", trust_env=False)
        wait_for(lambda: file.read_text(), limit=LIMIT)
        file.rename(old)
        httpx.get(f"{url}/healthz", trust_env=False)
    assert "/livez" in old.read_text() and "/healthz" not in old.read_text()
    assert "/healthz" in file.read_text()


def test_a_full_disk_loses_lines_and_no_request() -> None:
    """/dev/full takes nothing."""
    entrance = Entrance(access_log="text", access_log_file="/dev/full")
    with serving(FakeGateway(), entrance=entrance) as url:
        for _ in range(3):
            assert httpx.get(f"{url}/livez", trust_env=False).status_code == 200


def test_a_log_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    """Not with the first request."""
    entrance = Entrance(access_log="text", access_log_file=str(tmp_path / "no" / "log"))
    with pytest.raises(ConfigError, match="No such file"):
        make_guard(entrance)


def test_without_it_there_is_no_guard() -> None:
    """Who asks for nothing pays for nothing."""
    assert make_guard(Entrance()) is None


def test_the_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    """What a pipe takes at once are whole lines."""
    line = Line("127.0.0.1", "GET", "/x" * 100, 200, 0.1, 3, b"id")

    async def fill(log: AccessLog) -> None:
        for _ in range(200):
            log.add(line)

    reader, writer = os.pipe()
    log = AccessLog("text", path=f"/proc/self/fd/{writer}")
    log.open()
    asyncio.run(fill(log))
    log.close()
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    assert text.count(b"\n") == 200
    assert text.endswith(b" id -\n")
