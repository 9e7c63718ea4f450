"""The order in which batch keys are served, and how many rows a batch takes: pure decisions.

The core asks; it alone moves requests. A policy never sees a request, only counts and moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple, Protocol

from tfrunner.dispatcher.costs import CostTable
from tfrunner.dispatcher.queues import Queue


class Choice(NamedTuple):
    """What a policy answers.

    Attributes:
        rows: How many to send now, at most `View.full`; 0: wait.
        again: When it waits: the moment at which to ask again at the latest.
        reason: Why it sends, or does not: a label of metrics; "": the core finds one.
        drop_before: Requests whose deadline is earlier are dropped, as long as others fill
            the batch; 0: none.
    """

    rows: int
    again: float = inf
    reason: str = ""
    drop_before: float = 0.0


class View(NamedTuple):
    """What the core knows at the moment of asking.

    Attributes:
        now: The moment, in seconds of the monotonic clock.
        idle: Whether the worker runs nothing; otherwise the batch would be staged.
        full: The rows of a batch that cannot grow.
        idle_workers: Workers of this model that hold nothing, this one included.
        workers: Ready workers of this model.
        ends: When the worker's running batch will probably end, or leave it room for another;
            `now` if it runs none, inf if nobody knows.
        costs: What batches of this method cost on this worker.
        sizes: The sizes that may be run, ascending; others are padded to the next; (): any.
        load: The work that comes in, as a share of what the workers can do.
        together: Rows that come at one moment, in the mean: salvos of clients, large requests.
        unsure: Seconds by which the worker's running batch may well end later than `ends`.
        parts: Into how many parts the worker splits a batch at most.
    """

    now: float
    idle: bool
    full: int
    idle_workers: int
    workers: int
    ends: float
    costs: CostTable
    sizes: tuple[int, ...] = ()
    load: float = 0.0
    together: float = 1.0
    unsure: float = 0.0
    parts: int = 1


class Policy(Protocol):
    """What the core asks of a policy."""

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues that have work, the most urgent first."""

    def size(self, queue: Queue, view: View) -> Choice:
        """Return how many rows of a queue to send now; it has at least one."""

    def observe(
        self, queue: Queue, *, rows: int, requests: int, seconds: float, waited: float, now: float
    ) -> None:
        """Take in that a batch is done: it ran `seconds`; its oldest request waited `waited`."""


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

    def size(self, queue: Queue, view: View) -> Choice:
        """Return 0 before enough requests wait."""
        if queue.requests >= self._requests:
            self._released.add(id(queue))
        if id(queue) not in self._released:
            return Choice(0, reason="held")
        choice = self._policy.size(queue, view)
        if choice.rows >= queue.rows:
            self._released.discard(id(queue))
        return choice

    def observe(
        self, queue: Queue, *, rows: int, requests: int, seconds: float, waited: float, now: float
    ) -> None:
        """Pass it on."""
        self._policy.observe(
            queue, rows=rows, requests=requests, seconds=seconds, waited=waited, now=now
        )
