"""In which size what waits is run fastest: whole, in part, or shared out to idle workers. Pure."""

from __future__ import annotations

from bisect import bisect_left

from tfrunner.dispatcher.estimates import doubt, lasts, price, row_seconds
from tfrunner.dispatcher.policy import View
from tfrunner.dispatcher.queues import Queue

GAIN = 1.08
"""A smaller batch, or a split, must be predicted to be better by so much: predictions err."""

NOVEL = 4.0
"""Where a size's first run takes so many times longer, batches are powers of two."""

SAME = 1.05
"""A row may cost so much more in a smaller batch that answers most of what waits earlier."""

EXPLORE = 64
"""Every so often what waits is sent although a smaller size seems better: tables grow old."""

BUSY = 0.7
"""Up to this load workers may be used less well so that somebody is answered earlier."""

DISPATCH = 0.00005
DISPATCHER_BUSY = 0.25
"""Seconds that a batch costs the dispatcher; the share of its time that may go into splitting."""


class Sizing:
    """Chooses by the cost table, and now and then against it."""

    def __init__(self) -> None:
        self._smaller = 0

    def best(self, waiting: int, view: View) -> tuple[int, str]:
        """Return the size with the most rows/s up to what waits, all of it if near; and why."""
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
            best = _sooner(waiting, view)
        if best < waiting:
            self._smaller += 1
            if self._smaller % EXPLORE:
                return best, "best"
            return waiting, "explore"
        return waiting, everything


def split(queue: Queue, view: View, rows: int, reason: str) -> tuple[int, str]:
    """Return a share for each of several idle workers, if all are done earlier so; and why."""
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


def _sooner(waiting: int, view: View) -> int:
    """Return a far smaller size that does as many rows/s: most are answered earlier so."""
    rows = view.costs.best(waiting // 2)
    if rows > waiting // 2 or view.workers > 1:
        return waiting
    dearer = price(view, rows) / price(view, waiting) + doubt(view, rows)
    return rows if dearer <= SAME and view.load * dearer < 1.0 else waiting


def is_enough(waiting: int, view: View) -> bool:
    """Whether no size, however much may still come, does far better than a part of what waits."""
    part = view.costs.best(waiting)
    best = price(view, view.costs.best(view.full))
    return (
        part < waiting
        and price(view, part) * GAIN < price(view, waiting)
        and (price(view, part) <= SAME * best)
    )
