"""What the dispatcher knows of one served model: its queues, its workers, its bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from tfrunner.config import ServedModel
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.costbook import CostBook
from tfrunner.dispatcher.costs import CostTable
from tfrunner.dispatcher.flows import Account, Shares
from tfrunner.dispatcher.forecast import Forecast
from tfrunner.dispatcher.ledger import Ledger
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.workers import Team, Worker
from tfrunner.learned_file import Plan
from tfrunner.protocol import MethodState, Request

MOST_GIVEN_UP = 8
"""So many requests at most are given up for one of another client."""


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that both may run; () stands for any."""
    if not one or not other:
        return one or other
    return tuple(size for size in one if size in other) or one


class Model:
    """One served model.

    Attributes:
        queues: By batch key: the method and the layout.
        methods: How the workers run each method; empty until one is ready.
        reason: Why it cannot be served, "" if it can or will be.
        most_workers: How many were ready at one time.
        book: What batches cost.
        shares: Who has had how much device time.
        forecast: How long requests wait, and how much work comes in.
    """

    def __init__(self, served: ServedModel, devices: Counter[str]) -> None:
        self.served = served
        self.queues: dict[tuple[str, bytes], Queue] = {}
        self.team = Team(devices)
        self.book = CostBook()
        self.shares = Shares()
        self.forecast = Forecast(self.team, self.shares)
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
    def largest(self) -> int:
        """The most rows in a batch of any method."""
        return max((self.served.max_batch_size, *self.served.method_sizes.values()))

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
        for method in worker.methods:
            self.book.seed(method.name, worker.device_class, method.costs)
            if method.plan:
                plan = Plan(method.plan, method.gain, method.reason, method.cpu_seconds)
                self.book.note_plan(method.name, worker.device_class, plan)
            worker.seen.update((method.name, rows) for rows, _ in method.costs)
            table = self.book.table(method.name, worker.device_class)
            self.forecast.note(method.name, table, self.full(method.name))
            self.forecast.note_parts(method.name, method.parts)
        self.most_workers = max(self.most_workers, len(self.team))

    def remove_worker(self, worker: Worker) -> None:
        """Give a worker no more batches; if it was the last one, its successors are waited for."""
        was_available = bool(len(self.team))
        self.team.remove(worker)
        if was_available and not len(self.team):
            self.reason = ""  # why another one did not load meanwhile says nothing of them

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
            sizes = tuple(sorted(set(method.sizes) - {0}))
            method = msgspec.structs.replace(method, costs=(), sizes=sizes)
            known = self.methods.get(method.name)
            if known is not None:
                method = MethodState(
                    method.name,
                    known.batchable and method.batchable,
                    known.repeatable and method.repeatable,
                    known.note or method.note,
                    sizes=_common(known.sizes, method.sizes),
                )
            self.methods[method.name] = method

    def expect(self, accepted: Accepted) -> None:
        """Look up where a request belongs; count what it will cost, also if it is refused then."""
        request = accepted.request
        accepted.queue = self.queue_of(request)
        accepted.account = self.shares.account(request.client, request.priority)
        self.forecast.expect(accepted)

    def has_room(self, accepted: Accepted) -> bool:
        """Whether the bounded queue takes one more request."""
        return (
            self.queued_requests < self.served.queue_requests
            and self.queued_bytes + accepted.size <= self.served.queue_bytes
        )

    def who_give_way(self, accepted: Accepted) -> list[Accepted]:
        """Return what a full queue gives up for a client with less than its share: all, or none.

        Those who have the most waiting for their weight give up what came last.
        """
        account = accepted.account
        weight = self.shares.weight + (0.0 if account.requests else account.weight)
        found: list[Accepted] = []
        given: Counter[Account] = Counter()
        lasts: dict[Account, Iterator[Accepted]] = {}
        surplus = self.queued_bytes + accepted.size - self.served.queue_bytes
        for _ in range(MOST_GIVEN_UP + 1):
            waiting = self.queued_requests - len(found)
            if waiting < self.served.queue_requests and surplus <= 0:
                return found
            if account.requests + 1 > waiting * account.weight / weight:
                break
            largest = self.shares.largest(given)
            if largest is None or largest is account:
                break
            last = next(lasts.setdefault(largest, self._from_last(largest)), None)
            if last is None:
                break
            found.append(last)
            given[largest] += 1
            surplus -= last.size
        return []

    def _from_last(self, account: Account) -> Iterator[Accepted]:
        for queue in self.queues.values():
            yield from queue.from_last(account)

    def is_hopeless(self, accepted: Accepted) -> bool:
        """Whether a request would probably wait beyond its deadline."""
        return self.queued_requests > 0 and self.forecast.is_hopeless(accepted)

    def allowed(self, method: str, most: int) -> tuple[int, ...]:
        """Return the sizes up to `most` that a method may run; (): any."""
        known = self.methods.get(method)
        if known is None or not known.sizes:
            return ()
        return tuple(size for size in known.sizes if size <= most)

    def costs(self, method: str, worker: Worker) -> CostTable:
        """Return what batches of a method cost on a worker if it runs one now."""
        return self.book.table(method, worker.device_class, self.team.together(worker))

    def full(self, method: str) -> int:
        """Return the rows of a batch that cannot grow."""
        return self.served.batch_size(method) if self.is_batchable(method) else 1

    def queue_of(self, request: Request) -> Queue:
        """Return the queue of the request's batch key."""
        key = (request.method, request.layout)
        queue = self.queues.get(key)
        if queue is None:
            bound = self.served.batch_size(request.method)
            queue = Queue(request.method, bound=bound, shares=self.shares)
            self.queues[key] = queue
        return queue

    def enqueue(self, accepted: Accepted) -> None:
        """Append a request to its queue."""
        accepted.queue.add(accepted)
        self.queued_requests += 1
        self.queued_bytes += accepted.size

    def leave_queue(self, accepted: Accepted) -> None:
        """Count out a request of which no row waits any more."""
        self.queued_requests -= 1
        self.queued_bytes -= accepted.size

    def forget(self, accepted: Accepted) -> None:
        """Count a request out of its queue; nothing if all of it was taken before."""
        if accepted.taken < accepted.weight:
            accepted.queue.forget(accepted)
            self.leave_queue(accepted)

    def drop_empty_queues(self, limit: int = 64) -> None:
        """Forget batch keys that nothing waits for; callers choose keys, memory is bounded."""
        if len(self.queues) > limit:
            self.queues = {key: q for key, q in self.queues.items() if not q.is_empty}

    def retry_after(self) -> float:
        """Return the seconds after which the queue has probably moved on, at least 0.1."""
        return max(0.1, round(self.work / max(1, len(self.team)), 1))

    @property
    def work(self) -> float:
        """The seconds that one worker needs for all that waits."""
        return self.shares.work

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
                name: {
                    "batchable": m.batchable,
                    "repeatable": m.repeatable,
                    "note": m.note,
                    "sizes": list(m.sizes),
                }
                for name, m in self.methods.items()
            },
            "client_seconds": self.shares.as_data(),
            **self.ledger.as_data(),
        }

    def __repr__(self) -> str:
        return f"<Model {self.tag} [{self.queued_requests} queued | {len(self.team)} workers]>"
