"""What can only be found by trying: the best fixed setting, and how many workers are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from tfrunner.dispatcher.policy import Policy
from tfrunner.errors import ConfigError
from tfrunner.simulator.reference import Static
from tfrunner.simulator.results import Summary
from tfrunner.simulator.scenario import Scenario, sizes_up_to
from tfrunner.simulator.traces import Trace
from tfrunner.simulator.world import simulate

TIMEOUTS = (0.0, 0.001, 0.002, 0.005, 0.010, 0.020, 0.050)
"""Seconds that people set for a fixed wait."""

MOST_WORKERS = 1024


class Setting(NamedTuple):
    """A fixed size and wait, and what came of it."""

    rows: int
    timeout: float
    summary: Summary


def static_settings(scenario: Scenario, trace: Trace, *, seed: int = 0) -> list[Setting]:
    """Return every pair of size and wait with what comes of it, the best goodput first.

    The core is told the size as its bound, so that its admission counts with it, and the
    timers are exact: nothing but the rule itself is held against it.
    """
    timeouts = [timeout for timeout in TIMEOUTS if timeout < scenario.deadline]
    found = []
    for rows, timeout in product(sizes_up_to(scenario.max_batch_size), timeouts):
        bounded = replace(scenario, max_batch_size=rows, alarm=0.0)
        outcome = simulate(bounded, trace, Static(rows, timeout), seed=seed)
        found.append(Setting(rows, timeout, outcome.summary()))
    return sorted(found, key=lambda each: (-each.summary.goodput, each.summary.mean))


class Plan(NamedTuple):
    """How many workers keep the promise, and how it looks with so many.

    Attributes:
        workers: The smallest number.
        latency: The p99 of all requests in seconds; one that was refused counts as infinity.
        summary: The other numbers.
    """

    workers: int
    latency: float
    summary: Summary


def plan_workers(
    scenario: Scenario, trace: Trace, make_policy: Callable[[], Policy], *, p99: float
) -> list[Plan]:
    """Return what was tried, the smallest number of workers that keeps p99 last.

    Doubled until it is kept, then halved in between: more workers are taken to do no harm.

    Args:
        scenario: Its first worker's speed is that of all.
        trace: What is asked.
        make_policy: Returns a new policy for each trial.
        p99: Seconds in which 99 of 100 requests must be answered.

    Raises:
        ConfigError: A lone request takes longer, or more than MOST_WORKERS are needed.
    """
    lone = scenario.cost.mean(1, 0.0) / scenario.speeds[0] + scenario.transfer
    if lone > p99:
        raise ConfigError(
            f"a lone request takes {lone * 1e3:.3g} ms, more than the {p99 * 1e3:.3g} ms asked "
            "for; more workers do not help. Ask for more time, or take a faster device."
        )
    tried: dict[int, Plan] = {}

    def keeps(workers: int) -> bool:
        fleet = replace(scenario, speeds=scenario.speeds[:1] * workers)
        outcome = simulate(fleet, trace, make_policy())
        latency = np.nan_to_num(outcome.latency, nan=np.inf)
        at = float(np.quantile(latency, 0.99, method="higher"))
        tried[workers] = Plan(workers, at, outcome.summary())
        return at <= p99

    low, high = 0, 1
    while not keeps(high):
        low, high = high, high * 2
        if high > MOST_WORKERS:
            raise ConfigError(
                f"{low} workers do not keep {p99 * 1e3:.3g} ms: bursts of the trace are larger "
                "than any number of workers takes in that time. Ask for more time."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    best = tried.pop(high)
    return [*(tried[workers] for workers in sorted(tried)), best]
