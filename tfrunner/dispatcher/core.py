"""The dispatcher's rules: which requests form a batch, who runs it, and what a loss means.

No sockets, no clock, no threads, no log. Callers pass `now` (seconds, monotonic), and perform
the sends. `handle` only records; `step` alone moves requests.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig
from tfrunner.dispatcher.assignment import Assignment
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import FRONTEND, Outbox, PeerGone, Send
from tfrunner.dispatcher.policy import Hold, Policy
from tfrunner.dispatcher.recovery import Recovery
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.states import WorkerState
from tfrunner.dispatcher.workers import Worker

SILENCE_SECONDS = 1.0
"""A gateway that owes us a Hello for so long is sent a Welcome: it fails to leave if it is gone."""

FORGET_SECONDS = 60.0
"""A gateway that waits for nothing and is silent for so long is forgotten."""


class Core:
    """One life of the dispatcher.

    Args:
        config: What is served.
        policy: Order and size of batches.
        epoch: Name of this life.
        now: The moment of its start.
    """

    def __init__(
        self, config: DispatcherConfig, policy: Policy, *, epoch: str, now: float = 0.0
    ) -> None:
        self.epoch = epoch
        self._started = now
        self._next_look = now + SILENCE_SECONDS
        self._specs = tuple(served.spec for served in config.models)
        self._models = {served.tag: Model(served) for served in config.models}
        self._out = Outbox()
        self._requests = Requests(self._models, self._out)
        self._recovery = Recovery(self._requests, self._out)
        held = Hold(policy, config.hold) if config.hold else policy
        # Batch numbers of different epochs differ: a late reply to an earlier dispatcher fits none.
        first = zlib.crc32(epoch.encode()) << 30
        self._assignment = Assignment(self._requests, held, self._out, first_batch=first)
        self._inbox: deque[tuple[bytes, Any, float]] = deque()
        self._workers: dict[str, Worker] = {}
        self._by_identity: dict[bytes, Worker] = {}
        self._gone: deque[str] = deque(maxlen=1000)
        self._supervisor: bytes | None = None
        self._processes: tuple[dict[str, Any], ...] = ()
        self._counters: dict[str, dict[str, float]] = {}
        self._draining = False

    # --- the door, the step, the alarm ----------------------------------------------------

    def handle(self, sender: bytes, message: Any, now: float) -> None:
        """Record what came, from whom, and when."""
        self._inbox.append((sender, message, now))

    def step(self, now: float) -> list[Send]:
        """Take in what was recorded, pair requests with credits, return the sends to perform."""
        while self._inbox:
            sender, message, then = self._inbox.popleft()
            self._take_in(sender, message, then)
        for model in self._models.values():
            self._assignment.assign(model, now)
        if now >= self._next_look:
            self._look_after_gateways(now)
        return self._out.take()

    def next_wakeup(self) -> float | None:
        """Return the moment at which `step` must be called even if nothing comes."""
        return self._next_look if self._requests.open else None

    def take_notes(self) -> list[str]:
        """Return lines for the log, once."""
        notes, self._out.notes = self._out.notes, []
        return notes

    def _look_after_gateways(self, now: float) -> None:
        """Send to gateways that are silent: the shell learns whether they are gone."""
        self._next_look = now + SILENCE_SECONDS
        for gateway in self._requests.silent_gateways(now - SILENCE_SECONDS):
            self._out.to_frontend(gateway, p.Welcome(self.epoch))
        self._requests.forget_gateways(now - FORGET_SECONDS)

    # --- what each message means ------------------------------------------------------------

    def _take_in(self, sender: bytes, message: Any, now: float) -> None:
        match message:
            case p.Submit(requests=requests):
                # What comes before a Hello with our epoch was meant for an earlier dispatcher,
                # and is sent again after it: only so is it seen once.
                if self._requests.has_met(sender):
                    self._requests.heard(sender, now)
                    for request in requests:
                        self._admit(Accepted(sender, request, now))
            case p.BatchDone() | p.BatchFailed():
                self._finish(sender, message, now)
            case p.Cancel(ids=ids):
                self._requests.cancel(sender, ids)
            case p.Hello(epoch=epoch):
                if epoch == self.epoch:
                    self._requests.heard(sender, now)
                specs = self._specs if epoch != self.epoch else ()
                self._out.to_frontend(sender, p.Welcome(self.epoch, specs))
            case p.WorkerHello():
                self._meet(sender, message, now)
            case p.WorkerGone(worker=name, reason=reason):
                self._bury(name, reason)
            case PeerGone(link=link):
                self._lose(link, sender)
            case _:
                self._take_in_control(sender, message, now)

    def _take_in_control(self, sender: bytes, message: Any, now: float) -> None:
        match message:
            case p.Ask(id=number):
                status = p.Status(number, self.snapshot(now))
                if sender == self._supervisor:
                    self._out.to_backend(sender, status)
                else:
                    self._out.to_frontend(sender, status)
            case p.Count(amounts=amounts):
                for name, label, amount in amounts:
                    labels = self._counters.setdefault(name, {})
                    labels[label] = labels.get(label, 0) + amount
            case p.SupervisorHello():
                self._meet_supervisor(sender)
            case p.Processes(rows=rows):
                self._processes = rows
            case p.ModelUnavailable(model=tag, reason=reason):
                self._set_reason(tag, reason)
            case p.Drain():
                self._draining = True
            case _:
                raise TypeError(f"{type(message).__name__} is not for the dispatcher")

    def _admit(self, accepted: Accepted) -> None:
        """Queue a request, or refuse it at once with the reason."""
        request = accepted.request
        model = self._models.get(request.model)
        if self._requests.knows(accepted):
            return  # sent again after a reconnect: the first one counts
        if model is None:
            served = ", ".join(sorted(self._models)) or "none"
            text = f"model {request.model!r} is not served here; served: {served}."
            self._requests.refuse(accepted, "not_found", text)
        elif self._draining:
            text = "the server is shutting down"
            self._requests.refuse(accepted, "unavailable", text, retry_after=1.0)
        elif model.state == "unavailable":
            text = f"model {model.tag} cannot be served: {model.reason}"
            self._requests.refuse(accepted, "unavailable", text, retry_after=5.0)
        elif not model.has_room(accepted):
            text = (
                f"the queue of {model.tag} is full ({model.queued_requests} requests, "
                f"{model.queued_bytes} bytes); try again later."
            )
            self._requests.refuse(accepted, "overloaded", text, retry_after=model.retry_after())
        else:
            self._requests.accept(accepted)

    def _meet(self, sender: bytes, hello: p.WorkerHello, now: float) -> None:
        """Take in a worker's hello; it may work once it knows this epoch and is warm."""
        model = self._models.get(hello.model)
        if model is None or hello.name in self._gone:
            return
        self._out.to_backend(sender, p.Welcome(self.epoch))
        if hello.load_error:
            self._set_reason(hello.model, hello.load_error)
            return
        worker = self._workers.get(hello.name)
        if worker is None:
            worker = Worker(sender, hello, now=now)
            self._workers[hello.name] = self._by_identity[sender] = worker
        worker.heard = now
        knows_us = hello.epoch == self.epoch
        if hello.ready and knows_us and worker.state is WorkerState.STARTING:
            worker.move("ready")
            worker.methods = hello.methods
            model.learn(hello.methods)
            model.reason = ""
            model.team.add(worker)
            self._out.note(f"worker {worker.name} is ready on {worker.device} for {model.tag}")

    def _meet_supervisor(self, sender: bytes) -> None:
        if sender != self._supervisor:
            self._supervisor = sender
            for worker in self._workers.values():
                if worker.state is WorkerState.FENCED:
                    self._out.to_backend(sender, p.Fence(worker.name, worker.last_error))
        self._out.to_backend(sender, p.Welcome(self.epoch))

    def _set_reason(self, tag: str, reason: str) -> None:
        """Mark a model as unavailable; what waits for it without a worker fails with the reason."""
        model = self._models.get(tag)
        if model is None or model.reason == reason:
            return
        model.reason = reason
        if model.state == "unavailable":
            self._out.note(f"model {tag} is unavailable: {reason}")
            text = f"model {tag} cannot be served: {reason}"
            self._requests.fail_waiting(model, "unavailable", text, retry_after=5.0)

    def _finish(self, sender: bytes, message: p.BatchDone | p.BatchFailed, now: float) -> None:
        """Settle a batch; a reply that is not to its current attempt is dropped."""
        worker = self._by_identity.get(sender)
        batch = worker.batches[0] if worker is not None and worker.batches else None
        if worker is None or batch is None:
            return
        model = self._models[worker.model]
        if (message.batch, message.attempt) != (batch.id, batch.attempt):
            model.ledger.late += 1
            return
        worker.heard = now
        worker.batches.pop(0)
        if worker.batches:
            worker.batches[0].move("run")
        model.team.finished(worker)
        if isinstance(message, p.BatchDone):
            worker.done += 1
            self._recovery.settle(model, batch, message)
        else:
            worker.last_error = message.message
            self._recovery.isolate(model, batch, message)

    def _lose(self, link: str, peer: bytes) -> None:
        """A message could not leave: a gateway's work is dropped, a worker is fenced."""
        if link == FRONTEND:
            self._requests.drop_gateway(peer)
        elif peer == self._supervisor:
            self._supervisor = None
        elif (worker := self._by_identity.get(peer)) is not None:
            self._fence(worker, "its connection is gone")

    def _fence(self, worker: Worker, reason: str) -> None:
        """Have a worker killed and reaped; only then what it holds may run elsewhere."""
        if worker.state in (WorkerState.FENCED, WorkerState.GONE):
            return
        worker.move("fence")
        worker.last_error = reason
        self._models[worker.model].team.remove(worker)
        self._out.note(f"worker {worker.name} is fenced: {reason}")
        if self._supervisor is not None:
            self._out.to_backend(self._supervisor, p.Fence(worker.name, reason))

    def _bury(self, name: str, reason: str) -> None:
        """A worker was reaped: what it held is run again, or fails, by the rules."""
        self._gone.append(name)
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        del self._by_identity[worker.identity]
        worker.move("gone")
        model = self._models[worker.model]
        model.team.remove(worker)
        self._out.note(f"worker {name} is gone: {reason}")
        self._recovery.take_back(model, worker, reason)

    # --- a window ---------------------------------------------------------------------------

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return {
            "epoch": self.epoch,
            "draining": self._draining,
            "uptime": now - self._started,
            "models": {tag: model.as_data() for tag, model in self._models.items()},
            "workers": {name: worker.as_data() for name, worker in self._workers.items()},
            "processes": list(self._processes),
            "counters": self._counters,
        }

    def __repr__(self) -> str:
        queued = sum(model.queued_requests for model in self._models.values())
        busy = sum(1 for worker in self._workers.values() if worker.batches)
        idle = sum(1 for worker in self._workers.values() if worker.is_idle)
        return f"<Core [{queued} queued | workers: {busy} busy, {idle} idle]>"
