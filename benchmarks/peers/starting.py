"""Servers, from what is to be served to a server whose answers were checked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.bodies import Form, forms
from benchmarks.peers.contestants import OURS, Choice
from benchmarks.peers.environments import Environment
from benchmarks.peers.load import Missing, ask, check
from benchmarks.peers.models import Made
from benchmarks.peers.processes import Command, Server

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = Path(__file__).resolve().parent / "servers"
SETTINGS = "TFRUNNER_BENCHMARK_SETTINGS"
START_SECONDS = 150.0
AT_ONCE = 2
"""Servers that start at once: importing TensorFlow takes a core each."""


class Wanted(NamedTuple):
    """A server to start.

    Args:
        peer: Whose.
        plan: Which callable a peer runs.
        choice: A peer's settings; None for ours.
    """

    peer: str
    plan: str
    choice: Choice | None


class Live(NamedTuple):
    """A server that answers rightly.

    Args:
        wanted: What it is.
        server: Its processes.
        forms: How to call it, by form of body; those that it refuses are missing.
        reasons: Why a form of body is missing.
    """

    wanted: Wanted
    server: Server
    forms: dict[str, Form]
    reasons: dict[str, str]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def command(wanted: Wanted, made: Made, environment: Environment | None, folder: Path) -> Command:
    """Return how a server is started.

    Raises:
        Missing: Its environment could not be made.
    """
    port = free_port()
    if wanted.peer == OURS:
        words = [sys.executable, "-m", "tfrunner", "serve", made.model.name, "--port", str(port)]
        paths = os.pathsep.join((str(ROOT), str(ROOT / "workers")))
        home = {"TFRUNNER_HOME": str(made.folder / "home"), "TFRUNNER_RUN_DIR": f"{folder}/run"}
        return Command(words, {**home, "PYTHONPATH": paths}, port, folder)
    if environment is None or environment.reason:
        raise Missing(environment.reason if environment else "its environment was not asked for")
    assert wanted.choice is not None  # only ours has nothing set
    settings = {
        "folder": str(made.folder),
        "plan": wanted.plan,
        "shape": list(made.model.shape),
        "outputs": made.model.outputs,
        "port": port,
        **wanted.choice._asdict(),
    }
    own = {
        SETTINGS: json.dumps(settings),
        "PATH": f"{environment.python.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "BENTOML_DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return Command(_words(wanted.peer, environment.python, port, folder), own, port, folder)


def _words(peer: str, python: Path, port: int, folder: Path) -> list[str]:
    """Return the command line of a peer; most read all else from their settings."""
    script = [str(python), str(SERVERS / f"{peer}_server.py")]
    match peer:
        case "mosec":
            return [*script, "--port", str(port), "--address", "127.0.0.1"]
        case "mlserver":
            return [*script, str(folder)]
        case "bentoml":
            serve = [str(python.with_name("bentoml")), "serve", "bentoml_server:Inference"]
            where = ["--host", "127.0.0.1", "--working-dir", str(SERVERS)]
            return [*serve, "--port", str(port), *where]
    return script


@contextmanager
def started(
    everyone: Sequence[Wanted],
    made: Made,
    environments: dict[str, Environment],
    *,
    bodies: Sequence[str],
    say: Callable[[str], None],
) -> Iterator[dict[Wanted, Live | str]]:
    """Start servers, two at a time; end them all with the `with` block.

    Args:
        everyone: Which.
        made: What they serve.
        environments: By peer.
        bodies: The forms of body that will be sent.
        say: Takes a line of progress.

    Returns:
        For each, the server, or why it is missing.
    """
    begun: list[Server] = []
    folder = Path(tempfile.mkdtemp(prefix="tfb"))

    def one(numbered: tuple[int, Wanted]) -> Live | str:
        number, wanted = numbered
        label = f"{wanted.peer} ({wanted.choice or 'nothing set'}, {wanted.plan})"
        own = folder / str(number)
        own.mkdir()
        try:
            server = Server(command(wanted, made, environments.get(wanted.peer), own))
            begun.append(server)
            server.start()
            live = _when_ready(wanted, server, made, bodies)
        except Missing as exc:
            say(f"  {label}: {exc}")
            return str(exc)
        say(f"  {label}: ready, answers are right")
        return live

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(one, enumerate(everyone)))
        yield dict(zip(everyone, found, strict=True))
    finally:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Server.stop, begun))
        shutil.rmtree(folder, ignore_errors=True)


def _when_ready(wanted: Wanted, server: Server, made: Made, bodies: Sequence[str]) -> Live:
    """Wait for a server's first answer, then check all rows in every form of body.

    Raises:
        Missing: It ended, or did not answer in time, or wrongly.
    """
    first = forms(wanted.peer, "json", made.model)[0]
    deadline = time.monotonic() + START_SECONDS
    reason = ""
    while True:
        if server.has_ended():
            raise Missing(f"it ended:\n{server.last_words()}")
        if time.monotonic() > deadline:
            raise Missing(f"no answer in {START_SECONDS:.0f} s ({reason}):\n{server.last_words()}")
        try:
            ask(server.port, first, made.rows[0])
            break
        except (OSError, HTTPException, Missing, ValueError, KeyError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            time.sleep(0.1)
    found, reasons = {}, {}
    for body in bodies:
        try:
            found[body] = _first_right(wanted.peer, body, server, made)
        except Missing as exc:
            reasons[body] = str(exc)
    return Live(wanted, server, found, reasons)


def _first_right(peer: str, body: str, server: Server, made: Made) -> Form:
    """Return the first form that a server answers rightly."""
    reason = "it has no such form of body"
    for form in forms(peer, body, made.model):
        try:
            check(server.port, form, made)
            return form
        except Missing as exc:
            reason = str(exc)
    raise Missing(reason)
