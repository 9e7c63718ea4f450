"""The workers of one model, as the dispatcher sees them, and their credits."""

from __future__ import annotations

from typing import Any

from tfrunner.dispatcher.batches import Batch
from tfrunner.dispatcher.states import WORKER_MOVES, WorkerState, move
from tfrunner.protocol import MethodState, WorkerHello

CREDITS = 2
"""Batches that a worker may hold: one runs, one is staged behind it."""


class Worker:
    """One worker process.

    Attributes:
        batches: What it holds; the first is running.
        heard: When its last message came.
        limit: Most rows of a batch; lowered when its device's memory did not hold more.
        worn: Since when it wishes to be replaced, None if it does not.
    """

    __slots__ = (
        *("batches", "device", "done", "heard", "identity", "last_error"),
        *("limit", "methods", "model", "name", "pid", "state", "worn"),
    )

    def __init__(self, identity: bytes, hello: WorkerHello, *, limit: int, now: float) -> None:
        self.identity = identity
        self.name = hello.name
        self.model = hello.model
        self.pid = hello.pid
        self.device = hello.device
        self.methods: tuple[MethodState, ...] = ()
        self.batches: list[Batch] = []
        self.state = WorkerState.STARTING
        self.done = 0
        self.heard = now
        self.limit = limit
        self.last_error = ""
        self.worn: float | None = None

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
            "state": "busy" if self.is_ready and self.batches else self.state.value,
            "running": min(1, len(self.batches)),
            "staged": max(0, len(self.batches) - 1),
            "batches": self.done,
            "limit": self.limit,
            "last_error": self.last_error,
        }

    def __repr__(self) -> str:
        return f"<Worker {self.name} [{self.state.value} | {len(self.batches)} batches]>"


class Team:
    """The ready workers of one model: who may be given a batch now."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []  # the most recently used last: its caches are warm
        self._running: dict[Worker, None] = {}

    def add(self, worker: Worker) -> None:
        """Count a worker as idle."""
        self._idle.append(worker)

    def remove(self, worker: Worker) -> None:
        """Give a worker no more batches."""
        if worker in self._idle:
            self._idle.remove(worker)
        self._running.pop(worker, None)

    @property
    def idle(self) -> int:
        """How many workers hold nothing."""
        return len(self._idle)

    def pick_idle(self) -> Worker | None:
        """Return an idle worker, on a device where nothing runs if there is one."""
        if len(self._idle) > 1 and self._running:
            busy = {worker.device for worker in self._running}
            for worker in reversed(self._idle):
                if worker.device not in busy:
                    return worker
        return self._idle[-1] if self._idle else None

    def pick_for_staging(self) -> Worker | None:
        """Return the worker that has run longest and has a free credit."""
        for worker in self._running:
            if worker.has_free_credit:
                return worker
        return None

    def started(self, worker: Worker) -> None:
        """Count a worker as running."""
        if worker in self._idle:
            self._idle.remove(worker)
        self._running[worker] = None

    def finished(self, worker: Worker) -> None:
        """Count a worker's batch as over; it is idle if it holds no other."""
        self._running.pop(worker, None)
        if not worker.is_ready:
            return
        if worker.batches:
            self._running[worker] = None
        else:
            self._idle.append(worker)

    def __len__(self) -> int:
        return len(self._idle) + len(self._running)
