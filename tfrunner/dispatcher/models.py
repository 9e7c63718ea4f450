"""What the dispatcher knows of one served model: its queues, its workers, its bounds."""

from __future__ import annotations

from typing import Any

from tfrunner.config import ServedModel
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.ledger import Ledger
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.workers import Team, Worker
from tfrunner.protocol import MethodState, Request

PRUDENCE = 0.8
"""Share of its time that a request may be predicted to wait: predictions are no promises."""


class Model:
    """One served model.

    Attributes:
        queues: By batch key: the method and the layout.
        methods: How the workers run each method; empty until one is ready.
        reason: Why it cannot be served, "" if it can or will be.
        most_workers: How many were ready at one time.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        self.queues: dict[tuple[str, bytes], Queue] = {}
        self.team = Team()
        self.ledger = Ledger()
        self.methods: dict[str, MethodState] = {}
        self.reason = ""
        self.most_workers = 0
        self.queued_requests = 0
        self.queued_bytes = 0

    @property
    def tag(self) -> str:
        """The tag that requests name."""
        return self.served.tag

    @property
    def state(self) -> str:
        """`available`, `loading` or `unavailable`."""
        if len(self.team):
            return "available"
        return "unavailable" if self.reason else "loading"

    @property
    def has_work(self) -> bool:
        """Whether any request waits, or must be run again."""
        return self.queued_requests > 0 or any(queue.reruns for queue in self.queues.values())

    def add_worker(self, worker: Worker) -> None:
        """Count in a worker that is ready."""
        self.team.add(worker)
        self.most_workers = max(self.most_workers, len(self.team))

    def is_batchable(self, method: str) -> bool:
        """Whether requests of this method may be merged."""
        known = self.methods.get(method)
        return known is not None and known.batchable

    def is_repeatable(self, method: str) -> bool:
        """Whether a request of this method may be run twice."""
        known = self.methods.get(method)
        return known is None or known.repeatable

    def learn(self, methods: tuple[MethodState, ...]) -> None:
        """Take in how a worker runs the methods; the most careful worker counts."""
        for method in methods:
            known = self.methods.get(method.name)
            if known is not None:
                method = MethodState(
                    method.name,
                    known.batchable and method.batchable,
                    known.repeatable and method.repeatable,
                    known.note or method.note,
                )
            self.methods[method.name] = method

    def has_room(self, accepted: Accepted) -> bool:
        """Whether the bounded queue takes one more request."""
        return (
            self.queued_requests < self.served.queue_requests
            and self.queued_bytes + accepted.size <= self.served.queue_bytes
        )

    def is_hopeless(self, accepted: Accepted) -> bool:
        """Whether a request would probably wait beyond its deadline.

        Never while nothing waits: what a batch takes is learned from those that run.
        """
        if not self.queued_requests or not len(self.team):
            return False
        queue = self.queue_of(accepted.request)
        if queue.rows < self.team.idle * queue.bound:
            return False  # it came in the same step as those before it, and leaves with them
        # Beside what waits: the batch that runs now, and its own.
        wait = self._work / len(self.team) + 2 * queue.seconds
        return wait > PRUDENCE * (accepted.deadline - accepted.arrived)

    def queue_of(self, request: Request) -> Queue:
        """Return the queue of the request's batch key."""
        key = (request.method, request.layout)
        queue = self.queues.get(key)
        if queue is None:
            queue = Queue(request.method, bound=self.served.max_batch_size)
            self.queues[key] = queue
        return queue

    def enqueue(self, accepted: Accepted) -> None:
        """Append a request to its queue."""
        self.queue_of(accepted.request).add(accepted)
        self.queued_requests += 1
        self.queued_bytes += accepted.size

    def leave_queue(self, accepted: Accepted) -> None:
        """Count out a request of which no row waits any more."""
        self.queued_requests -= 1
        self.queued_bytes -= accepted.size

    def forget(self, accepted: Accepted) -> None:
        """Count a request out of its queue; nothing if all of it was taken before."""
        if accepted.taken < accepted.weight:
            self.queue_of(accepted.request).forget(accepted)
            self.leave_queue(accepted)

    def drop_empty_queues(self, limit: int = 64) -> None:
        """Forget batch keys that nothing waits for; callers choose keys, memory is bounded."""
        if len(self.queues) > limit:
            self.queues = {key: q for key, q in self.queues.items() if not q.is_empty}

    def retry_after(self) -> float:
        """Return the seconds after which the queue has probably moved on, at least 0.1."""
        return max(0.1, round(self._work / max(1, len(self.team)), 1))

    @property
    def _work(self) -> float:
        """The seconds that one worker needs for all that waits."""
        return sum(queue.work for queue in self.queues.values())

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "state": self.state,
            "reason": self.reason,
            "workers": len(self.team),
            "max_batch_size": self.served.max_batch_size,
            "queued_requests": self.queued_requests,
            "queued_rows": sum(queue.rows for queue in self.queues.values()),
            "queued_bytes": self.queued_bytes,
            "methods": {
                name: {"batchable": m.batchable, "repeatable": m.repeatable, "note": m.note}
                for name, m in self.methods.items()
            },
            **self.ledger.as_data(),
        }

    def __repr__(self) -> str:
        return f"<Model {self.tag} [{self.queued_requests} queued | {len(self.team)} workers]>"
