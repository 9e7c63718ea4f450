"""What a batch of so many rows costs, learned from the batches that ran. Pure arithmetic.

For each size a decayed mean and a decayed mean deviation; the upper estimate is the mean plus
three deviations, as V. Jacobson estimates round trips (Congestion Avoidance and Control,
SIGCOMM 1988, appendix A; there it is four). Sizes not seen are interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from tfrunner.dispatcher.drift import Streak

PRIOR = 0.001
"""Seconds that a batch is taken to need while nothing is known."""

SHORTEST = 1e-7
"""Seconds that a run takes at least, whatever the clock says."""

LEARNING = 0.1
"""Share of the latest run in a mean; the first runs of a size share equally."""

FIRST_LEARNING = 0.3
"""Share of the latest first run in what a new size costs."""

OUTLIER = 4.0
"""A run counts for at most so many times what was expected."""

DEVIATIONS = 3.0
"""The upper estimate is so many mean deviations above the mean: about p99 of a normal law."""

SPREAD = 0.05
"""Share of a time that was measured elsewhere by which runs here are taken to differ."""

EXACT = 64
"""Sizes up to here are learned one by one, larger ones in eight steps for each doubling."""

REFRESH = 16
"""After so many runs the best sizes are looked for again: rates change slowly."""


class Cost:
    """What batches of one size cost.

    Attributes:
        rows: Their mean size; sizes above EXACT share a step.
        mean: Seconds.
        deviation: Mean distance from the mean, in seconds.
        count: Runs that are in it.
    """

    __slots__ = ("count", "deviation", "mean", "rows")

    def __init__(self, rows: float, mean: float, deviation: float, count: int) -> None:
        self.rows = rows
        self.mean = mean
        self.deviation = deviation
        self.count = count

    def add(self, rows: int, seconds: float) -> None:
        """Take in one more run."""
        self.count += 1
        rate = max(LEARNING, 1 / self.count)
        error = min(seconds, OUTLIER * self.mean) - self.mean
        self.mean += rate * error
        self.deviation += rate * (abs(error) - self.deviation)
        self.rows += rate * (rows - self.rows)


class CostTable:
    """Seconds for each size of a batch: one method on one class of devices.

    The first run of a size counts only once a second one confirms it: it may have compiled.

    Attributes:
        transfer: Seconds by which a round trip is longer than the run; 0 while unknown.
        novelty: Seconds by which the first run of a size on a worker takes longer.
    """

    def __init__(self) -> None:
        self.transfer = 0.0
        self.novelty = 0.0
        self._known: dict[int, Cost] = {}
        self._sizes: list[int] = []  # the keys of `_known`, sorted
        self._first: dict[int, float] = {}  # runs that nothing has confirmed yet
        self._streak = Streak()
        self._best_for: list[int] = []  # for each of `_sizes`: the best size up to it
        self._runs_since = 0

    @property
    def is_known(self) -> bool:
        """Whether anything was learned."""
        return bool(self._sizes)

    @property
    def is_shifting(self) -> bool:
        """Whether the latest runs disagree with it: what it says of sizes may be of the past."""
        return self._streak.is_likely

    # --- learning -----------------------------------------------------------------------------

    def observe(
        self, rows: int, seconds: float, now: float = 0.0, *, is_first: bool = False
    ) -> None:
        """Learn from a batch of `rows` rows that ran `seconds` and ended at `now`.

        `is_first`: this worker had not run the size before. If that took far longer than was
        predicted, it is no measure of the size, but of what a new size costs. Batches of no
        rows say nothing about others.
        """
        if rows < 1:
            return
        seconds = max(SHORTEST, seconds)
        step = _step(rows)
        cost = self._known.get(step)
        if is_first and self.is_known:
            excess = max(0.0, seconds - self.predict(rows))
            self.novelty += FIRST_LEARNING * (excess - self.novelty)
            if excess > (OUTLIER - 1) * self.predict(rows):
                if cost is None:
                    self._first[step] = seconds
                return
            if cost is None:
                self._put(step, Cost(rows, seconds, SPREAD * seconds, 1))
                self._streak.note_new(step, seconds)
                return
        if cost is not None:
            has_drifted = self._streak.add(step, cost.mean, seconds)
            cost.add(rows, seconds)
            if has_drifted:
                self._rescale()
            self._runs_since += 1
        elif is_first or step not in self._first:
            self._first[step] = min(seconds, self._first.get(step, seconds))
        else:
            first = self._first.pop(step)
            mean = min(first, seconds)
            self._put(step, Cost(rows, mean, min(abs(first - seconds), mean) / 2, 2))
            self._streak.note_new(step, mean)

    def observe_transfer(self, seconds: float) -> None:
        """Learn how much longer than the run a round trip took."""
        seconds = max(0.0, seconds)
        known = self.transfer or seconds
        self.transfer = known + LEARNING * (min(seconds, OUTLIER * known) - known)

    def seed(self, costs: Iterable[tuple[int, float]]) -> None:
        """Take in (rows, seconds) that were measured elsewhere; what ran here counts more."""
        for rows, seconds in costs:
            step = _step(rows)
            if rows > 0 and step not in self._known:
                self._put(step, Cost(rows, max(SHORTEST, seconds), SPREAD * seconds, 1))

    def copy(self, other: CostTable) -> None:
        """Begin with what another table knows; what runs here soon counts more."""
        self.transfer, self.novelty = other.transfer, other.novelty
        for step in other._sizes:
            cost = other._known[step]
            self._put(step, Cost(cost.rows, cost.mean, cost.deviation, 1))

    def _put(self, step: int, cost: Cost) -> None:
        self._known[step] = cost
        insort(self._sizes, step)
        self._runs_since = REFRESH

    def _rescale(self) -> None:
        """Take the latest runs for what their sizes cost now; the other sizes changed as much."""
        for step, cost in self._known.items():
            mean = self._streak.seconds(step) or cost.mean * self._streak.factor
            cost.deviation *= mean / cost.mean
            cost.mean = mean
            cost.count = min(cost.count, 2)
        self._streak.end()

    def has_run(self, rows: int) -> bool:
        """Whether the cost of this very size is known."""
        return _step(rows) in self._known

    # --- predicting ---------------------------------------------------------------------------

    def predict(self, rows: int) -> float:
        """Return the seconds that a batch of so many rows will probably take."""
        if rows <= EXACT and (cost := self._known.get(rows)) is not None:
            return cost.mean
        return self._estimate(rows)[0]

    def upper(self, rows: int) -> float:
        """Return the seconds that hardly any batch of so many rows will exceed."""
        mean, deviation = self._estimate(rows)
        return mean + DEVIATIONS * deviation

    def best(self, rows: int) -> int:
        """Return the size of at most `rows` with the most rows/s, of those that are known.

        Time that is spent on the way counts with the run.
        """
        if self._runs_since >= REFRESH:
            self._look_for_best()
        at = bisect_right(self._sizes, rows)
        return self._best_for[at - 1] if at else rows

    def _look_for_best(self) -> None:
        self._runs_since = 0
        self._best_for = []
        best, best_rate = 1, 0.0
        for step in self._sizes:
            cost = self._known[step]
            rate = cost.rows / (cost.mean + self.transfer)
            if rate >= best_rate:
                best, best_rate = step, rate
            self._best_for.append(best)

    def _estimate(self, rows: int) -> tuple[float, float]:
        """Return mean and deviation in seconds, between or beyond the known sizes."""
        if not self._sizes:
            return PRIOR, PRIOR
        at = bisect_left(self._sizes, _step(rows))
        if at == len(self._sizes):
            near = self._known[self._sizes[-1]]
            mean = self._above(near, rows)
        elif at == 0:
            near = self._known[self._sizes[0]]
            mean = self._below(near, rows)
        else:
            low, near = self._known[self._sizes[at - 1]], self._known[self._sizes[at]]
            share = min(1.0, (rows - low.rows) / max(1e-9, near.rows - low.rows))
            mean = low.mean + max(0.0, share) * (near.mean - low.mean)
        return mean, near.deviation * mean / near.mean

    def _above(self, last: Cost, rows: int) -> float:
        """Go on with the slope of the largest known sizes, from half of the last one on."""
        at = bisect_right(self._sizes, last.rows / 2)
        early = self._known[self._sizes[max(0, at - 1)]]
        steep = (last.mean - early.mean) / max(1e-9, last.rows - early.rows)
        slope = min(max(0.0, steep), last.mean / last.rows)
        return last.mean + slope * max(0.0, rows - last.rows)

    def _below(self, first: Cost, rows: int) -> float:
        """Go back with the slope of the smallest known sizes: at most in proportion."""
        if len(self._sizes) == 1:
            return first.mean
        second = self._known[self._sizes[1]]
        slope = (second.mean - first.mean) / max(1e-9, second.rows - first.rows)
        mean = first.mean - max(0.0, slope) * max(0.0, first.rows - rows)
        return max(mean, first.mean * min(1.0, rows / first.rows))

    # --- keeping --------------------------------------------------------------------------------

    def as_data(self) -> list[list[float]]:
        """Return what is known as plain data: [rows, mean, deviation] for each size."""
        costs = (self._known[step] for step in self._sizes)
        return [[round(c.rows), c.mean, c.deviation] for c in costs]

    @classmethod
    def from_data(cls, data: object) -> CostTable:
        """Return the table that `as_data` described.

        Raises:
            ValueError: The data are not of that form.
        """
        if not isinstance(data, list):
            raise ValueError(f"expected a list of [rows, mean, deviation], got {data!r:.80}")
        table = cls()
        for each in data:
            rows, mean, deviation = _row(each)
            if _step(rows) not in table._known:
                table._put(_step(rows), Cost(rows, mean, deviation, 2))
        return table

    def __repr__(self) -> str:
        known = ", ".join(f"{s}: {1e3 * self._known[s].mean:.3g} ms" for s in self._sizes[:8])
        return f"<CostTable [{known or 'nothing known'}]>"


def _step(rows: int) -> int:
    """Return the size under which a batch of `rows` rows is learned."""
    if rows <= EXACT:
        return rows
    shift = rows.bit_length() - 4
    return -(-rows >> shift) << shift


def _row(each: object) -> tuple[int, float, float]:
    """Return one line of a table that was kept, checked."""
    if not (isinstance(each, list) and len(each) == 3):
        raise ValueError(f"expected [rows, mean, deviation], got {each!r:.80}")
    rows, mean, deviation = each
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in each)
    if not numbers or not isinstance(rows, int) or not 1 <= rows <= 2**31:
        raise ValueError(f"expected a whole number of rows and two of seconds, got {each!r:.80}")
    if not (0 < mean <= 1e9 and 0 <= deviation <= 1e9 and math.isfinite(mean + deviation)):
        raise ValueError(f"expected seconds between 0 and 1e9, got {each!r:.80}")
    return rows, float(mean), float(deviation)
