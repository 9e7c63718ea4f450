"""Side by side: calls that take turns, so that noise hits all of them alike.

The order changes from turn to turn: what a call finds in the caches is what the one before left.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

WARM_CALLS = 3
SEED = 0


class Timed(NamedTuple):
    """What one of several calls took.

    Attributes:
        median: Microseconds.
        gain: How many times as fast as the first of them: median over the turns.
    """

    median: float
    gain: float


def take_turns(calls: Mapping[str, Callable[[], Any]], *, seconds: float) -> dict[str, Timed]:
    """Call all of them again and again until the time is over; compare them with the first.

    Args:
        calls: By name.
        seconds: For all of them together.
    """
    for call in calls.values():
        for _ in range(WARM_CALLS):
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(SEED).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < WARM_CALLS:
        shuffle(order)
        for name in order:
            started = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - started)
    first = next(iter(taken.values()))
    return {
        name: Timed(
            statistics.median(each) * 1e6,
            statistics.median(one / other for one, other in zip(first, each, strict=True)),
        )
        for name, each in taken.items()
    }


def shown(timed: Timed) -> str:
    """Return microseconds, with the ratio behind them: `120 us, 1.8x`."""
    return f"{timed.median:,.0f} us, {timed.gain:.2f}x"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
