"""What users' own metrics add up to, over all processes that report them. Pure.

1. A report has what its process has counted since its start, so that the newest one holds.
2. Counters, histograms and summaries are sums over all processes that ever were: what a process
   has counted is added to `_kept` once the supervisor names it no more.
3. Gauges are put together by their rule, over the processes that live; only "last" outlives them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from tfrunner.protocol import Family, Reading, Report, family_data

MOST_SETS = 1000
"""Label sets of one metric, over all processes."""

MOST_METRICS = 1000
MOST_PROCESSES = 1000

LATE_SECONDS = 10.0
"""So long after a process was reaped its last report may still arrive."""

Values = tuple[str, ...]
Numbers = tuple[float, ...]
Key = tuple[str, Values]


class Teller:
    """A process that reports.

    Attributes:
        readings: The newest numbers, and when they changed.
        is_known: Whether the supervisor has named it.
        gone: Since when it is named no more; None: it lives.
    """

    __slots__ = ("gone", "is_known", "readings")

    def __init__(self, *, is_known: bool) -> None:
        self.readings: dict[Key, tuple[Numbers, float]] = {}
        self.is_known = is_known
        self.gone: float | None = None


class Told:
    """Users' own metrics.

    Args:
        note: Takes a line for the log.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._families: dict[str, Family] = {}
        self._sets: dict[str, set[Values]] = {}
        self._tellers: dict[str, Teller] = {}
        self._named: Collection[str] = ()  # by the supervisor, the last time
        self._kept: dict[Key, Numbers] = {}
        self._last: dict[Key, tuple[Numbers, float]] = {}
        self._noted: set[str] = set()

    def __repr__(self) -> str:
        return f"<Told [{len(self._families)} metrics | {len(self._tellers)} processes]>"

    def take(self, report: Report, now: float) -> None:
        """Take in a report; what does not fit is left out, and noted once."""
        if report.process not in self._tellers and len(self._tellers) >= MOST_PROCESSES:
            self._note_once(
                "processes", f"metrics of more than {MOST_PROCESSES} processes are not kept"
            )
            return
        is_known = report.process in self._named  # it may die before it is named again
        teller = self._tellers.setdefault(report.process, Teller(is_known=is_known))
        families = [self._meet(family) for family in report.families]
        for reading in report.readings:
            family = families[reading.family] if reading.family < len(families) else None
            if family is not None and _fits(reading, family) and self._has_room(family, reading):
                key = family.name, reading.values
                teller.readings[key] = reading.numbers, now - reading.age

    def attend(self, names: Collection[str], now: float) -> None:
        """Learn which processes live; what the others had counted is kept in the sums."""
        self._named = names
        for name, teller in list(self._tellers.items()):
            if name in names:
                teller.is_known, teller.gone = True, None
            elif teller.is_known and teller.gone is None:
                teller.gone = now
            elif teller.gone is not None and now - teller.gone > LATE_SECONDS:
                self._keep(self._tellers.pop(name))

    def as_data(self) -> list[dict[str, Any]]:
        """Return every metric with its numbers as plain data."""
        found: dict[Key, list[tuple[Numbers, float]]] = {}
        for teller in self._tellers.values():
            for key, told in teller.readings.items():
                family = self._families[key[0]]
                if teller.gone is None or family.kind != "gauge" or family.rule == "last":
                    found.setdefault(key, []).append(told)
        for key, kept in self._kept.items():
            found.setdefault(key, []).append((kept, 0.0))
        for key, told in self._last.items():
            found.setdefault(key, []).append(told)
        samples: dict[str, list[tuple[Values, Numbers]]] = {name: [] for name in self._families}
        for (name, values), tellings in found.items():
            samples[name].append((values, _join(self._families[name], tellings)))
        return [
            {**family_data(family), "samples": sorted(samples[name])}
            for name, family in self._families.items()
        ]

    def _meet(self, family: Family) -> Family | None:
        """Return a metric if it is as others declare it."""
        known = self._families.get(family.name)
        if known is None and len(self._families) < MOST_METRICS:
            known = self._families[family.name] = family
            self._sets[family.name] = set()
        if known is None:
            self._note_once(
                "metrics", f"more than {MOST_METRICS} metrics: {family.name} is left out"
            )
        elif known != family:
            self._note_once(
                family.name,
                f"the metric {family.name!r} is declared in two ways, by processes of one server; "
                f"a {known.kind} by ({', '.join(known.labels)}) is kept, the other is left out",
            )
            return None
        return known

    def _has_room(self, family: Family, reading: Reading) -> bool:
        sets = self._sets[family.name]
        if reading.values in sets or len(sets) < MOST_SETS:
            sets.add(reading.values)
            return True
        self._note_once(
            f"sets of {family.name}",
            f"the metric {family.name!r} has {MOST_SETS} sets of label values, and gets no more: "
            f"{reading.values!r} is left out",
        )
        return False

    def _keep(self, gone: Teller) -> None:
        """Add up what a process that is gone had counted."""
        emptied = set()
        for key, told in gone.readings.items():
            family = self._families[key[0]]
            if family.kind != "gauge":
                kept = self._kept.get(key)
                self._kept[key] = told[0] if kept is None else _sum((kept, told[0]))
            elif family.rule != "last":
                emptied.add(family.name)
            elif key not in self._last or self._last[key][1] <= told[1]:
                self._last[key] = told
        for name in emptied:
            self._sets[name] = {values for values in self._values_of(name)}

    def _values_of(self, name: str) -> Iterator[Values]:
        for teller in self._tellers.values():
            yield from (values for metric, values in teller.readings if metric == name)

    def _note_once(self, about: str, text: str) -> None:
        if about not in self._noted:
            self._noted.add(about)
            self._note(text)


def _fits(reading: Reading, family: Family) -> bool:
    size = {"histogram": len(family.bounds) + 2, "summary": 2}.get(family.kind, 1)
    return len(reading.numbers) == size and len(reading.values) == len(family.labels)


def _join(family: Family, told: list[tuple[Numbers, float]]) -> Numbers:
    """Return the numbers of several processes as one."""
    numbers = [each for each, _ in told]
    if family.kind == "gauge" and family.rule != "sum":
        if family.rule == "last":
            return max(told, key=lambda each: each[1])[0]
        return max(numbers) if family.rule == "max" else min(numbers)
    return _sum(numbers)


def _sum(numbers: Collection[Numbers]) -> Numbers:
    return tuple(map(sum, zip(*numbers, strict=True)))
