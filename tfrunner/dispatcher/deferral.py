"""Where waiting pays: several workers that begin at staggered times, tight deadlines. Pure.

Workers that begin at staggered times run batches of b rows within an objective d if
(1 + 1/n) l(b) <= d, those that begin when work comes if 2 l(b) <= d (L. Chen et al., Symphony,
arXiv 2308.07470): deferral is worth what the first b does more than the second.
"""

from __future__ import annotations

from typing import NamedTuple

from tfrunner.dispatcher.estimates import largest, lasts, lasts_at_most, row_seconds
from tfrunner.dispatcher.policy import View
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.sizing import BUSY

MARGIN = 0.001
"""Seconds by which a batch is staged too early at most: alarms are whole milliseconds."""

ARRIVALS = 4.0
"""While so many rows arrive, somebody surely asks again."""

LOOSE = 8.0
"""A deadline that is so many predicted runs away is not looked at more closely."""

TIGHT = 6.0
"""Deferral is thought of below so many times the upper estimate for one row."""

WORTH = 1.1
"""Deferral must let the workers do so much more within the deadlines."""

KEPT_SECONDS = 0.1
MOST_KEPT = 64
"""What follows from an objective is kept for so long, for so many of them."""


class Sizes(NamedTuple):
    """What follows from a table and an objective.

    Attributes:
        until: When to look again.
        staggered: The size that is worth waiting for; 0: none.
        eager_cost: Time for a row in the size without waiting, over that in a full batch.
    """

    until: float
    staggered: int
    eager_cost: float


class Deferral:
    """Knows the size that is worth waiting for, for an objective."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, float], Sizes] = {}

    def target(self, queue: Queue, view: View) -> int:
        """Return the size that is worth waiting for; 0: none, send at once."""
        objective = queue.earliest - queue.oldest
        single = lasts(view, 1)
        if objective >= LOOSE * TIGHT * single or objective >= TIGHT * lasts_at_most(view, 1):
            return 0
        sizes = self._sizes(view, objective)
        if not sizes.staggered or view.load * sizes.eager_cost <= BUSY:
            return 0
        return self._reachable(queue, view, objective, sizes)

    def _sizes(self, view: View, objective: float) -> Sizes:
        """Return the sizes for an objective in seconds; they are kept for a while."""
        key = (id(view.costs), view.workers, view.full, round(objective, 4))
        known = self._known.get(key)
        if known is not None and view.now < known.until:
            return known
        salvo = min(view.full, max(1, round(view.together)))
        eager = max(largest(view, view.full, objective / 2), salvo)
        staggered = largest(view, view.full, objective / (1 + 1 / view.workers))
        usual = staggered - salvo + 1  # it leaves before a salvo that would be too much
        if usual < 1 or row_seconds(view, eager) < WORTH * row_seconds(view, usual):
            staggered = 0
        cost = row_seconds(view, eager) / row_seconds(view, view.full)
        if len(self._known) >= MOST_KEPT:
            self._known.clear()
        self._known[key] = Sizes(view.now + KEPT_SECONDS, staggered, cost)
        return self._known[key]

    def _reachable(self, queue: Queue, view: View, objective: float, sizes: Sizes) -> int:
        """Return the staggered size if enough rows of it come while a batch may wait, else 0."""
        low, high = 0, sizes.staggered
        while low < high:
            rows = (low + high + 1) // 2
            window = objective - lasts_at_most(view, rows) - view.costs.transfer
            if queue.arrival_rate * window >= rows:
                low = rows
            else:
                high = rows - 1
        if low == sizes.staggered:
            return low
        eager = sizes.eager_cost * row_seconds(view, view.full)
        return sizes.staggered if low and eager >= WORTH * row_seconds(view, low) else 0


def leaves_at(queue: Queue, view: View, waiting: int) -> float:
    """Return when a batch must leave so that those that come next may still be in it."""
    # Alarms are whole milliseconds, but every arrival asks again.
    early = min(MARGIN, ARRIVALS / max(1.0, queue.arrival_rate))
    more = min(view.full, waiting + max(1, round(view.together)))
    return queue.earliest - lasts_at_most(view, more) - view.costs.transfer - early
