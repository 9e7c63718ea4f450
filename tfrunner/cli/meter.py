"""A bar for what takes more than a moment: how many bytes are done, and how many are left."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

PATIENCE = 1.0
"""Seconds after which people want to see something."""


class Meter:
    """Shows a bar in a terminal once something has taken a second; nothing elsewhere.

    Args:
        console: Where to; standard error, so that output stays clean.
        text: What is going on.
        clock: Gives seconds, monotonic.
    """

    def __init__(
        self, console: Console, text: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._text = text
        self._clock = clock
        self._started = clock()
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Say how many bytes are done, and of how many."""
        if self._bar is None:
            if not self._console.is_terminal or self._clock() - self._started < PATIENCE:
                return
            self._bar = _bar(self._console)
            self._bar.add_task(self._text, total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
