"""The standard comparison: some models and fleets, and every way in which requests come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfrunner.simulator.arrivals import Arrivals, Bursts, Diurnal, Mixed, Poisson, Recorded, Step
from tfrunner.simulator.models import CNN, Affine, Drift, Noisy
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.traces import Trace

RESNET = Affine(0.001957, 0.000144)
"""ResNet50 on a V100: 476 images/s one by one, 6275/s in batches of 128 (Inoue 2021, table 1)."""


class Setup(NamedTuple):
    """A scenario with what it is called."""

    text: str
    scenario: Scenario


def setups() -> dict[str, Setup]:
    """Return the models and fleets that are compared, by short names."""
    way = 0.0003
    return {
        "one": Setup(
            "ResNet50, 1 worker, 50 ms",
            Scenario(RESNET, max_batch_size=64, deadline=0.050, transfer=way),
        ),
        "cnn": Setup(
            "small CNN on a core, 1 worker, 100 ms",
            Scenario(CNN, max_batch_size=64, deadline=0.100, transfer=way),
        ),
        "tight": Setup(
            "ResNet50, 4 workers, 8 ms",
            Scenario(RESNET, (1.0,) * 4, max_batch_size=64, deadline=0.008, transfer=way),
        ),
        "fleet": Setup(
            "ResNet50, 8 workers of two speeds, 25 ms",
            Scenario(RESNET, (1.0,) * 4 + (0.5,) * 4, 64, deadline=0.025, transfer=way),
        ),
        "tail": Setup(
            "ResNet50 with a heavy tail, 2 workers, 50 ms",
            Scenario(Noisy(RESNET, 0.5), (1.0,) * 2, 64, deadline=0.050, transfer=way),
        ),
        "drift": Setup(
            "ResNet50 that slows down to a third after 1 s, never warmed, 2 workers, 50 ms",
            Scenario(Drift(RESNET, 1.0, 3.0), (1.0,) * 2, 64, 0.050, transfer=way, is_warm=False),
        ),
    }


def processes(rate: float, seconds: float) -> dict[str, Arrivals]:
    """Return every kind of arrivals for a fleet.

    Args:
        rate: What the fleet can do at its best, in rows per second.
        seconds: How long a simulation lasts: a day is half of it, the step comes at a third.
    """
    return {
        "poisson": Poisson(0.7 * rate),
        "bursts": Bursts(0.4 * rate, 1.8 * rate, 0.4, 0.1),
        "step": Step(0.3 * rate, 0.95 * rate, seconds / 3),
        "diurnal": Diurnal(0.6 * rate, 0.7, seconds / 2),
        "trace": Recorded(office(rate, seconds)),
        "overload": Poisson(2.0 * rate),
    }


def office(rate: float, seconds: float) -> Trace:
    """Return a made-up recording: few clients that send in salvos of 1 to 32 requests.

    Always the same for a rate: it stands for a file.
    """
    rng = np.random.default_rng(0)
    salvos = max(1, int(0.6 * rate * seconds / 16.5))
    starts = np.sort(rng.uniform(0.0, seconds, salvos))
    sizes = rng.integers(1, 33, salvos)
    times = np.repeat(starts, sizes)
    clients = np.repeat(rng.integers(0, 5, salvos), sizes)
    ones = np.ones(len(times), dtype=np.int64)
    return Trace(times - times[0], ones, ones - 1, clients)


PROCESSES = ("poisson", "bursts", "step", "diurnal", "trace", "overload", "mixed")
"""Every kind of arrivals; `mixed` are requests of 1 to 8 rows, of three batch keys."""

MIXED_ROWS = 4.5


def situation(setup: str, process: str, deadlines: float) -> tuple[Scenario, Arrivals, int]:
    """Return a scenario, its arrivals, and how many requests they are.

    Args:
        setup: One of `setups`.
        process: One of PROCESSES.
        deadlines: How long requests come, in deadlines: what waits at the end is answered
            afterwards, and counts for less the longer it is.
    """
    scenario = setups()[setup].scenario
    rate, seconds = scenario.capacity, deadlines * scenario.deadline
    usual = int(0.7 * rate * seconds)
    if process == "mixed":
        arrivals = Mixed(Poisson(0.7 * rate / MIXED_ROWS), 1, 8, keys=3)
        return scenario, arrivals, int(usual / MIXED_ROWS)
    found = processes(rate, seconds)
    return scenario, found[process], int(2 * rate * seconds) if process == "overload" else usual
