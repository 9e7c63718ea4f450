"""Starting and ending as systemd, containers and shells do it; what docs/deployment.md shows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.leftovers import run_directories
from tests.waiting import LIMIT, wait_for
from tfrunner.config import RunFile
from tfrunner.supervisor.notify import notify

PAGE = Path(__file__).parent.parent / "docs" / "deployment.md"
SERVE = "serve --echo --port 0 --json"
SLOW = {"signature_name": "slow", "inputs": [[8.0, 8.0]]}


def block(name: str) -> str:
    """Return the code block of the page that begins with a comment `# <name>`."""
    found = re.search(rf"^```\w*\n# {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert found, f"{PAGE} has no block {name}"
    return found[1]


@contextlib.contextmanager
def running(script: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a shell's script; yield its process and the address of the server that it starts."""
    python = f"{sys.executable} -m tfrunner.testing {os.getpid()}"
    process = subprocess.Popen(
        ["sh", "-c", script.format(tfrunner=python)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        yield process, msgspec.json.decode(process.stdout.readline(), type=RunFile).http
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_refused(url: str) -> bool:
    """Return whether a new connection is refused, as nobody will take it."""
    place = httpx.URL(url)
    try:
        socket.create_connection((place.host, place.port or 0), LIMIT).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_signal_goes_through_a_shell_that_execs_and_requests_are_answered(
    run_root: Path,
) -> None:
    """As in a container's entry point: the shell's pid is the server's."""
    answers: list[int] = []
    with running(f"exec {{tfrunner}} {SERVE}") as (process, url):

        def call() -> None:
            predict = f"{url}/v1/models/echo:predict"
            reply = httpx.post(predict, json=SLOW, timeout=LIMIT, trust_env=False)
            answers.append(reply.status_code)

        caller = threading.Thread(target=call)
        caller.start()
        with httpx.Client(base_url=url, trust_env=False) as client:

            def is_running() -> bool:
                workers = client.get("/v1/status").json()["workers"]
                return any(each["running"] for each in workers.values())

            wait_for(is_running)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_refused(url))
        assert process.poll() is None
        caller.join()
        assert process.wait(LIMIT) == 0
    assert answers == [200]
    assert run_directories(run_root) == []


def test_systemd_is_told_of_the_start_and_the_end(run_root: Path, tmp_path: Path) -> None:
    """As sd_notify does it: READY=1 once requests are answered, STOPPING=1 at the signal."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(LIMIT)
        with running(f"exec {{tfrunner}} {SERVE}", NOTIFY_SOCKET=str(path)) as (process, url):
            assert manager.recv(100) == b"READY=1"
            assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(LIMIT) == 0


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name begins with @ where it is said, and with a zero byte where it is."""
    name = f"tfrunner-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(LIMIT)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is none."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """Every line of it, with a program that is there."""
    text = block("tfrunner.service")
    unit = tmp_path / "tfrunner.service"
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "tfrunner.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_and_the_recipe_leave_the_time_that_a_drain_takes() -> None:
    """Longer than the grace period; signals reach the server itself."""
    unit, recipe = block("tfrunner.service"), block("Dockerfile")
    grace = int(re.findall(r"--grace (\d+)", unit)[0])
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)[0]) > grace
    assert "Type=notify" in unit and "KillMode=mixed" in unit
    assert re.search(r'^ENTRYPOINT \["tfrunner", "serve"\]$', recipe, re.M)
    assert "STOPSIGNAL SIGTERM" in recipe
