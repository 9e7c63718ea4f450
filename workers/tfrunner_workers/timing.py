"""What the ways to run a method take, timed in turn so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from tfrunner.tensors import Array
from tfrunner_workers.hosted import Method

SECONDS = 0.25
"""How long each way is timed at each size."""

RUNS = 15
"""How often a way is timed at each size, if that is not too slow."""

Clock = Callable[[], float]


class Clocks(NamedTuple):
    """Give seconds: those that pass, and those that this process spends on a core."""

    wall: Clock
    cpu: Clock


CLOCKS = Clocks(time.perf_counter, time.process_time)


class Times(NamedTuple):
    """Seconds of one run, by both clocks."""

    wall: float
    cpu: float


def in_turn(ways: Mapping[str, Method], arrays: list[Array], clocks: Clocks) -> dict[str, Times]:
    """Return the medians of each way.

    Args:
        ways: What is timed, by name.
        arrays: What they are given.
        clocks: Give seconds.
    """
    for run in ways.values():
        _once(run, arrays, clocks)  # warms it
    taken = {name: [_once(run, arrays, clocks)] for name, run in ways.items()}
    deadline = clocks.wall() + SECONDS * len(ways)
    for _ in range(RUNS):
        if clocks.wall() > deadline:
            break
        for name, run in ways.items():
            taken[name].append(_once(run, arrays, clocks))
    return {
        name: Times(median(each.wall for each in found), median(each.cpu for each in found))
        for name, found in taken.items()
    }


def _once(run: Method, arrays: list[Array], clocks: Clocks) -> Times:
    wall, cpu = clocks.wall(), clocks.cpu()
    run(arrays)
    return Times(clocks.wall() - wall, clocks.cpu() - cpu)
