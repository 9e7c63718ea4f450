"""Medians and ratios out of a book's runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers.contestants import OURS

Run = Mapping[str, Any]


class Place(NamedTuple):
    """What names a cell."""

    model: str
    body: str
    loop: str
    connections: int
    asked_rate: float

    @property
    def load(self) -> str:
        """How tables call the load."""
        if self.loop == "open":
            return f"open, {self.asked_rate:g}/s"
        return f"{self.connections} connection{'s' if self.connections > 1 else ''}"


class Line(NamedTuple):
    """One contestant in one cell, over all rounds.

    Args:
        place: The cell.
        contestant: Who.
        settings: What was set.
        form: Of the bodies.
        rounds: How many were measured.
        rate: Median good answers per second.
        spread: Lowest and highest of the rounds.
        p50: Median of the rounds' medians, seconds.
        p99: Median of the rounds' 99th percentiles, seconds.
        mean: Median of the rounds' means, seconds.
        cpu: Median CPU seconds per 1000 good answers.
        failed: Share of requests that failed, over all rounds.
        ratio: Median over the rounds of our rate by theirs in the same round; None for ours
            and where ours is missing.
    """

    place: Place
    contestant: str
    settings: str
    form: str
    rounds: int
    rate: float
    spread: tuple[float, float]
    p50: float
    p99: float
    mean: float
    cpu: float
    failed: float
    ratio: float | None


def place_of(entry: Mapping[str, Any]) -> Place:
    """Return the cell of a run or of a missing contestant."""
    return Place(*(entry[name] for name in Place._fields))


def lines(runs: Iterable[Run]) -> list[Line]:
    """Return a line for each contestant of each cell, in the order in which they were measured.

    A cell that was measured again, with another peer, holds ours once for each time; a peer's
    ratio is to our runs of its own time: those between its first and its last.
    """
    listed = list(runs)
    groups: dict[tuple[Place, str], list[int]] = {}
    for index, run in enumerate(listed):
        groups.setdefault((place_of(run), run["contestant"]), []).append(index)
    return [
        _line(place, who, [listed[i] for i in indices], _beside(listed, place, indices))
        for (place, who), indices in groups.items()
    ]


def _beside(runs: Sequence[Run], place: Place, indices: Sequence[int]) -> dict[int, Run]:
    """Return our runs in the same cell that are nearest to a contestant's, by round."""
    ours: dict[int, Run] = {}
    for index in indices:
        number = runs[index]["round"]
        candidates = [
            other
            for other, run in enumerate(runs)
            if run["contestant"] == OURS and run["round"] == number and place_of(run) == place
        ]
        if candidates:
            ours[number] = runs[min(candidates, key=lambda other: abs(other - index))]
    return ours


def _line(place: Place, who: str, runs: Sequence[Run], ours: Mapping[int, Run]) -> Line:
    rates = [run["rate"] for run in runs]
    good = [max(run["requests"] - run["failed"], 1) for run in runs]
    ratios = [
        ours[run["round"]]["rate"] / run["rate"]
        for run in runs
        if run["round"] in ours and run["rate"] > 0
    ]
    return Line(
        place=place,
        contestant=who,
        settings=runs[-1]["settings"],
        form=runs[-1]["form"],
        rounds=len(runs),
        rate=median(rates),
        spread=(min(rates), max(rates)),
        p50=median(run["p50"] for run in runs),
        p99=median(run["p99"] for run in runs),
        mean=median(run["mean"] for run in runs),
        cpu=median(1000 * run["cpu"] / count for run, count in zip(runs, good, strict=True)),
        failed=sum(run["failed"] for run in runs) / max(sum(run["requests"] for run in runs), 1),
        ratio=median(ratios) if ratios and who != OURS else None,
    )
