"""What this process has counted in users' own metrics, and what of it the dispatcher is told.

`metrics` has what users see. Values are absolute, counted since the process started, so that
a report that is lost, or comes twice, makes no sum wrong. Any thread may count.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from tfrunner.errors import ConfigError
from tfrunner.metric_declarations import Values, check, sample_names, shown
from tfrunner.protocol import Family, Reading, Report, family_data

MOST_SETS = 1000
"""Label sets of one metric: each is a time series that Prometheus keeps."""

MOST_METRICS = 1000

log = logging.getLogger(__name__)


class Cell:
    """The numbers under one set of labels.

    Args:
        size: How many.
        lock: The one of its series.

    Attributes:
        changed: Monotonic moment of the last change; 0.0: there was none.
        source: Gives the number when it is asked for, in place of what is kept.
    """

    __slots__ = ("_lock", "_numbers", "changed", "is_told", "source")

    def __init__(self, size: int, lock: threading.Lock) -> None:
        self._numbers = [0.0] * size
        self._lock = lock
        self.changed = 0.0
        self.is_told = False
        self.source: Callable[[], float] | None = None

    def __repr__(self) -> str:
        return f"<Cell {self._numbers}>"

    def add(self, *amounts: tuple[int, float]) -> None:
        """Add to some numbers, by their places, at once."""
        with self._lock:
            for place, amount in amounts:
                self._numbers[place] += amount
            self._note_change()

    def set(self, number: float) -> None:
        """Set the first number."""
        with self._lock:
            self._numbers[0] = number
            self._note_change()

    def refresh(self) -> None:
        """Ask the source, if there is one, for the number of now."""
        if self.source is not None:
            number = float(self.source())
            if number != self._numbers[0] or not self.changed:
                self.set(number)

    def read(self) -> tuple[float, ...]:
        """Return the numbers."""
        with self._lock:
            return tuple(self._numbers)

    def tell(self) -> tuple[float, ...]:
        """Return the numbers, and note that these are known."""
        with self._lock:
            self.is_told = True
            return tuple(self._numbers)

    def _note_change(self) -> None:
        self.changed = monotonic()
        self.is_told = False


class Series:
    """One metric of this process: a cell for each set of labels that was used.

    Args:
        family: How it was declared.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.size = {"histogram": len(family.bounds) + 2, "summary": 2}.get(family.kind, 1)
        self._lock = threading.Lock()
        self._cells: dict[Values, Cell] = {}
        self._has_refused = False

    def __repr__(self) -> str:
        return f"<Series {self.family.name} [{len(self._cells)} label sets]>"

    def cell(self, values: Values) -> Cell:
        """Return the cell of some values of the labels; beyond the bound one that nobody reads."""
        with self._lock:
            cell = self._cells.get(values)
            if cell is not None:
                return cell
            cell = Cell(self.size, self._lock)
            if len(self._cells) < MOST_SETS:
                self._cells[values] = cell
                return cell
            is_first, self._has_refused = not self._has_refused, True
        if is_first:
            log.error(
                "the metric %r has %d sets of label values, and gets no more: %r is not counted. "
                "Give a label few values: no ids, no times, no texts of callers.",
                *(self.family.name, MOST_SETS, values),
            )
        return cell

    def cells(self) -> list[tuple[Values, Cell]]:
        """Return the cells that there are."""
        with self._lock:
            return list(self._cells.items())

    def place(self, number: float) -> int:
        """Return the bucket of a number."""
        return bisect_left(self.family.bounds, number)


class Catalogue:
    """The metrics that the modules of this process have declared."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Catalogue [{len(self._series)} metrics]>"

    def declare(self, family: Family) -> Series:
        """Return the metric; one that is declared again alike is the one that there is.

        Raises:
            ConfigError: A name cannot be one, or the metric was declared otherwise.
        """
        check(family)
        with self._lock:
            known = self._series.get(family.name) or self._namesake(family)
            if known is None and len(self._series) >= MOST_METRICS:
                raise ConfigError(f"there are {MOST_METRICS} metrics; {family.name!r} is too many.")
            if known is None:
                known = self._series[family.name] = Series(family)
        if known.family != family:
            raise ConfigError(
                f"the metric {family.name!r} is declared twice: as {shown(known.family)}, and as "
                f"{shown(family)}. Declare it alike, or give it another name."
            )
        return known

    def _namesake(self, family: Family) -> Series | None:
        """Return a metric of which a sample has the name that one of this one's has."""
        own = sample_names(family)
        found = (each for each in self._series.values() if own & sample_names(each.family))
        return next(found, None)

    def all(self) -> list[Series]:
        """Return the metrics in the order of their declarations."""
        with self._lock:
            return list(self._series.values())

    def as_data(self) -> list[dict[str, Any]]:
        """Return every metric with its numbers as plain data, as the dispatcher does."""
        return [
            {
                **family_data(series.family),
                "samples": [(values, cell.read()) for values, cell in _refreshed(series)],
            }
            for series in self.all()
        ]

    def report(self, process: str, epoch: str, *, is_whole: bool) -> Report | None:
        """Return what the dispatcher is to be told, None if there is nothing.

        Args:
            process: The name of this process.
            epoch: Whose life the report is for.
            is_whole: Tell all, not only what has changed since the last report.
        """
        families: list[Family] = []
        readings: list[Reading] = []
        now = monotonic()
        for series in self.all():
            found = _readings(series, len(families), now, is_whole=is_whole)
            if found or is_whole:
                families.append(series.family)
                readings += found
        return Report(process, epoch, tuple(families), tuple(readings)) if families else None


class Reporter:
    """Tells the dispatcher what this process has counted: all of it once, then what changes.

    Args:
        catalogue: What there is to tell.
        process: The name of this process, unique for each start.
    """

    def __init__(self, catalogue: Catalogue, process: str) -> None:
        self._catalogue = catalogue
        self._process = process
        self._listener: tuple[str, bytes] | None = None
        self._known = 0

    def __repr__(self) -> str:
        return f"<Reporter {self._process} [{self._known} metrics known]>"

    def report(self, epoch: str, identity: bytes) -> Report | None:
        """Return what is to be said now, None if it is nothing.

        Args:
            epoch: The dispatcher's life.
            identity: Of the socket: what another one had not yet sent is lost.
        """
        if not epoch:
            return None
        known = len(self._catalogue.all())
        is_whole = (epoch, identity) != self._listener or known != self._known
        self._listener, self._known = (epoch, identity), known
        return self._catalogue.report(self._process, epoch, is_whole=is_whole)


def _refreshed(series: Series) -> Iterator[tuple[Values, Cell]]:
    """Yield the cells that say something, up to date; a gauge that was never set does not."""
    for values, cell in series.cells():
        try:
            cell.refresh()
        except Exception as exc:
            log.warning("the function of the metric %r failed: %r", series.family.name, exc)
        if cell.changed or series.family.kind != "gauge":
            yield values, cell


def _readings(series: Series, place: int, now: float, *, is_whole: bool) -> list[Reading]:
    """Return what is to be told of one metric."""
    return [
        Reading(place, values, cell.tell(), min(1e9, max(0.0, now - cell.changed)))
        for values, cell in _refreshed(series)
        if is_whole or not cell.is_told
    ]
