"""Monitors in a real server: in endpoints, in workers, and of plain predict requests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import LIMIT, wait_for
from tfrunner.cli.observing import make_observation
from tfrunner.errors import ConfigError, Unavailable
from tfrunner.testing import ServedClient, serve

TARGET = f"{Path(__file__).parent}/monitored_service.py:svc"
CALLS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the server's monitors write."""
    return tmp_path_factory.mktemp("monitors")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServedClient]:
    """Return a client of a server that writes down every call of the model."""
    options = {"monitor": "doubler", "monitor_folder": str(folder), "api_workers": 2}
    with serve(TARGET, **options) as client:
        yield client


def post(server: ServedClient, path: str, body: Any, request_id: str) -> httpx.Response:
    """Send a request over a connection of its own."""
    url, headers = f"{server.http_address}/{path}", {"x-request-id": request_id}
    return httpx.post(url, json=body, headers=headers, trust_env=False, timeout=LIMIT)


def records(folder: Path, monitor: str) -> list[dict[str, Any]]:
    """Return all records of a monitor, of all processes."""
    return [
        json.loads(line)
        for file in (folder / monitor).glob("*.jsonl*")
        for line in file.read_text().splitlines()
    ]


def test_endpoints_and_workers_log_into_files_of_their_processes(
    server: ServedClient, folder: Path
) -> None:
    """With the request's id where there is one; a restarted process goes on with its file."""
    ids = [f"call-{number}" for number in range(CALLS)]
    for request_id in ids:
        assert post(server, "double", [1.0, 2.0], request_id).json() == [2.0, 4.0]
    wait_for(lambda: len(records(folder, "calls")) == CALLS)
    for record in records(folder, "calls"):
        assert record.pop("time")
        ids.remove(record.pop("request_id"))
        assert record == {"value": [1.0, 2.0], "result": [2.0, 4.0]}
    assert ids == []
    wait_for(lambda: sum(each["rows"] for each in records(folder, "batches")) == 2 * CALLS)
    places = {file.name for file in folder.glob("*/*.jsonl")}
    assert places <= {"api-0.jsonl", "api-1.jsonl", "worker-doubler-0.jsonl"}

    def apis() -> set[int]:
        rows = server.status()["processes"]
        return {row["pid"] for row in rows if row["kind"] == "api" and row["pid"]}

    before = apis()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(apis() - before) == 2)
    assert post(server, "double", [3.0], "after").json() == [6.0]
    wait_for(lambda: len(records(folder, "calls")) == CALLS + 1)
    assert {file.name for file in folder.glob("*/*.jsonl")} <= places | {
        "api-0.jsonl",
        "api-1.jsonl",
    }


def test_predict_requests_are_logged_without_a_service(server: ServedClient, folder: Path) -> None:
    """Inputs and outputs; of those that fail, the error's code."""
    path = "v1/models/doubler:predict"
    assert post(server, path, {"instances": [[1.0], [2.0]]}, "good").status_code == 200
    assert post(server, path, {"instances": [[-1.0]]}, "bad").status_code == 500

    def mine() -> dict[str, dict[str, Any]]:
        found = records(folder, "doubler")
        return {each["request_id"]: each for each in found if each["request_id"] in ("good", "bad")}

    wait_for(lambda: len(mine()) == 2)
    good, bad = mine()["good"], mine()["bad"]
    assert good.pop("time") and good.pop("request_id")
    assert good == {
        "version": "1",
        "method": "predict",
        "rows": 2,
        "inputs": {"rows": [[1.0], [2.0]]},
        "outputs": [[2.0], [4.0]],
    }
    assert bad["error"] == "model_error" and bad["inputs"] == {"rows": [[-1.0]]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("digits=2", "share from 0 to 1"),
        ("digits=x", "share from 0 to 1"),
        ("=0.5", "share from 0 to 1"),
        ("digit", "Did you mean 'digits'"),
    ],
)
def test_a_share_that_cannot_be_is_refused(given: str, expected: str) -> None:
    """One line, before anything starts."""
    options = {"tracing": "off", "monitor": (given,), "monitor_folder": "m"}
    options |= {"monitor_bytes": 1, "monitor_files": 1}
    with pytest.raises(ConfigError, match=expected):
        make_observation(options, ["digits:v1"])


def test_an_unknown_model_ends_the_command() -> None:
    """The message names the option."""
    with (
        pytest.raises(Unavailable, match="--monitor ech: no model"),
        serve("echo", echo=True, monitor="ech"),
    ):
        pass
