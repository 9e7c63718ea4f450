"""The policy that is shipped: it predicts instead of waiting, and needs no tuning. Pure.

1. What waits leaves as soon as a worker is idle, in the size with the most rows/s by the cost
   table: usually all of it. A burst over idle workers is split where that is faster.
2. A batch is staged behind a running one when it gains nothing by growing, or when the running
   one is predicted to end within the time that a batch is on its way.
3. A batch is made smaller for its earliest deadline as long as the workers keep up with the
   load in that size; beyond, requests that cannot be answered in time are dropped for others.
4. An idle worker waits only where the table says that larger batches at staggered times let
   more requests meet their deadlines: several workers, tight deadlines, high load.

Whose turn it is, is decided by the queues (flows.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from tfrunner.dispatcher.estimates import (
    doubt,
    largest,
    lasts,
    lasts_at_most,
    price,
    row_seconds,
)
from tfrunner.dispatcher.policy import Choice, View
from tfrunner.dispatcher.queues import Queue

GAIN = 1.08
"""A smaller batch, or a split, must be predicted to be better by so much: predictions err."""

NOVEL = 4.0
"""Where a size's first run takes so many times longer, batches are powers of two."""

SAME = 1.05
"""A row may cost so much more in a smaller batch that answers most of what waits earlier."""

EXPLORE = 64
"""Every so often what waits is sent although a smaller size seems better: tables grow old."""

MARGIN = 0.001
"""Seconds by which a batch is staged too early at most: alarms are whole milliseconds."""

ARRIVALS = 4.0
"""While so many rows arrive, somebody surely asks again."""

BUSY = 0.7
"""Up to this load workers may be used less well so that somebody is answered earlier."""

DISPATCH = 0.00005
DISPATCHER_BUSY = 0.25
"""Seconds that a batch costs the dispatcher; the share of its time that may go into splitting."""

LOOSE = 8.0
"""A deadline that is so many predicted runs away is not looked at more closely."""

NEARLY = 1.15
"""A row may cost so many times more in a batch that is in time, before requests are given up."""

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


