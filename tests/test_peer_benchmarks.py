"""The benchmark suite's own arithmetic: ratios, targets, tables, bodies, due moments."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.peers import bodies, report, summary, targets
from benchmarks.peers.contestants import PEERS, Choice
from benchmarks.peers.matches import full, quick
from benchmarks.peers.models import MODELS
from benchmarks.peers.processes import Command, Server

ROOT = Path(__file__).parent.parent
OPEN_LOOP = ROOT / "benchmarks" / "peers" / "open_loop.py"
SERVED_LATE = 0.2


def run(contestant: str, number: int, rate: float, **more: object) -> dict[str, object]:
    """Return one round's result of a contestant: a second of linear at 32 connections."""
    return {
        **{"model": "linear", "body": "json", "loop": "closed", "connections": 32},
        **{"asked_rate": 0.0, "contestant": contestant, "settings": "s", "form": "json"},
        **{"round": number, "requests": int(rate), "seconds": 1.0, "p50": 0.01, "p99": 0.03},
        **{"mean": 0.01, "failed": 0, "rate": rate, "cpu": 0.5},
        **more,
    }


def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_the_medians():
    """A machine that changes its speed between rounds changes both sides of a round."""
    ours = [run("tfrunner", number, rate) for number, rate in enumerate((300, 10, 200))]
    theirs = [run("mosec, tuned", number, rate) for number, rate in enumerate((100, 10, 50))]
    _, line = summary.lines([*ours, *theirs])
    assert line.ratio == 3.0
    assert line.rate == 50
    assert line.spread == (10, 100)


def test_a_peer_is_compared_with_the_runs_of_its_own_time():
    """The same cell is measured again with every peer; ours of that time count."""
    early = [run("tfrunner", 0, 100), run("mosec, tuned", 0, 100)]
    late = [run("tfrunner", 0, 900), run("triton, tuned", 0, 300)]
    found = {line.contestant: line.ratio for line in summary.lines([*early, *late])}
    assert found == {"tfrunner": None, "mosec, tuned": 1.0, "triton, tuned": 3.0}


def test_cpu_counts_good_answers():
    """Half a second for 400 answers of 500 is 1.25 s for a thousand."""
    (line,) = summary.lines([run("tfrunner", 0, 400, requests=500, failed=100)])
    assert line.cpu == 1.25
    assert line.failed == 0.2


@pytest.mark.parametrize(("rate", "verdict"), [(100, True), (120, False)], ids=["met", "missed"])
def test_targets_say_what_was_reached(rate, verdict):
    """90 % of a tuned mosec is asked for at 32 connections."""
    found = summary.lines([run("tfrunner", 0, 95), run("mosec, tuned", 0, rate)])
    wanted = "linear, JSON, 32: against mosec, tuned"
    (target,) = [each for each in targets.targets(found) if each.what == wanted]
    assert target.is_met is verdict
    assert target.got == 95 / rate


def test_the_table_shows_what_is_missing_and_why():
    """A cell that cannot be measured is a row too."""
    missing = {**run("ray, tuned", 0, 0), "reason": "it ended:\nno memory"}
    content = {
        **{"command": "c", "seconds": 60.0, "started": "today", "plans": {}, "versions": {}},
        "machine": {"cores": 2, "python": "3.11", "load_at_start": 0.1},
        **{"runs": [run("tfrunner", 0, 95)], "missing": [missing], "tuning": [], "memory": []},
    }
    text = report.report([content])
    assert "| linear | json | 32 connections | tfrunner | s | 95 (95, 95) |" in text
    assert "| ray, tuned | | missing: it ended: no memory |" in text


def test_runs_that_share_no_model_become_one_table():
    """Ratios are of one run each; a model that two runs measured has none."""
    first, second = (
        {
            **{"command": f"c{name}", "seconds": 60.0, "started": "today", "versions": {}},
            **{"plans": {name: "frozen"}, "missing": [], "tuning": [], "memory": []},
            "machine": {"cores": 2, "python": "3.11", "load_at_start": 0.1},
            "runs": [{**run("tfrunner", 0, 95), "model": name}],
        }
        for name in ("linear", "mlp")
    )
    text = report.report([first, second])
    assert all(f"| {name} | json | 32 connections | tfrunner" in text for name in ("linear", "mlp"))
    assert "`clinear`" in text and "`cmlp`" in text
    with pytest.raises(ValueError, match="linear: measured in two"):
        report.report([first, first])


