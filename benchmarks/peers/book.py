"""What was measured, as one JSON file. Written after every cell, so that nothing is lost."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.contestants import Contestant
from benchmarks.peers.load import Outcome
from benchmarks.peers.matches import Cell
from benchmarks.peers.processes import Memory


class Round(NamedTuple):
    """One measurement.

    Args:
        round: Its number.
        settings: What was set.
        form: Of the bodies.
        outcome: What became of the load.
        cpu: CPU seconds of all the server's processes.
    """

    round: int
    settings: str
    form: str
    outcome: Outcome
    cpu: float


class Book:
    """All results.

    Args:
        path: The file.
        content: What it holds; `read` and `new` make it.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    def add_run(self, model: str, cell: Cell, contestant: Contestant, taken: Round) -> None:
        """Note one round of one contestant in one cell."""
        where = {**_place(model, cell), "contestant": contestant.name}
        measured = {**taken._asdict(), **taken.outcome._asdict(), "rate": taken.outcome.rate}
        del measured["outcome"]
        self.content["runs"].append({**where, **measured})

    def add_tuning(self, model: str, peer: str, connections: int, rates: dict[str, float]) -> None:
        """Note the rate of every point of a peer's grid."""
        entry = {"model": model, "peer": peer, "connections": connections, "rates": rates}
        self.content["tuning"].append(entry)

    def add_missing(self, model: str, cell: Cell, contestant: Contestant, reason: str) -> None:
        """Note why a contestant is missing from a cell."""
        entry = {**_place(model, cell), "contestant": contestant.name, "reason": reason}
        self.content["missing"].append(entry)

    def add_memory(self, model: str, who: str, held: list[Memory], *, idle: float) -> None:
        """Note what a server's processes hold after they were measured, and use while idle."""
        processes = [memory._asdict() for memory in held]
        self.content["memory"].append(
            {"model": model, "server": who, "idle": idle, "processes": processes}
        )

    def save(self) -> None:
        """Write the file, by way of another."""
        other = self.path.with_suffix(".part")
        other.write_text(json.dumps(self.content, indent=1) + "\n")
        other.replace(self.path)


def _place(model: str, cell: Cell) -> dict[str, Any]:
    """Return what names a cell."""
    load = cell.load
    return {
        "model": model,
        "body": cell.body,
        "loop": load.loop,
        "connections": load.connections,
        "asked_rate": load.rate,
    }


def new(path: Path, *, command: str, versions: dict[str, str], plans: dict[str, str]) -> Book:
    """Return an empty book.

    Args:
        path: Its file.
        command: The command line.
        versions: What is installed in each peer's environment, or why it is not.
        plans: tfrunner's plan of each model.
    """
    content = {
        "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "command": command,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "load_at_start": os.getloadavg()[0],
        },
        "versions": versions,
        "plans": plans,
        "seconds": 0.0,
        "runs": [],
        "tuning": [],
        "missing": [],
        "memory": [],
    }
    return Book(path, content)
