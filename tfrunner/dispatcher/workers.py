"""The workers of one model, as the dispatcher sees them, and their credits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from math import inf
from typing import Any

from tfrunner.dispatcher.batches import Batch
from tfrunner.dispatcher.states import WORKER_MOVES, WorkerState, move
from tfrunner.protocol import MethodState, WorkerHello

CREDITS = 2
"""Batches that a worker may hold: one runs, one is staged behind it."""


DEFAULT_CLASS = "any"
"""The class of a device that says none."""


class Worker:
    """One worker process.

    Attributes:
        batches: What it holds; the first is running.
        heard: When its last message came.
        largest: Most rows of a batch of any method.
        limits: Most rows of a batch by method, where its device's memory did not hold more.
        parts: Into how many parts it splits a batch at most, by method.
        worn: Since when it wishes to be replaced, None if it does not.
        device_class: What is equal for devices on which a batch costs the same.
        seen: Methods and sizes that it has run.
    """

    __slots__ = (
        *("batches", "device", "device_class", "done", "heard", "identity", "last_error"),
        *("largest", "limits", "methods", "model", "name", "parts", "pid", "seen"),
        *("state", "worn"),
    )

    def __init__(self, identity: bytes, hello: WorkerHello, *, largest: int, now: float) -> None:
        self.identity = identity
        self.name = hello.name
        self.model = hello.model
        self.pid = hello.pid
        self.device = hello.device
        self.device_class = hello.device_class or DEFAULT_CLASS
        self.methods: tuple[MethodState, ...] = ()
        self.parts: dict[str, int] = {}
        self.batches: list[Batch] = []
        self.state = WorkerState.STARTING
        self.done = 0
        self.heard = now
        self.largest = largest
        self.limits: dict[str, int] = {}
        self.last_error = ""
        self.worn: float | None = None
        self.seen: set[tuple[str, int]] = set()

    def move(self, event: str) -> None:
        """Change the state."""
        self.state = move(WORKER_MOVES, self.state, event)

    @property
    def is_ready(self) -> bool:
        """Whether it may be given batches."""
        return self.state is WorkerState.READY

    @property
    def is_idle(self) -> bool:
        """Whether it is ready and holds nothing."""
        return self.state is WorkerState.READY and not self.batches

    @property
    def has_free_credit(self) -> bool:
        """Whether a batch may be staged behind the running one."""
        return (
            self.state is WorkerState.READY
            and 0 < len(self.batches) < CREDITS
            and not self.batches[0].alone
        )

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "model": self.model,
            "pid": self.pid,
            "device": self.device,
            "device_class": self.device_class,
            "state": "busy" if self.is_ready and self.batches else self.state.value,
            "running": min(1, len(self.batches)),
            "staged": max(0, len(self.batches) - 1),
            "batches": self.done,
            "limit": min((self.largest, *self.limits.values())),
            "last_error": self.last_error,
        }

    def __repr__(self) -> str:
        return f"<Worker {self.name} [{self.state.value} | {len(self.batches)} batches]>"


class Team:
    """The ready workers of one model: who may be given a batch now.

    Args:
        devices: How many batches run on each device, of any model.
    """

    def __init__(self, devices: Counter[str]) -> None:
        self._devices = devices
        self._idle: list[Worker] = []  # the most recently used last: its caches are warm
        self._running: dict[Worker, None] = {}
        self._classes: Counter[str] = Counter()
        self._next: Worker | None = None  # who may stage, soonest done; None: look again
        self.lying = 0  # batches that lie staged

    def add(self, worker: Worker) -> None:
        """Count a worker as idle."""
        self._idle.append(worker)
        self._classes[worker.device_class] += 1

    def remove(self, worker: Worker) -> None:
        """Give a worker no more batches."""
        if worker in self._idle:
            self._idle.remove(worker)
        elif worker in self._running:
            self.lying -= max(0, len(worker.batches) - 1)
            self._stop_running(worker)
        else:
            return
        self._classes[worker.device_class] -= 1
        self._classes += Counter()  # without those of which none is left

    @property
    def idle(self) -> int:
        """How many workers hold nothing."""
        return len(self._idle)

    @property
    def is_mixed(self) -> bool:
        """Whether its devices differ."""
        return len(self._classes) > 1

    def together(self, worker: Worker) -> int:
        """Return how many batches run on a worker's device if it runs one."""
        return max(1, self._devices[worker.device] + (worker not in self._running))

    def pick_idle(self, cost: Callable[[Worker], float] | None = None) -> Worker | None:
        """Return an idle worker: on a device where nothing runs, with the least cost."""
        if len(self._idle) < 2:
            return self._idle[0] if self._idle else None
        devices = self._devices
        if cost is not None:
            return min(reversed(self._idle), key=lambda w: (devices[w.device] > 0, cost(w)))
        for worker in reversed(self._idle):
            if not devices[worker.device]:
                return worker
        return self._idle[-1]

    def pick_for_staging(self, now: float) -> Worker | None:
        """Return the worker with a free credit that will be done first.

        One that is late without end comes last: it may hang.
        """
        worker = self._next
        if worker is None or not worker.has_free_credit or worker.batches[0].latest < now:
            free = (each for each in self._running if each.has_free_credit)
            worker = self._next = min(free, key=lambda each: _end(each, now), default=None)
        return worker

    def started(self, worker: Worker) -> None:
        """Count a worker as running."""
        if worker in self._idle:
            self._idle.remove(worker)
        self._run(worker)

    def staged(self) -> None:
        """Count one more batch that lies staged."""
        self.lying += 1
        self._next = None

    def finished(self, worker: Worker) -> None:
        """Count a worker's batch as over; it is idle if it holds no other."""
        if worker in self._running:
            self._stop_running(worker)
        if not worker.is_ready:
            return
        if worker.batches:
            self.lying -= 1
            self._run(worker)
        else:
            self._idle.append(worker)

    def _run(self, worker: Worker) -> None:
        self._running[worker] = None
        self._devices[worker.device] += 1
        self._next = None

    def _stop_running(self, worker: Worker) -> None:
        del self._running[worker]
        self._devices[worker.device] -= 1
        self._next = None

    def __len__(self) -> int:
        return len(self._idle) + len(self._running)

    def __iter__(self) -> Iterator[Worker]:
        return chain(self._idle, self._running)


def _end(worker: Worker, now: float) -> tuple[float, float]:
    """Return when a worker could begin more; where nobody knows, who has run longest goes first."""
    batch = worker.batches[0]
    return (batch.frees if batch.latest >= now else inf, batch.started)