def test_the_table_replaces_its_former_self_in_a_page():
    """What stands around it stays."""
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.replaced(page, "new\n")
    assert once == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    assert report.replaced("only\n", "new\n") == f"only\n\n{report.BEGIN}\nnew\n{report.END}\n"


@pytest.mark.parametrize("name", MODELS)
def test_no_json_body_is_as_long_as_the_raw_row(name):
    """Peers tell the two apart by their length."""
    model = MODELS[name]
    row = np.random.default_rng(0).random(model.shape).round(6).astype("float32")
    for peer in ("mosec", "ray"):
        (form,) = bodies.forms(peer, "json", model)
        assert len(form.write(row).body) != row.nbytes


def test_every_body_of_ours_carries_the_row():
    """JSON rounds to six digits, as the rows were; the others carry every bit."""
    model = MODELS["linear"]
    row = np.random.default_rng(0).random(5).round(6).astype("float32")
    (form,) = bodies.forms("tfrunner", "json", model)
    sent = json.loads(form.write(row).body)["instances"]
    np.testing.assert_array_equal(np.asarray(sent, "float32"), row[None])
    npy = bodies.forms("tfrunner", "binary", model)[0]
    np.testing.assert_array_equal(npy.read(npy.write(row).body, {}), row)


def test_every_grid_holds_what_is_documented():
    """A tuned peer is never slower than the documented one for want of trying."""
    for peer in PEERS.values():
        assert peer.documented in peer.grid
        assert len(set(peer.grid)) == len(peer.grid)
        assert all(isinstance(choice, Choice) for choice in peer.grid)


def test_ours_stands_first_in_every_cell():
    """Ratios are to ours, in the same cell."""
    for match in (*quick(), *full(list(MODELS), list(PEERS))):
        assert all(cell.contestants[0].name == "tfrunner" for cell in match.cells)


class SlowServer:
    """Answers every request a while after it came, one connection like the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.listening = threading.Event()
        self.url = ""
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> SlowServer:
        self.thread.start()
        assert self.listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def _run(self) -> None:
        server = self.loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        self.listening.set()
        self.loop.run_forever()
        server.close()
        for each in asyncio.all_tasks(self.loop):
            each.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"abc")
                await asyncio.sleep(SERVED_LATE)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()


def test_the_open_loop_counts_from_when_a_request_was_due(tmp_path):
    """One connection, answers after 0.2 s, five requests due in a row: the last waits 0.8 s."""
    body = tmp_path / "body"
    body.write_bytes(b"abc")
    with SlowServer() as server:
        done = subprocess.run(
            [sys.executable, str(OPEN_LOOP), server.url, "20", "0.25", "1"],
            env={**os.environ, "BODY": str(body), "HEADERS": "X-A: b\n"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    outcome = json.loads(done.stdout.removeprefix("RESULT "))
    assert outcome["requests"] == 5
    assert outcome["failed"] == 0
    # The n-th is due at n / 20 s and answered at (n + 1) * 0.2 s at the earliest.
    assert outcome["p99"] > 4 * 0.15
    assert outcome["p50"] > 2 * 0.15


LEAVES_A_CHILD = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
"""


def statuses(server: Server) -> list[str]:
    """Return what each of a server's processes is doing."""
    return [process.status() for process in server.processes()]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_server_leaves_behind_is_found_paused_and_ended(tmp_path):
    """Triton and Ray go on without the process that was started."""
    command = Command([sys.executable, "-c", LEAVES_A_CHILD], {}, 0, tmp_path)
    server = Server(command)
    server.start()
    try:
        wait_for(lambda: server.has_ended() and len(server.processes()) == 1)
        server.pause()
        wait_for(lambda: statuses(server) == [psutil.STATUS_STOPPED])
        server.resume()
        wait_for(lambda: statuses(server) == [psutil.STATUS_SLEEPING])
        (memory,) = server.memory()
        assert 1 < memory.anonymous < memory.resident
    finally:
        server.stop()
    assert server.processes() == []
