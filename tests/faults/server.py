"""A running server as the faults see it: its processes, signals to them, and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tfrunner.errors import TFRunnerError
from tfrunner.testing import ServedClient, serve

SABOTAGE = Path(__file__).parent / "sabotage"
MODULES = {
    "worker": "tfrunner_workers",
    "api": "tfrunner.api",
    "dispatcher": "tfrunner.dispatcher",
}
LIMIT = 60.0
LOOK_SECONDS = 0.02


@contextlib.contextmanager
def served(*models: Any, sabotage: str = "", **options: Any) -> Iterator[ServedClient]:
    """Serve models, by default the echo model, with one protection switched off if named.

    Args:
        models: As `tfrunner.testing.serve` takes them.
        sabotage: A name in `sabotage/sitecustomize.py`.
        options: Of `tfrunner serve`.
    """
    if not models:
        models, options = ("echo",), {"echo": True, **options}
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "TFRUNNER_SABOTAGE")}
    if sabotage:
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(SABOTAGE), before["PYTHONPATH"]])
        )
        os.environ["TFRUNNER_SABOTAGE"] = sabotage
    try:
        with serve(*models, **options) as server:
            yield server
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def processes(server: ServedClient, kind: str = "") -> list[psutil.Process]:
    """Return the server's processes of one kind, or all of them without the supervisor."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(server.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                arguments = child.cmdline()[1:3]
                if child.status() != psutil.STATUS_ZOMBIE and (
                    not kind or arguments == ["-m", MODULES[kind]]
                ):
                    found.append(child)
    return found


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that nobody reaps counts as ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(what: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Return the first true value of `what`, which may block; its last value after the limit."""
    deadline = time.monotonic() + limit
    while not (value := await asyncio.to_thread(what)) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
    return value


def state(server: ServedClient) -> dict[str, Any]:
    """Return the server's state, {} while nobody can say."""
    try:
        return server.status(timeout=2.0)
    except TFRunnerError:
        return {}


def model_state(server: ServedClient, tag: str = "echo:1") -> dict[str, Any]:
    """Return what the dispatcher says of a model, {} while nobody can say."""
    models: dict[str, Any] = state(server).get("models", {})
    return models.get(tag, {})


def running_workers(server: ServedClient) -> list[int]:
    """Return the process ids of workers that run a batch now."""
    workers = state(server).get("workers", {}).values()
    return [worker["pid"] for worker in workers if worker["running"]]


def ready_workers(server: ServedClient, tag: str = "echo:1") -> int:
    """Return how many workers of a model can be given batches."""
    return int(model_state(server, tag).get("workers", 0))


def restarts(server: ServedClient, kind: str) -> int:
    """Return how often processes of a kind were started again."""
    rows = state(server).get("processes", [])
    return sum(row["restarts"] for row in rows if row["kind"] == kind)


def run_directory(server: ServedClient) -> Path:
    """Return the server's run directory."""
    return Path(server.address.removeprefix("ipc://")).parent
