"""The queue of one batch key: what waits to be merged, in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tfrunner.dispatcher.batches import Accepted, Piece, Rerun

LEARNING = 0.2
"""Share of the latest batch in what batches are expected to take."""

OUTLIER = 4.0
"""A batch counts for at most so many times what was expected."""


class Queue:
    """Requests that may share a batch, and batches that must be run again first.

    Attributes:
        rows: Rows of waiting requests that are in no batch yet.
        requests: Requests that have such rows.
        seconds: What a batch takes, as the latest ones took; 0 before the first.
    """

    __slots__ = ("_waiting", "bound", "method", "requests", "reruns", "rows", "seconds")

    def __init__(self, method: str, *, bound: int) -> None:
        self.method = method
        self.bound = bound
        self.rows = 0
        self.requests = 0
        self.seconds = 0.0
        self.reruns: deque[Rerun] = deque()
        self._waiting: deque[Accepted] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self.requests and not self.reruns

    @property
    def oldest(self) -> float:
        """The arrival of the request that waits longest; infinity if none does."""
        if self.reruns:
            return min(piece.owner.arrived for piece in self.reruns[0].pieces)
        self._skip_forgotten()
        return self._waiting[0].arrived if self._waiting else float("inf")

    @property
    def work(self) -> float:
        """The seconds that one worker needs for all that waits."""
        batches = -(-self.rows // self.bound) + len(self.reruns)
        return batches * self.seconds

    def learn(self, seconds: float) -> None:
        """Take in what a batch took; a single long one counts little."""
        known = self.seconds or seconds
        self.seconds = known + LEARNING * (min(seconds, OUTLIER * known) - known)

    def add(self, accepted: Accepted) -> None:
        """Append a new request."""
        self._waiting.append(accepted)
        self.rows += accepted.weight
        self.requests += 1

    def forget(self, accepted: Accepted) -> None:
        """Count a request out while rows of it wait: it was closed, or they go another way."""
        self.rows -= accepted.weight - accepted.taken
        self.requests -= 1
        accepted.taken = accepted.weight

    def take(self, rows: int, now: float, on_expired: Callable[[Accepted], None]) -> list[Piece]:
        """Return pieces of at most `rows` rows in all, in order; never one that has expired.

        A request that does not fit whole is cut only if no batch could hold it.
        """
        most = rows
        pieces: list[Piece] = []
        while rows > 0:
            self._skip_forgotten()
            if not self._waiting:
                break
            head = self._waiting[0]
            if head.deadline <= now:
                on_expired(head)
                continue
            left = head.weight - head.taken
            if left > rows:
                if head.weight <= most:
                    break
                left = rows
            pieces.append(Piece(head, head.taken, head.taken + left))
            self._count_taken(head, left)
            rows -= left
        return pieces

    def take_one(self, now: float, on_expired: Callable[[Accepted], None]) -> list[Piece]:
        """Return the next request, whole, as the only piece of its batch."""
        while True:
            self._skip_forgotten()
            if not self._waiting:
                return []
            head = self._waiting[0]
            if head.deadline <= now:
                on_expired(head)
                continue
            self._count_taken(head, head.weight)
            return [Piece(head, 0, head.weight)]

    def _count_taken(self, head: Accepted, rows: int) -> None:
        head.taken += rows
        self.rows -= rows
        if head.taken == head.weight:
            self.requests -= 1
            self._waiting.popleft()

    def _skip_forgotten(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].taken == waiting[0].weight:
            waiting.popleft()

    def __repr__(self) -> str:
        return f"<Queue {self.method} [{self.requests} requests | {self.rows} rows]>"
