"""`tfrunner serve` with real processes and the echo model: start, restarts, and every end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import numpy as np
import psutil
import pytest

from tests.leftovers import run_directories
from tests.test_store import put
from tests.waiting import LIMIT, wait_for
from tfrunner import rundir
from tfrunner.client import Client
from tfrunner.config import RunFile
from tfrunner.store import Store

ROW = np.ones((1, 2), "float32")


class Server:
    """A running `tfrunner serve`."""

    def __init__(self, process: subprocess.Popen[str], address: RunFile) -> None:
        self.process = process
        self.address = address

    def children(self) -> list[psutil.Process]:
        """Return the processes that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, module: str) -> psutil.Process | None:
        """Return the child that runs a module (its exact name), None if there is none now."""
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[1:3] == ["-m", module]:
                    return child
        return None

    def kill_child(self, module: str) -> None:
        """Kill a child with -9, and wait until another one took its place."""
        first = wait_for(lambda: self.child(module))
        first.kill()
        wait_for(lambda: (now := self.child(module)) and now.pid != first.pid)

    def end(self, *signals: int) -> int:
        """Send signals, a moment apart so that they do not merge; return the exit code."""
        for number in signals:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.3)
        return self.process.wait(LIMIT)


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Serve the echo model until the end of the block."""
    arguments = ["serve", "--echo", "--port", "0", "--json", *options]
    command = [sys.executable, "-m", "tfrunner.testing", str(os.getpid()), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process, msgspec.json.decode(process.stdout.readline(), type=RunFile))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_over(processes: list[psutil.Process]) -> bool:
    """Return whether all have ended; one that nobody reaps counts as ended."""

    def ended(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(ended(process) for process in processes)


@pytest.fixture(autouse=True)
def heeded_signals() -> Iterator[None]:
    """Let what is started heed signals that these tests were told to ignore: nohup, or `&`."""
    ignored = [n for n in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_ends_everything_cleanly(run_root, number):
    """Exit code 0, no process, no run directory."""
    with serving() as server:
        processes = server.children()
        assert len(processes) == 3
        assert server.end(number) == 0
        assert is_over(processes)
        assert run_directories(run_root) == []


def test_a_second_ctrl_c_does_not_wait_for_what_runs(run_root):
    """A request of ten seconds is running: the first drains, the second stops at once."""
    with serving("--grace", "100") as server:
        with httpx.Client(trust_env=False) as http, contextlib.suppress(httpx.HTTPError):
            url = f"{server.address.http}/v1/models/echo:predict"
            body = {"signature_name": "slow", "inputs": [[50.0]]}
            http.post(url, json=body, timeout=1.0)
        processes = server.children()
        begin = time.monotonic()
        assert server.end(signal.SIGINT, signal.SIGINT) == 0
        assert time.monotonic() - begin < 40.0  # the request alone needs longer
        assert is_over(processes)
        assert run_directories(run_root) == []


def test_a_killed_supervisor_takes_everything_along(run_root):
    """No process outlives it, no spare either, nor its run directory."""
    with serving("--spares", "1") as server:
        wait_for(lambda: server.child("tfrunner_workers.spare"))
        processes = server.children()
        assert len(processes) == 4
        server.process.kill()
        server.process.wait()
        wait_for(lambda: is_over(processes))
        assert rundir.running_servers(run_root) == []
        assert run_directories(run_root) == []


def test_a_directory_that_a_killed_server_left_is_removed_by_the_next_one(run_root):
    """Where even the dispatcher had no time for it."""
    with serving() as server:
        wait_for(lambda: server.child("tfrunner.dispatcher")).suspend()
        server.process.kill()
        server.process.wait()
        assert len(run_directories(run_root)) == 1
        for child in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(run_root) in " ".join(child.cmdline()):
                    child.kill()
    with serving() as server:
        assert len(run_directories(run_root)) == 1
        assert server.end(signal.SIGTERM) == 0
    assert run_directories(run_root) == []


def test_a_spare_takes_the_place_of_a_killed_worker(run_root):
    """It serves under the worker's next name, with its environment; another spare follows."""
    with serving("--spares", "1") as server, Client(server.address.http) as client:
        spare = wait_for(lambda: server.child("tfrunner_workers.spare"))
        wait_for(lambda: server.child("tfrunner_workers")).kill()
        np.testing.assert_array_equal(client.predict("echo", ROW, timeout=LIMIT), ROW)
        (worker,) = client.status()["workers"].items()
        assert worker[0] == "worker-echo-0-2"
        assert worker[1]["pid"] == spare.pid
        rows = wait_for(
            lambda: (
                [row for row in client.status()["processes"] if row["name"] == "spare-0-2"]
                and client.status()["processes"]
            )
        )
        assert {row["slot"]: row["restarts"] for row in rows}["worker-echo-0"] == 1
        assert server.end(signal.SIGTERM) == 0


