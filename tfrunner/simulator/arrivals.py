"""When requests come: Poisson, in bursts, in a step, as the day goes, or as they were recorded.

All but the recorded ones are Poisson processes whose rate changes: unit-rate arrivals are laid
on the time axis by the inverse of the rate's integral (Cinlar 1975, Introduction to
Stochastic Processes, 4.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tfrunner.simulator.traces import Times, Trace, of_times

PERIOD_STEPS = 360
"""A diurnal rate is followed in so many straight pieces for each period."""


class Arrivals(Protocol):
    """A way in which requests come."""

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return so many requests; fewer only where fewer were recorded."""


@dataclass(frozen=True)
class Poisson:
    """Requests independent of each other, `rate` per second."""

    rate: float

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return requests with exponential gaps."""
        return of_times(_unit_times(requests, rng) / self.rate)


@dataclass(frozen=True)
class Bursts:
    """A Markov-modulated Poisson process (MMPP) of two states.

    Args:
        calm: Requests per second in the calm state.
        burst: Requests per second in the other.
        calm_seconds: How long the calm state lasts in the mean; exponential.
        burst_seconds: The same of the other.
    """

    calm: float
    burst: float
    calm_seconds: float = 1.0
    burst_seconds: float = 0.25

    @property
    def rate(self) -> float:
        """The mean rate in requests per second."""
        requests = self.calm * self.calm_seconds + self.burst * self.burst_seconds
        return requests / (self.calm_seconds + self.burst_seconds)

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return requests whose rate jumps to and fro, beginning in the calm state."""
        wanted = _unit_times(requests, rng)
        times, expected = [0.0], [0.0]
        while expected[-1] <= wanted[-1]:
            states = ((self.calm, self.calm_seconds), (self.burst, self.burst_seconds))
            for rate, seconds in states:
                stay = rng.exponential(seconds)
                times.append(times[-1] + stay)
                expected.append(expected[-1] + stay * rate)
        return of_times(np.interp(wanted, expected, times))


@dataclass(frozen=True)
class Step:
    """Poisson requests whose rate changes once, at `seconds`, from `before` to `after`."""

    before: float
    after: float
    seconds: float

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return requests before and after the change."""
        wanted = _unit_times(requests, rng)
        expected = self.before * self.seconds
        late = self.seconds + (wanted - expected) / self.after
        return of_times(np.where(wanted < expected, wanted / self.before, late))


@dataclass(frozen=True)
class Diurnal:
    """Poisson requests whose rate swings like a day: rate (1 + swing sin(2 pi t / period))."""

    rate: float
    swing: float = 0.8
    period: float = 10.0

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return requests that follow the swing, beginning at the mean rate upwards."""
        wanted = _unit_times(requests, rng)
        periods = math.ceil(wanted[-1] / (self.rate * self.period)) + 1
        times = np.linspace(0.0, periods * self.period, periods * PERIOD_STEPS + 1)
        turn = 2 * math.pi / self.period
        expected = self.rate * (times + self.swing / turn * (1 - np.cos(turn * times)))
        return of_times(np.interp(wanted, expected, times))


@dataclass(frozen=True)
class Recorded:
    """A recorded trace, as often as asked for: nothing in it is random.

    Args:
        trace: What was recorded.
        speed: How many times faster it is played.
    """

    trace: Trace
    speed: float = 1.0

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return the first `requests` of the trace, or all of it where it has fewer."""
        first = self.trace.first(requests)
        return replace(first, times=first.times / self.speed)


@dataclass(frozen=True)
class Mixed:
    """Arrivals whose requests differ in rows, batch key and client, each drawn evenly.

    Args:
        arrivals: When they come.
        least_rows: Fewest rows of a request.
        most_rows: Most rows of a request.
        keys: How many batch keys there are.
        clients: How many clients there are.
    """

    arrivals: Arrivals
    least_rows: int = 1
    most_rows: int = 1
    keys: int = 1
    clients: int = 1

    def draw(self, requests: int, rng: np.random.Generator) -> Trace:
        """Return the arrivals with rows, keys and clients drawn anew."""
        trace = self.arrivals.draw(requests, rng)
        count = len(trace)
        return replace(
            trace,
            rows=rng.integers(self.least_rows, self.most_rows + 1, count),
            keys=rng.integers(0, self.keys, count),
            clients=rng.integers(0, self.clients, count),
        )


def _unit_times(requests: int, rng: np.random.Generator) -> Times:
    """Return the arrivals of a Poisson process of one request per second."""
    return np.cumsum(rng.exponential(1.0, requests))
