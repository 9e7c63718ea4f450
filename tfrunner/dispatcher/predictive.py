"""The policy that is shipped: it predicts instead of waiting, and needs no tuning. Pure.

1. What waits leaves as soon as a worker is idle, in the size with the most rows/s by the cost
   table: usually all of it. A burst over idle workers is split where that is faster.
2. A batch is staged behind a running one when it gains nothing by growing, or when the running
   one is predicted to end within the time that a batch is on its way.
3. A batch is made smaller for its earliest deadline as long as the workers keep up with the
   load in that size; beyond, requests that cannot be answered in time are dropped for others.
4. An idle worker waits only where the table says that larger batches at staggered times let
   more requests meet their deadlines: several workers, tight deadlines, high load.

1 is in sizing.py, when 4 is the case in deferral.py; whose turn it is, is decided by the queues
(flows.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from tfrunner.dispatcher.deferral import LOOSE, MARGIN, Deferral, leaves_at
from tfrunner.dispatcher.estimates import largest, lasts, lasts_at_most, row_seconds
from tfrunner.dispatcher.policy import Choice, View
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.sizing import BUSY, Sizing, is_enough, split

NEARLY = 1.15
"""A row may cost so many times more in a batch that is in time, before requests are given up."""


class Predictive:
    """Predicts from the cost table; see above."""

    def __init__(self) -> None:
        self._sizing = Sizing()
        self._deferral = Deferral()

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues that have work: the neglected first, then by their next turn."""
        waiting = [queue for queue in queues if not queue.is_empty]
        if len(waiting) > 1:
            waiting.sort(key=lambda queue: (not queue.is_neglected(now), queue.turn))
        return waiting

    def size(self, queue: Queue, view: View) -> Choice:
        """Return how many rows to send now, and why, or when to ask again."""
        waiting = min(queue.rows, view.full)
        if not view.idle:
            return self._stage(queue, view, waiting)
        if not view.costs.is_known:
            return Choice(waiting, reason="full" if waiting == view.full else "idle")
        if view.workers > 1 and (target := self._deferral.target(queue, view)):
            return self._defer(queue, view, waiting, target)
        rows, reason = self._sizing.best(waiting, view)
        if view.idle_workers > 1 and queue.rows > 1:
            rows, reason = split(queue, view, rows, reason)
        return self._in_time(queue, view, rows, reason)

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

    def _stage(self, queue: Queue, view: View, waiting: int) -> Choice:
        """Return a batch that cannot grow, or that would arrive as the running one ends."""
        way = view.costs.transfer
        is_known_team = view.workers > 1 and view.costs.is_known
        if is_known_team and view.unsure > way:
            return Choice(0, reason="open")  # another worker may well be free before this one
        if waiting >= view.full or (view.workers == 1 and is_enough(waiting, view)):
            return self._in_time(queue, view, self._sizing.best(waiting, view)[0], "full")
        if is_known_team and self._deferral.target(queue, view):
            return Choice(0, reason="deferred")
        moment = view.ends - way - min(MARGIN, way / 4)
        if view.now < moment - 1e-6:
            return Choice(0, again=moment, reason="open")
        return self._in_time(queue, view, self._sizing.best(waiting, view)[0], "staged")

    def _defer(self, queue: Queue, view: View, waiting: int, target: int) -> Choice:
        """Send the target size, or what there is when those that come next could not be."""
        if waiting >= target:
            return self._in_time(queue, view, target, "deferred")
        moment = leaves_at(queue, view, waiting)
        if view.now < moment - 1e-6:
            return Choice(0, again=moment, reason="deferred")
        late = view.now + view.costs.transfer + lasts(view, waiting)
        return Choice(waiting, reason="deferred", drop_before=late)

    def observe(
        self, queue: Queue, *, rows: int, requests: int, seconds: float, waited: float, now: float
    ) -> None:
        """Learn nothing: the cost table has learned."""
