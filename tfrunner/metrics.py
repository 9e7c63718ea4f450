"""Prometheus metrics of one's own: counted in any process, shown by every api process.

    import tfrunner

    SEEN = tfrunner.metrics.Counter("images_seen", "Images that were classified.", ["camera"])

    SEEN.labels("north").inc()

Declared in a Service's module or a Runnable's, once, at its top. Each process counts for itself
and tells the dispatcher twice a second; `/metrics` of any api process shows the sums of all
processes, those of the ones that are gone included.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from tfrunner.errors import StateError
from tfrunner.metric_declarations import labels_of
from tfrunner.metric_series import Catalogue, Cell, Series
from tfrunner.protocol import Family

__all__ = ["Counter", "Gauge", "Histogram", "Summary", "local_text"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of a histogram's buckets where none are given, as prometheus_client has them."""

INFINITY = float("inf")

CATALOGUE = Catalogue()
"""The one thing that modules share: a metric is declared when its module is imported, before
there is anything that it could be given to."""

M = TypeVar("M", bound="_Metric")


class _Metric:
    """What all kinds have: a declaration, and labels.

    Args:
        series: What this process has counted.
        values: Of the labels; None: they are not chosen yet.
    """

    _series: Series
    _cell: Cell | None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._series.family.name} [{self._cell}]>"

    def _declare(self, family: Family) -> None:
        self._series = CATALOGUE.declare(family)
        self._cell = None if family.labels else self._series.cell(())

    def labels(self: M, *values: object, **named: object) -> M:
        """Return the metric under these values of its labels, given in order or by name.

        Raises:
            StateError: There are too few, too many, or others.
        """
        if self._cell is not None:
            family = self._series.family
            raise StateError(f"the metric {family.name!r} has no labels, or has them by now.")
        child = type(self).__new__(type(self))
        child._series = self._series
        child._cell = self._series.cell(labels_of(self._series.family, values, named))
        return child

    def _chosen(self) -> Cell:
        if self._cell is None:
            family = self._series.family
            raise StateError(
                f"the metric {family.name!r} has the labels ({', '.join(family.labels)}): choose "
                "their values with labels(...) first."
            )
        return self._cell


