"""Side by side: calls that take turns, A B A B, so that noise hits all of them alike.

A turn is several calls, and the first of them do not count: the threads of the one before spin
for a while, and take a core from the next (one call each in turn made a plan of TensorFlow look
three times slower than it is beside TFLite).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

WARM_CALLS = 5
COUNTED_CALLS = 10
FEWEST_TURNS = 3


class Timed(NamedTuple):
    """What one of several calls took.

    Attributes:
        median: Microseconds: median over the turns.
        gain: How many times as fast as the first of them: median over the turns.
    """

    median: float
    gain: float


def take_turns(calls: Mapping[str, Callable[[], Any]], *, seconds: float) -> dict[str, Timed]:
    """Let all of them take turns until the time is over; compare them with the first.

    Args:
        calls: By name.
        seconds: For all of them together.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < FEWEST_TURNS:
        for name, call in calls.items():
            taken[name].append(_turn(call))
    first = next(iter(taken.values()))
    return {
        name: Timed(
            statistics.median(each) * 1e6,
            statistics.median(one / other for one, other in zip(first, each, strict=True)),
        )
        for name, each in taken.items()
    }


def _turn(call: Callable[[], Any]) -> float:
    """Return the median seconds of a few calls."""
    for _ in range(WARM_CALLS):
        call()
    seconds = []
    for _ in range(COUNTED_CALLS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def shown(timed: Timed) -> str:
    """Return microseconds, with the ratio behind them: `120 us, 1.80x`."""
    return f"{timed.median:,.0f} us, {timed.gain:.2f}x"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
