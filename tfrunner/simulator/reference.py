"""How other systems batch, as policies of our own core: what the shipped policy is compared with.

Only order and size are theirs. Admission by predicted wait, the bounded queue, and that nothing
expired is assigned are the core's, and the same for all; most of these systems lack them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

from tfrunner.dispatcher.policy import Choice, View
from tfrunner.dispatcher.queues import Queue

WAIT = Choice(0)


class Static:
    """A fixed size and a fixed wait: an idle worker waits for a full batch, at most so long.

    Source: TensorFlow Serving, `max_batch_size` and `batch_timeout_micros` of BatchingSession;
    Triton's dynamic batcher with `max_queue_delay` is the same rule, made when a worker is free.
    With no wait it is work-conserving: what Triton does by default, and TEI always.

    Args:
        rows: The size at which a batch is full; 0: as large as the model allows.
        timeout: Seconds that the oldest request waits at most for a full batch.
    """

    def __init__(self, rows: int = 0, timeout: float = 0.0) -> None:
        self._rows = rows
        self._timeout = timeout

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues by the arrival of their oldest request."""
        return by_arrival(queues)

    def size(self, queue: Queue, view: View) -> Choice:
        """Return a full batch; what there is once the oldest has waited; else wait."""
        full = min(self._rows or view.full, view.full)
        if queue.rows >= full:
            return Choice(full, reason="full")
        if not view.idle:
            return WAIT
        patience = queue.oldest + self._timeout
        if view.now >= patience:
            return Choice(queue.rows, reason="timeout")
        return Choice(0, again=patience)

    def observe(
        self,
        queue: Queue,
        *,
        rows: int,
        requests: int,
        seconds: float,
        waited: float,
        now: float,
    ) -> None:
        """Learn nothing."""


class Aimd:
    """A largest size that grows by one and shrinks by a tenth: Clipper's adaptive batching.

    Work-conserving, earliest deadline first. A batch that filled the size within the objective
    raises it by one row; a batch that took longer lowers it by a tenth.

    Source: Crankshaw et al., "Clipper: a low-latency online prediction serving system", NSDI
    2017, section 4.3.1 (additive increase, multiplicative decrease of 10 %).

    Args:
        objective: Seconds that a batch may take.
    """

    def __init__(self, objective: float) -> None:
        self._objective = objective
        self._most = 1.0

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues by their earliest deadline."""
        return by_deadline(queues)

    def size(self, queue: Queue, view: View) -> Choice:
        """Return what waits, at most the present largest size; nothing is staged."""
        if not view.idle:
            return WAIT
        return Choice(min(queue.rows, view.full, int(self._most)), reason="idle")

    def observe(
        self,
        queue: Queue,
        *,
        rows: int,
        requests: int,
        seconds: float,
        waited: float,
        now: float,
    ) -> None:
        """Raise the size, or lower it."""
        if seconds > self._objective:
            self._most = max(1.0, min(self._most, rows) * 0.9)
        elif rows >= int(self._most):
            self._most = min(self._most + 1.0, float(queue.bound))


class Cork:
    """Waits for company while that costs less than batches have waited: BentoML's dispatcher.

    A line fitted to the last 50 batches predicts what one more request costs. An idle worker
    waits, in ticks of 1 ms, while n (age of the newest + tick + a) <= 0.95 of the mean wait.

    Source: BentoML 1.0 to 1.1, `marshal/dispatcher.py`: CorkDispatcher and Optimizer. It drops
    the oldest request where the whole queue is predicted to miss the latency; here the core's
    admission stands for that. Its training with live traffic is left out.

    Args:
        latency: The `max_latency`, in seconds.
    """

    KEPT = 50
    SKIPPED = 2
    REFRESH = 5.0
    TICK = 0.001
    DECAY = 0.95

    def __init__(self, latency: float) -> None:
        self._per_request = min(2.0, latency * 2 / 30)
        self._wait = 0.0
        self._samples: deque[tuple[int, float, float]] = deque(maxlen=self.KEPT)
        self._seen = 0
        self._refreshed = -math.inf
        self._newest: dict[int, tuple[int, float]] = {}

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues by arrival; note when each was joined last."""
        waiting = by_arrival(queues)
        for queue in waiting:
            requests, moment = self._newest.get(id(queue), (0, now))
            if queue.requests > requests:
                moment = now
            self._newest[id(queue)] = (queue.requests, moment)
        return waiting

    def size(self, queue: Queue, view: View) -> Choice:
        """Return what waits, or wait one tick for company; nothing is staged."""
        if not view.idle:
            return WAIT
        age = view.now - self._newest[id(queue)][1]
        price = queue.requests * (age + self.TICK + self._per_request)
        if queue.rows < view.full and price <= self.DECAY * self._wait:
            return Choice(0, again=view.now + self.TICK)
        return Choice(min(queue.rows, view.full), reason="idle")

    def observe(
        self,
        queue: Queue,
        *,
        rows: int,
        requests: int,
        seconds: float,
        waited: float,
        now: float,
    ) -> None:
        """Keep the sample; fit the line anew, at most every five seconds."""
        self._seen += 1
        if self._seen <= self.SKIPPED:
            return
        self._samples.append((requests, seconds, waited))
        if now - self._refreshed >= self.REFRESH and len(self._samples) > 1:
            self._refreshed = now
            self._fit()

    def _fit(self) -> None:
        """Fit seconds = a requests + b by least squares; the mean wait comes with it."""
        count = len(self._samples)
        mean_requests = sum(n for n, _, _ in self._samples) / count
        mean_seconds = sum(s for _, s, _ in self._samples) / count
        spread = sum((n - mean_requests) ** 2 for n, _, _ in self._samples)
        shared = sum((n - mean_requests) * (s - mean_seconds) for n, s, _ in self._samples)
        if spread:
            self._per_request = max(1e-6, shared / spread)
        self._wait = sum(w for _, _, w in self._samples) / count


