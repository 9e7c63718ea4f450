"""Load: the closed loop by wrk, the open loop by open_loop.py, and single checked requests."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.bodies import Form
from benchmarks.peers.models import Made

SCRIPT = Path(__file__).with_name("closed.lua")
MARGIN_SECONDS = 60.0
TOLERANCE = 1e-3
"""Of answers: plans and batch sizes add the same numbers in another order."""

OPEN_CONNECTIONS = 128


class Load(NamedTuple):
    """What is sent.

    Args:
        loop: "closed" or "open".
        connections: How many at once; an open loop opens them as it needs them.
        rate: Requests per second of an open loop, 0 for a closed one.
    """

    loop: str
    connections: int
    rate: float = 0.0


class Outcome(NamedTuple):
    """What became of it.

    Args:
        requests: Answered.
        seconds: In which.
        p50: Median seconds of a request; in an open loop from when it was due.
        p99: The 99th percentile.
        mean: The mean.
        failed: Errors, and answers other than 200.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    mean: float
    failed: int

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return (self.requests - self.failed) / self.seconds


class Missing(Exception):
    """Something cannot be measured; says why."""


def find_wrk() -> str:
    """Return wrk's path.

    Raises:
        Missing: It is not installed.
    """
    found = shutil.which("wrk")
    if not found:
        raise Missing("wrk is not installed (on Debian: apt install wrk)")
    return found


def send(load: Load, port: int, form: Form, made: Made, *, seconds: float, folder: Path) -> Outcome:
    """Send the first row over and over; return what became of it.

    Args:
        load: How.
        port: Of the server.
        form: Of the body.
        made: The model.
        seconds: For how long.
        folder: For the file of the body.
    """
    request = form.write(made.rows[0])
    body = folder / f"{made.model.name}-{form.name.replace(' ', '-')}.body"
    body.write_bytes(request.body)
    headers = "".join(f"{key}: {value}\n" for key, value in request.headers.items())
    environment = {**os.environ, "BODY": str(body), "HEADERS": headers}
    url = f"http://127.0.0.1:{port}{form.path}"
    if load.loop == "closed":
        count = f"-c{load.connections}"
        whole = max(1, round(seconds))
        command = [find_wrk(), "-t1", count, f"-d{whole}s", "--timeout", "30s"]
        command += ["-s", str(SCRIPT), url]
    else:
        command = [sys.executable, str(SCRIPT.with_name("open_loop.py")), url]
        command += [str(load.rate), str(seconds), str(load.connections)]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + MARGIN_SECONDS,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise Missing(f"{command[0]} gave no result: {(done.stderr or done.stdout)[-300:]}")
    return Outcome(**json.loads(lines[-1].removeprefix("RESULT ")))


def ask(port: int, form: Form, row: Any, *, timeout: float = 30.0) -> Any:
    """Return a server's answer to one row.

    Raises:
        Missing: It answered something else than 200.
        OSError: It did not answer.
    """
    request = form.write(row)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", form.path, request.body, request.headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise Missing(f"HTTP {response.status}: {body[:200]!r}")
        headers = {key.lower(): value for key, value in response.getheaders()}
        return form.read(body, headers)
    finally:
        connection.close()


def check(port: int, form: Form, made: Made) -> None:
    """Send different rows at once; every answer must be its own row's.

    Raises:
        Missing: An answer is wrong, or none came.
    """

    def one(index: int) -> None:
        got = ask(port, form, made.rows[index])
        expected = np.asarray(made.answers[index]).ravel()
        if np.shape(got) != expected.shape or not np.allclose(got, expected, atol=TOLERANCE):
            raise Missing(f"a wrong answer to row {index}: {got!r:.100}, not {expected!r:.100}")

    with ThreadPoolExecutor(8) as pool:
        try:
            list(pool.map(one, range(len(made.rows))))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as exc:
            raise Missing(f"no good answer: {type(exc).__name__}: {exc}") from exc
