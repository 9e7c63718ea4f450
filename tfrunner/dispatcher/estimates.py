"""What a policy makes of a cost table for the worker that it looks at: pure arithmetic."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from tfrunner.dispatcher.batches import stretch
from tfrunner.dispatcher.policy import View

DOUBT = 0.2
"""Share of the distance from the mean to the upper estimate by which a mean may be wrong."""


def padded(view: View, rows: int) -> int:
    """Return the size that a worker runs for so many rows."""
    at = bisect_left(view.sizes, rows)
    return view.sizes[at] if at < len(view.sizes) else rows


def run_seconds(view: View, rows: int) -> float:
    """Return the mean seconds of so many rows, padded."""
    return view.costs.predict(padded(view, rows))


def upper(view: View, rows: int) -> float:
    """Return the upper estimate for so many rows, padded."""
    return view.costs.upper(padded(view, rows))


def lasts(view: View, rows: int) -> float:
    """Return the mean seconds until so many rows are back: those of the largest part."""
    return run_seconds(view, rows) * stretch(rows, view.parts)


def lasts_at_most(view: View, rows: int) -> float:
    """Return the upper estimate of that."""
    return upper(view, rows) * stretch(rows, view.parts)


def doubt(view: View, rows: int) -> float:
    """Return by which share a prediction may well be wrong: runs differ, and few are counted."""
    return DOUBT * (upper(view, rows) / run_seconds(view, rows) - 1)


def row_seconds(view: View, rows: int) -> float:
    """Return the seconds for each real row, the way there and back included."""
    return (run_seconds(view, rows) + view.costs.transfer) / rows


def price(view: View, rows: int) -> float:
    """Return the seconds for each row while others wait: one worker's next batch lies staged."""
    way = view.costs.transfer if view.workers > 1 else 0.0
    return (run_seconds(view, rows) + way) / rows


def largest(
    view: View, most: int, budget: float, estimate: Callable[[View, int], float] = lasts_at_most
) -> int:
    """Return the most rows that are back within a budget of seconds, 0 if not even one does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(view, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