class Deferred:
    """Waits until the last moment at which one more could have joined: Symphony's window.

    Source: Chen et al., "Symphony: optimized DNN model serving using deferred batch scheduling"
    (arXiv 2308.07470): a batch B is sent at max(now, d - l(|B| + 1)), d the earliest deadline;
    at once when it has the target size, the largest b with l(b) (1 + 1/n) <= the objective,
    where n = r l(b) / b workers are needed at the arrival rate r.

    Args:
        profile: Seconds that a batch of so many rows takes, there and back: measured beforehand.
        objective: Seconds that each request has.
    """

    def __init__(self, profile: Callable[[int], float], objective: float) -> None:
        self._profile = profile
        self._objective = objective

    def order(self, queues: Iterable[Queue], now: float) -> list[Queue]:
        """Return the queues by their earliest deadline."""
        return by_deadline(queues)

    def size(self, queue: Queue, view: View) -> Choice:
        """Return the batch once it cannot grow or cannot wait; nothing is staged."""
        if not view.idle:
            return WAIT
        target = self._target(queue, view)
        rows = min(queue.rows, target)
        moment = queue.earliest - self._profile(rows + 1)
        if rows == target or view.now >= moment:
            # Those at the head that cannot be answered in time make room for others that can.
            return Choice(rows, reason="window", drop_before=view.now + self._profile(rows))
        return Choice(0, again=moment)

    def _target(self, queue: Queue, view: View) -> int:
        """Return the largest size at which staggered workers meet the objective."""
        low, high = 1, view.full
        while low < high:
            middle = (low + high + 1) // 2
            seconds = self._profile(middle)
            workers = max(1.0, min(view.workers, queue.arrival_rate * seconds / middle))
            if seconds * (1 + 1 / workers) <= self._objective:
                low = middle
            else:
                high = middle - 1
        return low

    def observe(
        self,
        queue: Queue,
        *,
        rows: int,
        requests: int,
        seconds: float,
        waited: float,
        now: float,
    ) -> None:
        """Learn nothing: the profile was measured beforehand."""


def by_arrival(queues: Iterable[Queue]) -> list[Queue]:
    """Return the queues that have work by the arrival of their oldest request."""
    return sorted((q for q in queues if not q.is_empty), key=lambda q: q.oldest)


def by_deadline(queues: Iterable[Queue]) -> list[Queue]:
    """Return the queues that have work by their earliest deadline."""
    return sorted((q for q in queues if not q.is_empty), key=lambda q: q.earliest)
