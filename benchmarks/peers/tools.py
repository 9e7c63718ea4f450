"""What matches are played with: results, progress, and the two things that can be measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.peers.book import Book
from benchmarks.peers.callers import Caller
from benchmarks.peers.contestants import OURS
from benchmarks.peers.environments import Environment
from benchmarks.peers.load import Outcome, send
from benchmarks.peers.matches import Cell, Effort
from benchmarks.peers.models import Made
from benchmarks.peers.starting import Live

Say = Callable[[str], None]

AWAKE_SECONDS = 0.2


class Measured(Protocol):
    """What can be measured: something under load, and what it costs."""

    settings: str
    form: str

    def run(self, seconds: float) -> tuple[Outcome, float]:
        """Put it under load for so long; return what became of it, and its CPU seconds."""


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
    """A server and a load. Peers go on only while they are measured: see `run`."""

    def __init__(self, live: Live, made: Made, cell: Cell, folder: Path) -> None:
        self.live = live
        self.is_ours = live.wanted.peer == OURS
        self.made = made
        self.load = cell.load
        self.folder = folder
        self.body = cell.body
        self.settings = str(live.wanted.choice or "nothing set")
        self.form = live.forms[cell.body].name

    def run(self, seconds: float) -> tuple[Outcome, float]:
        """Let a peer go on, send for so long, wait until it is idle, and pause it again.

        Some peers use a tenth of a core while nobody asks them, and some go on with requests
        whose callers have gone: neither may cost the next one. Ours is never paused.
        """
        form, server = self.live.forms[self.body], self.live.server
        if not self.is_ours:
            server.resume()
            time.sleep(AWAKE_SECONDS)
        try:
            before = server.cpu_seconds()
            outcome = send(
                self.load, server.port, form, self.made, seconds=seconds, folder=self.folder
            )
            return outcome, server.cpu_seconds() - before
        finally:
            server.become_idle()
            if not self.is_ours:
                server.pause()


class CallerUnderLoad:
    """A process that calls, so many rows in so many threads."""

    def __init__(self, caller: Caller, rows: int, threads: int) -> None:
        self.caller = caller
        self.rows = rows
        self.threads = threads
        self.settings = f"{rows} rows, {threads} threads" if rows * threads > 1 else "one row"
        self.form = "arrays"

    def run(self, seconds: float) -> tuple[Outcome, float]:
        """Call for so long."""
        before = self.caller.cpu_seconds()
        outcome = self.caller.measure(rows=self.rows, callers=self.threads, seconds=seconds)
        return outcome, self.caller.cpu_seconds() - before