class Counter(_Metric):
    """A number that only grows; `/metrics` shows it as `<name>_total`.

    Args:
        name: Letters, digits and underscores; not beginning with `tfrunner_`.
        documentation: What is counted, for those who read the metrics.
        labelnames: Names of labels, whose values each call of `labels` gives.
        namespace: Put before the name.
        subsystem: Put between the two.
        unit: Put behind the name, such as "bytes".

    Raises:
        ConfigError: A name cannot be one, or the metric is declared otherwise elsewhere.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
    ) -> None:
        full = _full_name(name.removesuffix("_total"), namespace, subsystem, unit)
        self._declare(Family(full, "counter", documentation, _names(labelnames)))

    def inc(self, amount: float = 1) -> None:
        """Add.

        Raises:
            StateError: The amount is negative, or the labels are not chosen.
        """
        if not amount >= 0:
            name = self._series.family.name
            raise StateError(f"the counter {name!r} only grows; it was to grow by {amount!r}.")
        self._chosen().add((0, float(amount)))

    @contextlib.contextmanager
    def count_exceptions(
        self, exception: type[BaseException] | tuple[type[BaseException], ...] = Exception
    ) -> Iterator[None]:
        """Count the exceptions that leave a block, or a function that this decorates."""
        try:
            yield
        except exception:
            self.inc()
            raise


class Gauge(_Metric):
    """A number that rises and falls.

    Args:
        name: See Counter; so are the others.
        documentation: What the number is.
        labelnames: Names of labels.
        namespace: Put before the name.
        subsystem: Put between the two.
        unit: Put behind the name.
        aggregation: How the values of the processes become one: "sum", "max" or "min" of those
            that live and have set it, or the "last" that was set.

    Raises:
        ConfigError: A name or the aggregation cannot be, or the metric is declared otherwise.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        *,
        aggregation: Literal["sum", "max", "min", "last"] = "sum",
    ) -> None:
        full = _full_name(name, namespace, subsystem, unit)
        family = Family(full, "gauge", documentation, _names(labelnames), rule=aggregation)
        self._declare(family)

    def set(self, value: float) -> None:
        """Set the number."""
        self._chosen().set(float(value))

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self._chosen().add((0, float(amount)))

    def dec(self, amount: float = 1) -> None:
        """Subtract."""
        self._chosen().add((0, -float(amount)))

    def set_to_current_time(self) -> None:
        """Set it to the seconds since 1970."""
        self.set(time.time())

    def set_function(self, function: Callable[[], float]) -> None:
        """Ask a function for the number, twice a second; it must return at once."""
        self._chosen().source = function

    @contextlib.contextmanager
    def track_inprogress(self) -> Iterator[None]:
        """Count who is in a block, or in a function that this decorates."""
        self.inc()
        try:
            yield
        finally:
            self.dec()

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Set it to the seconds that a block takes, or a function that this decorates."""
        with _stopwatch(self.set):
            yield


class Summary(_Metric):
    """How many numbers there were, and their sum.

    Args:
        name: See Counter; so are the others.
        documentation: What the numbers are.
        labelnames: Names of labels.
        namespace: Put before the name.
        subsystem: Put between the two.
        unit: Put behind the name.

    Raises:
        ConfigError: A name cannot be one, or the metric is declared otherwise elsewhere.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
    ) -> None:
        full = _full_name(name, namespace, subsystem, unit)
        self._declare(Family(full, "summary", documentation, _names(labelnames)))

    def observe(self, amount: float) -> None:
        """Count a number."""
        self._chosen().add((0, 1.0), (1, float(amount)))

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Count the seconds that a block takes, or a function that this decorates."""
        with _stopwatch(self.observe):
            yield


class Histogram(_Metric):
    """How many numbers there were below each of some bounds, and their sum.

    Args:
        name: See Counter; so are the others.
        documentation: What the numbers are.
        labelnames: Names of labels.
        namespace: Put before the name.
        subsystem: Put between the two.
        unit: Put behind the name.
        buckets: Upper bounds, rising; one without an end is added.

    Raises:
        ConfigError: A name or the buckets cannot be, or the metric is declared otherwise.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        *,
        buckets: Sequence[float] = BUCKETS,
    ) -> None:
        full = _full_name(name, namespace, subsystem, unit)
        bounds = tuple(float(bound) for bound in buckets if bound != INFINITY)
        family = Family(full, "histogram", documentation, _names(labelnames), bounds)
        self._declare(family)

    def observe(self, amount: float) -> None:
        """Count a number."""
        cell, number = self._chosen(), float(amount)
        cell.add((self._series.place(number), 1.0), (self._series.size - 1, number))

    @contextlib.contextmanager
    def time(self) -> Iterator[None]:
        """Count the seconds that a block takes, or a function that this decorates."""
        with _stopwatch(self.observe):
            yield


def local_text() -> str:
    """Return what this process alone has counted, in Prometheus' text form: for tests."""
    from tfrunner.exposition import expose_told  # prometheus_client, which no worker needs

    return expose_told(CATALOGUE.as_data()).decode()


@contextlib.contextmanager
def _stopwatch(take: Callable[[float], Any]) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        take(time.perf_counter() - begin)


def _names(labelnames: Sequence[str]) -> tuple[str, ...]:
    """Return the labels; a single text is one label, not a label for each letter."""
    return (labelnames,) if isinstance(labelnames, str) else tuple(labelnames)


def _full_name(name: str, namespace: str, subsystem: str, unit: str) -> str:
    """Return a name with all that belongs to it, as prometheus_client joins it."""
    full = "_".join(part for part in (namespace, subsystem, name) if part)
    return f"{full}_{unit}" if unit and not full.endswith(f"_{unit}") else full
