"""Those who ask: the requests of all models in order of time, as one gateway submits them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tfrunner.protocol import Request
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.traces import Trace

METHOD = "__call__"

PART = 1 << 32
"""Requests of one part are numbered from a multiple of it on."""


class Part(NamedTuple):
    """One served model: how it runs, and what is asked of it."""

    scenario: Scenario
    trace: Trace


class Callers:
    """The requests of all parts in order of time."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._tags = [tag(number) for number in range(len(parts))]
        moments = [
            (moment, number, index)
            for number, part in enumerate(parts)
            for index, moment in enumerate(part.trace.times.tolist())
        ]
        self._moments = moments if len(parts) == 1 else sorted(moments)
        self._rows = [part.trace.rows.tolist() for part in parts]
        self._keys = [part.trace.keys.tolist() for part in parts]
        self._clients = [part.trace.clients.tolist() for part in parts]
        self._position = 0

    @property
    def left(self) -> int:
        """How many are still to come."""
        return len(self._moments) - self._position

    @property
    def next(self) -> float:
        """The moment of the next one; infinity after the last."""
        return self._moments[self._position][0] if self.left else math.inf

    def take(self, now: float) -> tuple[Request, ...]:
        """Return those that have come."""
        taken = []
        while self.next <= now:
            _, number, index = self._moments[self._position]
            self._position += 1
            taken.append(self._request(number, index))
        return tuple(taken)

    def _request(self, number: int, index: int) -> Request:
        key, client = self._keys[number][index], self._clients[number][index]
        return Request(
            number * PART + index,
            self._tags[number],
            METHOD,
            b"%d" % key,
            self._rows[number][index],
            self._parts[number].scenario.deadline,
            f"client-{client}",
            (),
        )


def tag(number: int) -> str:
    """Return the tag of a part's model."""
    return f"model-{number}:1"
