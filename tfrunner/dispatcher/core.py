"""The dispatcher's rules: which requests form a batch, who runs it, and what a loss means.

No sockets, no clock, no threads, no log. Callers pass `now` (seconds, monotonic), and perform
the sends. `handle` only records; `step` alone moves requests.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from math import inf
from typing import Any

from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig
from tfrunner.dispatcher.assignment import Assignment
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.costbook import CostBook
from tfrunner.dispatcher.learning import Learning
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import FRONTEND, Outbox, PeerGone, Send
from tfrunner.dispatcher.policy import Hold, Policy
from tfrunner.dispatcher.recovery import Recovery
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.roster import Roster
from tfrunner.dispatcher.told import Told

SILENCE_SECONDS = 1.0
"""A gateway that owes us a Hello for so long is sent a Welcome: it fails to leave if it is gone."""

STOOD_STILL_SECONDS = 2.0
"""A look round that comes so much too late: this process stood still (SIGSTOP, a frozen container),
and perhaps all did. (The supervisor asks each second, so there is always somebody to wake it.)"""

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
        devices: Counter[str] = Counter()
        self._models = {served.tag: Model(served, devices) for served in config.models}
        self._out = Outbox()
        self._requests = Requests(self._models, self._out)
        held = Hold(policy, config.hold) if config.hold else policy
        recovery = Recovery(self._requests, Learning(held), self._out)
        self._roster = Roster(self._models, self._requests, recovery, self._out, epoch=epoch)
        # Batch numbers of different epochs differ: a late reply to an earlier dispatcher fits none.
        first = zlib.crc32(epoch.encode()) << 30
        self._assignment = Assignment(
            self._requests, held, self._out, first_batch=first, may_hold=bool(config.hold)
        )
        self._inbox: deque[tuple[bytes, Any, float]] = deque()
        self._processes: tuple[dict[str, Any], ...] = ()
        self._counters: dict[str, dict[str, float]] = {}
        self._told = Told(self._out.note)
        self._draining = False

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is accepted."""
        return self._draining

    # --- the door, the step, the alarm ----------------------------------------------------

    def handle(self, sender: bytes, message: Any, now: float) -> None:
        """Record what came, from whom, and when."""
        self._inbox.append((sender, message, now))

    def step(self, now: float) -> list[Send]:
        """Take in what was recorded, pair requests with credits, return the sends to perform."""
        while self._inbox:
            sender, message, then = self._inbox.popleft()
            self._take_in(sender, message, then)
        if now >= self._next_look:
            self._look_around(now)
        self._assignment.again = inf
        for model in self._models.values():
            self._assignment.assign(model, now)
        return self._out.take()

    def next_wakeup(self) -> float | None:
        """Return the moment at which `step` must be called even if nothing comes."""
        if not self._requests.open and not self._roster.is_busy:
            return None
        return min(self._next_look, self._assignment.again)

    def books(self) -> dict[str, CostBook]:
        """Return what batches cost, by tag: for the shell to keep, and to bring back."""
        return {tag: model.book for tag, model in self._models.items()}

    def take_notes(self) -> list[str]:
        """Return lines for the log, once."""
        notes, self._out.notes = self._out.notes, []
        return notes

    def _look_around(self, now: float) -> None:
        """Fence workers that hang; send to silent gateways: the shell learns if they are gone."""
        late, self._next_look = now - self._next_look, now + SILENCE_SECONDS
        if late > STOOD_STILL_SECONDS:
            self._roster.hear_all(now)
        else:
            self._roster.fence_hung(now)
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
                self._roster.finish(sender, message, now)
            case p.Cancel(ids=ids):
                self._requests.cancel(sender, ids)
            case p.Hello(epoch=epoch, segment=segment):
                if epoch == self.epoch:
                    self._requests.meet(sender, segment, now)
                specs = self._specs if epoch != self.epoch else ()
                self._out.to_frontend(sender, p.Welcome(self.epoch, specs))
            case p.WorkerHello():
                self._roster.meet(sender, message, now)
            case p.Leave():
                self._roster.let_go(sender, message, now)
            case p.WorkerGone(worker=name, reason=reason):
                self._roster.bury(name, reason)
            case PeerGone(link=link):
                self._lose(link, sender)
            case _:
                self._take_in_control(sender, message, now)

    def _take_in_control(self, sender: bytes, message: Any, now: float) -> None:
        match message:
            case p.Ask(id=number, told=wants_told):
                state = self.snapshot(now)
                if wants_told:
                    state["told"] = self._told.as_data()
                status = p.Status(number, state)
                if self._roster.is_supervisor(sender):
                    self._out.to_backend(sender, status)
                else:
                    self._out.to_frontend(sender, status)
            case p.Count(amounts=amounts):
                for name, label, amount in amounts:
                    labels = self._counters.setdefault(name, {})
                    labels[label] = labels.get(label, 0) + amount
            case p.Report(epoch=epoch):
                if epoch == self.epoch:  # else it is said again, to this one
                    self._told.take(message, now)
            case p.SupervisorHello():
                self._roster.meet_supervisor(sender)
            case p.Processes(rows=rows):
                self._processes = rows
                self._told.attend({row.get("name", "") for row in rows}, now)
            case p.ModelUnavailable(model=tag, reason=reason):
                self._roster.set_reason(tag, reason)
            case p.Drain():
                if not self._draining:
                    self._out.note(f"draining: {self._requests.open} requests are open")
                self._draining = True
            case _:
                raise TypeError(f"{type(message).__name__} is not for the dispatcher")

    def _admit(self, accepted: Accepted) -> None:
        """Queue a request, or refuse it at once with the reason."""
        request = accepted.request
        model = self._models.get(request.model)
        if self._requests.knows(accepted):
            return  # sent again after a reconnect: the first one counts
        if accepted.is_lent:
            accepted.segment = self._requests.segment(accepted.gateway)
        if accepted.is_lent and accepted.segment is None:
            text = "its bodies lie in shared memory that its gateway has not announced"
            self._requests.refuse(accepted, p.SEGMENT_REFUSED, text)
        elif model is None:
            served = ", ".join(sorted(self._models)) or "none"
            text = f"model {request.model!r} is not served here; served: {served}."
            self._requests.refuse(accepted, "not_found", text)
        elif self._draining:
            text = "the server is shutting down"
            self._requests.refuse(accepted, "unavailable", text, reason="draining", retry_after=1.0)
        elif model.reason and model.state == "unavailable":
            text = f"model {model.tag} cannot be served: {model.reason}"
            self._requests.refuse(
                accepted, "unavailable", text, reason="model_unavailable", retry_after=5.0
            )
        elif not self._has_room(model, accepted) and not self._make_room(model, accepted):
            self._refuse_room(model, accepted)
        elif model.is_hopeless(accepted):
            text = (
                f"{model.queued_requests} requests of {model.tag} wait; this one would probably "
                f"wait longer than its {request.timeout:g} s. Try again later."
            )
            self._requests.refuse(
                accepted, "overloaded", text, reason="deadline", retry_after=model.retry_after()
            )
        else:
            self._requests.accept(accepted)

    def _has_room(self, model: Model, accepted: Accepted) -> bool:
        """Whether a request can be queued; what it will cost is counted also if it cannot."""
        model.expect(accepted)
        return model.has_room(accepted)

    def _make_room(self, model: Model, accepted: Accepted) -> bool:
        """Let clients with more than their share give way; return whether that makes room."""
        if model.is_hopeless(accepted):
            return False
        given_up = model.who_give_way(accepted)
        for each in given_up:
            self._requests.displace(each)
        return bool(given_up)

    def _refuse_room(self, model: Model, accepted: Accepted) -> None:
        """Refuse a request for which the queue is full, or too small even if nothing waits."""
        if accepted.size > model.served.queue_bytes:
            text = (
                f"the request has {accepted.size} bytes, more than the queue of {model.tag} ever "
                f"holds ({model.served.queue_bytes}): send it in parts, or set --queue-bytes."
            )
            self._requests.refuse(accepted, "too_large", text)
        else:
            text = (
                f"the queue of {model.tag} is full ({model.queued_requests} requests, "
                f"{model.queued_bytes} bytes); try again later."
            )
            self._requests.refuse(
                accepted, "overloaded", text, reason="queue_full", retry_after=model.retry_after()
            )

    def _lose(self, link: str, peer: bytes) -> None:
        """A message could not leave: a gateway's work is dropped, a worker is fenced."""
        if link == FRONTEND:
            self._requests.drop_gateway(peer)
        else:
            self._roster.lose(peer)

    # --- a window ---------------------------------------------------------------------------

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return {
            "epoch": self.epoch,
            "draining": self._draining,
            "uptime": now - self._started,
            "models": {tag: model.as_data() for tag, model in self._models.items()},
            "workers": {name: worker.as_data() for name, worker in self._roster.workers.items()},
            "open_requests": self._requests.open,
            "processes": list(self._processes),
            "counters": self._counters,
        }

    def __repr__(self) -> str:
        queued = sum(model.queued_requests for model in self._models.values())
        busy = sum(1 for worker in self._roster.workers.values() if worker.batches)
        idle = sum(1 for worker in self._roster.workers.values() if worker.is_idle)
        return f"<Core [{queued} queued | workers: {busy} busy, {idle} idle]>"
