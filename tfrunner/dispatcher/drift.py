"""Runs in a row that disagree with what was expected, to the same side: the speed changed."""

from __future__ import annotations

from statistics import median

DRIFT_RATIO = 1.25
DRIFT_RUNS = 16
"""So many runs in a row, each so far off to the same side, mean that the model's speed changed."""

LIKELY_RUNS = 3
"""After so many it may be so."""


class Streak:
    """The latest runs that were all too slow, or all too fast."""

    def __init__(self) -> None:
        self._ratios: list[float] = []  # what they took over what was expected
        self._before: dict[int, float] = {}  # what was expected of a size before the first one
        self._seconds: dict[int, list[float]] = {}

    def add(self, step: int, expected: float, seconds: float) -> bool:
        """Take in a run of a size; return whether the speed has changed."""
        if self._is_new(step, seconds):
            return False
        before = self._before.get(step, expected)
        ratio = seconds / before
        is_near = 1 / DRIFT_RATIO <= ratio <= DRIFT_RATIO
        if is_near or (self._ratios and (self._ratios[-1] > 1) != (ratio > 1)):
            self.end()
        if is_near:
            return False
        self._ratios.append(ratio)
        self._before.setdefault(step, before)
        self._seconds.setdefault(step, []).append(seconds)
        return len(self._ratios) >= DRIFT_RUNS

    def note_new(self, step: int, seconds: float) -> None:
        """Take in the first run of a size: it is of the present speed already."""
        self._seconds[step] = [seconds]

    def _is_new(self, step: int, seconds: float) -> bool:
        """Whether a size ran first since the runs disagree: then it cannot say that they do not."""
        runs = self._seconds.get(step)
        if runs is None or step in self._before:
            return False
        runs.append(seconds)
        if len(runs) >= (DRIFT_RUNS if self._ratios else LIKELY_RUNS):
            del self._seconds[step]
        return True

    @property
    def is_likely(self) -> bool:
        """Whether some runs have disagreed already, too few to be sure."""
        return len(self._ratios) >= LIKELY_RUNS

    @property
    def factor(self) -> float:
        """By how much runs take longer."""
        return median(self._ratios)

    def seconds(self, step: int) -> float | None:
        """Return what a size takes now; None if it did not run."""
        seconds = self._seconds.get(step)
        return None if seconds is None else median(seconds)

    def end(self) -> None:
        """Forget the runs."""
        self._ratios.clear()
        self._before.clear()
        self._seconds.clear()