class Predictive:
    """Predicts from the cost table; see above."""

    def __init__(self) -> None:
        self._smaller = 0
        self._known: dict[tuple[int, int, int, float], Sizes] = {}

    # --- order ----------------------------------------------------------------------------------

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues that have work: the neglected first, then by their next turn."""
        waiting = [queue for queue in queues if not queue.is_empty]
        if len(waiting) > 1:
            waiting.sort(key=lambda queue: (not queue.is_neglected(now), queue.turn))
        return waiting

    # --- size -------------------------------------------------------------------------------------

    def size(self, queue: Queue, view: View) -> Choice:
        """Return how many rows to send now, and why, or when to ask again."""
        waiting = min(queue.rows, view.full)
        if not view.idle:
            return self._stage(queue, view, waiting)
        if not view.costs.is_known:
            return Choice(waiting, reason="full" if waiting == view.full else "idle")
        if view.workers > 1 and (target := self._target(queue, view)):
            return self._defer(queue, view, waiting, target)
        rows, reason = self._best(waiting, view)
        if view.idle_workers > 1 and queue.rows > 1:
            rows, reason = self._split(queue, view, rows, reason)
        return self._in_time(queue, view, rows, reason)

    def _best(self, waiting: int, view: View) -> tuple[int, str]:
        """Return the size with the most rows/s up to what waits, or all of it if that is near."""
        everything = "full" if waiting == view.full else "idle"
        if view.costs.is_shifting:
            return waiting, everything  # sizes that did not run lately would seem better
        candidates = [view.costs.best(waiting)]
        if view.sizes:
            candidates.append(view.sizes[max(0, bisect_left(view.sizes, waiting + 1) - 1)])
        if view.costs.novelty > NOVEL * view.costs.predict(waiting) and not view.sizes:
            familiar = 1 << waiting.bit_length() - 1  # few sizes, each new one only once
            if familiar < waiting and not view.costs.has_run(waiting):
                return familiar, "familiar"
        best, least = waiting, price(view, waiting) / GAIN
        for rows in candidates:
            if rows < waiting and price(view, rows) < least:
                best, least = rows, price(view, rows)
        if best < waiting and price(view, best) * (GAIN + doubt(view, best)) > (
            price(view, waiting)
        ):
            best = waiting
        if best == waiting > 1:
            best = self._sooner(waiting, view)
        if best < waiting:
            self._smaller += 1
            if self._smaller % EXPLORE:
                return best, "best"
            return waiting, "explore"
        return waiting, everything

    def _sooner(self, waiting: int, view: View) -> int:
        """Return a far smaller size that does as many rows/s: most are answered earlier so."""
        rows = view.costs.best(waiting // 2)
        if rows > waiting // 2 or view.workers > 1:
            return waiting
        dearer = price(view, rows) / price(view, waiting) + doubt(view, rows)
        return rows if dearer <= SAME and view.load * dearer < 1.0 else waiting

    def _split(self, queue: Queue, view: View, rows: int, reason: str) -> tuple[int, str]:
        """Return a share for each of several idle workers, if all are done earlier so."""
        longest = lasts(view, rows)
        full_row = row_seconds(view, view.full)
        workers = 2
        while workers <= min(view.idle_workers, queue.rows):
            share = -(-queue.rows // workers)
            if share < rows:
                sooner = lasts(view, share)
                load = view.load * (row_seconds(view, share) / full_row)
                gain = GAIN + doubt(view, share)
                is_worth_it = sooner * gain + workers * DISPATCH < longest
                busy = queue.arrival_rate / share * DISPATCH
                if not is_worth_it or load > BUSY or busy > DISPATCHER_BUSY:
                    break
                rows, longest, reason = share, sooner, "split"
            workers = workers * 2 if workers * 2 <= view.idle_workers else workers + 1
        return rows, reason

    def _in_time(self, queue: Queue, view: View, rows: int, reason: str) -> Choice:
        """Return a batch that ends before its earliest deadline, if the workers keep up so."""
        start = view.now + view.costs.transfer if view.idle else max(view.now, view.ends)
        time = queue.earliest - start
        if LOOSE * lasts(view, rows) <= time or start == inf:
            return Choice(rows, reason=reason)
        estimate = lasts_at_most if view.load < BUSY else lasts  # no care nobody has time for
        if estimate(view, rows) <= time:
            return Choice(rows, reason=reason)
        fits = largest(view, rows, time, estimate)
        if fits:
            cost = row_seconds(view, fits)
            load = view.load * cost / row_seconds(view, view.full)
            if load < 1.0 or cost < NEARLY * row_seconds(view, rows):
                return Choice(fits, reason="deadline")
        if queue.rows <= rows:
            return Choice(rows, reason=reason)
        return Choice(rows, reason="overload", drop_before=start + lasts(view, rows))

    # --- staging --------------------------------------------------------------------------------

    def _stage(self, queue: Queue, view: View, waiting: int) -> Choice:
        """Return a batch that cannot grow, or that would arrive as the running one ends."""
        way = view.costs.transfer
        is_known_team = view.workers > 1 and view.costs.is_known
        if is_known_team and view.unsure > way:
            return Choice(0, reason="open")  # another worker may well be free before this one
        if waiting >= view.full or (view.workers == 1 and _is_enough(waiting, view)):
            return self._in_time(queue, view, self._best(waiting, view)[0], "full")
        if is_known_team and self._target(queue, view):
            return Choice(0, reason="deferred")
        moment = view.ends - way - min(MARGIN, way / 4)
        if view.now < moment - 1e-6:
            return Choice(0, again=moment, reason="open")
        return self._in_time(queue, view, self._best(waiting, view)[0], "staged")

    # --- deferral -------------------------------------------------------------------------------

    def _target(self, queue: Queue, view: View) -> int:
        """Return the size that is worth waiting for; 0: none, send at once.

        Workers that begin at staggered times run batches of b rows within an objective d if
        (1 + 1/n) l(b) <= d, those that begin when work comes if 2 l(b) <= d (L. Chen et al.,
        Symphony, arXiv 2308.07470): deferral is worth what the first b does more than the second.
        """
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

    def _defer(self, queue: Queue, view: View, waiting: int, target: int) -> Choice:
        """Send the target size, or what there is when those that come next could not be."""
        if waiting >= target:
            return self._in_time(queue, view, target, "deferred")
        # Alarms are whole milliseconds, but every arrival asks again.
        early = min(MARGIN, ARRIVALS / max(1.0, queue.arrival_rate))
        more = min(view.full, waiting + max(1, round(view.together)))
        moment = queue.earliest - lasts_at_most(view, more) - view.costs.transfer - early
        if view.now < moment - 1e-6:
            return Choice(0, again=moment, reason="deferred")
        late = view.now + view.costs.transfer + lasts(view, waiting)
        return Choice(waiting, reason="deferred", drop_before=late)

    def observe(
        self, queue: Queue, *, rows: int, requests: int, seconds: float, waited: float, now: float
    ) -> None:
        """Learn nothing: the cost table has learned."""


def _is_enough(waiting: int, view: View) -> bool:
    """Whether no size, however much may still come, does far better than a part of what waits."""
    part = view.costs.best(waiting)
    best = price(view, view.costs.best(view.full))
    return (
        part < waiting
        and price(view, part) * GAIN < price(view, waiting)
        and (price(view, part) <= SAME * best)
    )
