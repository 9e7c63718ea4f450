"""What matches are played with: results, progress, and the two things that can be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.peers.book import Book
from benchmarks.peers.callers import Caller
from benchmarks.peers.environments import Environment
from benchmarks.peers.load import Outcome, send
from benchmarks.peers.matches import Cell, Effort
from benchmarks.peers.models import Made
from benchmarks.peers.starting import Live

Say = Callable[[str], None]


class Measured(Protocol):
    """What can be measured: something under load, and what it costs."""

    settings: str
    form: str

    def run(self, seconds: float) -> Outcome:
        """Put it under load for so long."""

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used so far."""


class Tools(NamedTuple):
    """What every match needs.

    Args:
        environments: By peer.
        effort: How long to measure.
        book: Takes the results.
        folder: For bodies.
        say: Takes a line of progress.
    """

    environments: dict[str, Environment]
    effort: Effort
    book: Book
    folder: Path
    say: Say


class ServerUnderLoad:
    """A server and a load."""

    def __init__(self, live: Live, made: Made, cell: Cell, folder: Path) -> None:
        self.live = live
        self.made = made
        self.load = cell.load
        self.folder = folder
        self.body = cell.body
        self.settings = str(live.wanted.choice or "nothing set")
        self.form = live.forms[cell.body].name

    def run(self, seconds: float) -> Outcome:
        """Send for so long."""
        form = self.live.forms[self.body]
        port = self.live.server.port
        return send(self.load, port, form, self.made, seconds=seconds, folder=self.folder)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server's processes."""
        return self.live.server.cpu_seconds()


class CallerUnderLoad:
    """A process that calls, so many rows in so many threads."""

    def __init__(self, caller: Caller, rows: int, threads: int) -> None:
        self.caller = caller
        self.rows = rows
        self.threads = threads
        self.settings = f"{rows} rows, {threads} threads" if rows * threads > 1 else "one row"
        self.form = "arrays"

    def run(self, seconds: float) -> Outcome:
        """Call for so long."""
        return self.caller.measure(rows=self.rows, callers=self.threads, seconds=seconds)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the calling process."""
        return self.caller.cpu_seconds()
