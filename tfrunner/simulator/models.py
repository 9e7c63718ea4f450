"""Simulated models: how long a worker really takes. The dispatcher has to find it out."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Cost(Protocol):
    """What a batch takes, in seconds, on a worker of speed 1."""

    def mean(self, rows: int, now: float) -> float:
        """Return the mean seconds of a batch that starts at `now`."""

    def draw(self, rows: int, now: float, rng: np.random.Generator) -> float:
        """Return the seconds of one batch that starts at `now`."""


@dataclass(frozen=True)
class Affine:
    """`base + per_row * rows` seconds."""

    base: float
    per_row: float

    def mean(self, rows: int, now: float) -> float:
        """Return the seconds; they do not change with time."""
        return self.base + self.per_row * rows

    def draw(self, rows: int, now: float, rng: np.random.Generator) -> float:
        """Return the mean: nothing is left to chance."""
        return self.mean(rows, now)


@dataclass(frozen=True)
class Table:
    """Measured sizes, straight lines between them.

    Args:
        sizes: Rows, rising, from 1.
        times: Seconds of a batch of each size.
    """

    sizes: tuple[int, ...]
    times: tuple[float, ...]

    def mean(self, rows: int, now: float) -> float:
        """Return the seconds; beyond the last size the rows cost what its rows do."""
        index = bisect_left(self.sizes, rows)
        if index == len(self.sizes):
            return self.times[-1] * rows / self.sizes[-1]
        if self.sizes[index] == rows or index == 0:
            return self.times[index]
        low, high = self.sizes[index - 1], self.sizes[index]
        share = (rows - low) / (high - low)
        return self.times[index - 1] + share * (self.times[index] - self.times[index - 1])

    def draw(self, rows: int, now: float, rng: np.random.Generator) -> float:
        """Return the mean: nothing is left to chance."""
        return self.mean(rows, now)


CNN = Table((1, 8, 16, 32, 64), (0.00052, 8 / 3670, 16 / 3126, 32 / 2835, 64 / 3803))
"""A small CNN (28x28) on one core, as measured: its best sizes are 8 and 64, none between."""


@dataclass(frozen=True)
class Noisy:
    """A cost with a heavy tail: multiplied by a lognormal factor of mean 1.

    Args:
        cost: The mean.
        sigma: Standard deviation of the factor's logarithm; 0.5 has a p99 of 2.8 means.
    """

    cost: Cost
    sigma: float

    def mean(self, rows: int, now: float) -> float:
        """Return the mean seconds of the cost."""
        return self.cost.mean(rows, now)

    def draw(self, rows: int, now: float, rng: np.random.Generator) -> float:
        """Return the seconds with the factor."""
        factor = math.exp(rng.normal(-(self.sigma**2) / 2, self.sigma))
        return self.cost.draw(rows, now, rng) * factor


@dataclass(frozen=True)
class Drift:
    """A cost that is multiplied by `factor` from the moment `at` on."""

    cost: Cost
    at: float
    factor: float

    def mean(self, rows: int, now: float) -> float:
        """Return the seconds at that moment."""
        return self.cost.mean(rows, now) * (self.factor if now >= self.at else 1.0)

    def draw(self, rows: int, now: float, rng: np.random.Generator) -> float:
        """Return the seconds of one batch at that moment."""
        return self.cost.draw(rows, now, rng) * (self.factor if now >= self.at else 1.0)
