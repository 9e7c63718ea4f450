"""How long the dispatcher has said nothing, while somebody was there to hear it. Pure."""

from __future__ import annotations

LONGEST = 10.0
"""Seconds of silence after which a dispatcher that has answered before is given up."""

LONGEST_AT_START = 60.0
"""The same before its first word: Python is started, and a slow disk may hold it."""

LONGEST_STEP = 1.0
"""Seconds that count between two steps. The supervisor asks each second, so more means that it
stood still itself (SIGSTOP, a frozen container), and the dispatcher perhaps with it."""


class Silence:
    """Seconds without a word of one dispatcher process.

    Attributes:
        seconds: Those of them in which the supervisor did not stand still.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._longest = LONGEST_AT_START
        self._last_step = 0.0

    def __repr__(self) -> str:
        return f"<Silence [{self.seconds:.1f} of {self._longest:.0f} s]>"

    @property
    def is_too_long(self) -> bool:
        """Whether the process is given up."""
        return self.seconds >= self._longest

    def begin(self) -> None:
        """Take note of a new process."""
        self.seconds = 0.0
        self._longest = LONGEST_AT_START

    def hear(self) -> None:
        """Take note of a word."""
        self.seconds = 0.0
        self._longest = LONGEST

    def step(self, now: float) -> None:
        """Count the time since the step before."""
        self.seconds += min(now - self._last_step, LONGEST_STEP)
        self._last_step = now
