"""The order in which batch keys are served, and how many rows a batch takes: pure decisions.

The core asks; it alone moves requests. A policy never sees a request, only counts and moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tfrunner.dispatcher.queues import Queue


class Policy(Protocol):
    """What the core asks of a policy."""

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues that have work, the most urgent first."""

    def size(self, queue: Queue, *, idle: bool, full: int, now: float) -> int:
        """Return how many rows to send now, at most `full`; 0 to wait.

        Args:
            queue: The queue to take them from; it has at least one row.
            idle: Whether the worker runs nothing; otherwise the batch would be staged.
            full: The rows of a batch that cannot grow.
            now: The moment, in seconds of the monotonic clock.
        """


class WorkConserving:
    """Send what waits as soon as a worker is idle; stage only a batch that cannot grow."""

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues by the arrival of their oldest request."""
        waiting = [queue for queue in queues if not queue.is_empty]
        if len(waiting) > 1:
            waiting.sort(key=lambda queue: queue.oldest)
        return waiting

    def size(self, queue: Queue, *, idle: bool, full: int, now: float) -> int:
        """Return all that waits if the worker is idle, else a full batch or nothing."""
        if idle:
            return min(queue.rows, full)
        return full if queue.rows >= full else 0


class Hold:
    """Holds every batch until `requests` of them wait in the queue, then sends them all.

    For tests that need to know exactly what is merged.
    """

    def __init__(self, policy: Policy, requests: int) -> None:
        self._policy = policy
        self._requests = requests
        self._released: set[int] = set()

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the order of the policy that is held."""
        return self._policy.order(queues, now)

    def size(self, queue: Queue, *, idle: bool, full: int, now: float) -> int:
        """Return 0 before enough requests wait."""
        if queue.requests >= self._requests:
            self._released.add(id(queue))
        if id(queue) not in self._released:
            return 0
        rows = self._policy.size(queue, idle=idle, full=full, now=now)
        if rows >= queue.rows:
            self._released.discard(id(queue))
        return rows