def test_strict_ends_a_server_of_which_one_model_cannot_start(run_root):
    """Exit code 1, and the reason; the healthy model goes with it."""
    arguments = ["serve", "--echo", "--port", "0", "--strict", "echo", "crash"]
    command = [sys.executable, "-m", "tfrunner", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "crash:1 cannot be served: its worker died 5 times" in done.stderr
    assert "stopping, because --strict was given" in done.stderr
    assert run_directories(run_root) == []


def test_a_batch_beyond_the_memory_is_answered_and_the_limit_is_shown(run_root):
    """16 rows wait for each other; 4 fit. Nobody notices, and the status says it."""
    with serving("--hold", "16") as server, Client(server.address.frontend[0]) as client:

        def call(number: int) -> float:
            row = np.full((1, 2), number, "float32")
            answer = client.predict("echo", row, method="hungry", timeout=LIMIT)
            assert isinstance(answer, np.ndarray) and answer.shape == (1, 2)
            return float(answer[0, 0])

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(call, range(16))) == list(range(16))
        state = client.status()
        model = state["models"]["echo:1"]
        assert (model["requests"], model["out_of_memory"]) == ({"ok": 16}, 2)
        assert [worker["limit"] for worker in state["workers"].values()] == [4]
        wait_for(lambda: client.status()["processes"])
        command = [sys.executable, "-m", "tfrunner", "status", "--address", server.address.http]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
        assert "4 of 64" in shown.stdout
        assert "2 out_of_memory" in shown.stdout


@pytest.mark.parametrize(
    "word", ["tfrunner_workers", "tfrunner.api", "tfrunner.dispatcher"], ids=["worker", "api", "d"]
)
def test_what_is_killed_comes_back_and_serves(run_root, word):
    """Workers, api processes and the dispatcher are all restarted."""
    with serving() as server:
        server.kill_child(word)
        with httpx.Client(trust_env=False) as http:

            def is_ready() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return http.get(f"{server.address.http}/readyz").status_code == 200
                return False

            wait_for(is_ready)
        kind = {"tfrunner_workers": "worker"}.get(word, word.rpartition(".")[2])
        with Client(server.address.http) as client:
            np.testing.assert_array_equal(client.predict("echo", ROW), ROW)
            wait_for(
                lambda: (
                    [row["restarts"] for row in client.status()["processes"] if row["kind"] == kind]
                    == [1]
                )
            )
        assert server.end(signal.SIGTERM) == 0


def test_a_used_port_is_named_in_one_line(run_root):
    """And the exit code is not 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "tfrunner", "serve", "--echo", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: port {port} is in use on 127.0.0.1.")
    assert done.stderr.count("\n") == 1
    assert run_directories(run_root) == []


def test_a_used_port_for_python_clients_ends_the_server(run_root):
    """The dispatcher cannot listen: it says so, and is not started again and again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        direct = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["serve", "--echo", "--port", "0", "--direct", direct]
        command = [sys.executable, "-m", "tfrunner", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert f"cannot listen on {direct}" in done.stderr
    assert run_directories(run_root) == []


def test_run_json_and_the_address_are_those_of_the_running_server(run_root):
    """Clients find the server without being told, and call every address that it names."""
    with serving("--direct", "tcp://127.0.0.1:*") as server:
        assert rundir.find_server(run_root) == server.address
        assert server.address.models == ("echo:1",)
        assert server.address.pid == server.process.pid
        assert len(server.address.frontend) == 2
        for address in (*server.address.frontend, server.address.http, None):
            with Client(address) as client:
                np.testing.assert_array_equal(client.predict("echo", ROW), ROW)
        assert server.end(signal.SIGTERM) == 0


def test_workers_share_the_cores_and_have_names_of_their_own(run_root):
    """Two workers of one model; both serve."""
    with serving("--workers", "2", "--api-workers", "2") as server:
        with Client(server.address.frontend[0]) as client:
            wait_for(lambda: client.status()["models"]["echo:1"]["workers"] == 2)
            rows = wait_for(lambda: client.status()["processes"])
            assert sorted(client.status()["workers"]) == ["worker-echo-0-1", "worker-echo-1-1"]
        assert sum(row["kind"] == "api" for row in rows) == 2
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.tensorflow
def test_a_model_that_cannot_be_loaded_is_said_to_be_unavailable(run_root, home):
    """Its folder holds no SavedModel: --strict ends with the reason and exit code 1."""
    tag = str(put(Store(home), "hollow:1").tag)
    command = [sys.executable, "-m", "tfrunner", "serve", tag, "--port", "0", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert f"{tag} cannot be served" in done.stderr
    assert run_directories(run_root) == []


def test_a_run_root_that_others_may_read_is_refused(tmp_path: Path, monkeypatch):
    """Whoever can write there could steal the sockets."""
    root = tmp_path / "open"
    root.mkdir(mode=0o755)
    monkeypatch.setenv("TFRUNNER_RUN_DIR", str(root))
    command = [sys.executable, "-m", "tfrunner", "serve", "--echo", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert "chmod 700" in done.stderr and done.stderr.count("\n") == 1
