"""Pairing: waiting requests and free credits become batches on workers. The only such place."""

from __future__ import annotations

from bisect import bisect_left
from math import inf

from tfrunner.dispatcher.batches import Batch, Piece, Rerun, chunks, places
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.dispatcher.policy import Choice, Policy, View
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.workers import Worker

LONGEST_WAIT = 1.0
"""So many seconds a request waits at most beside an idle worker, whatever a policy predicts."""


class Assignment:
    """Gives workers what they may run.

    Args:
        may_hold: Whether the policy may keep requests from idle workers without end (tests).

    Attributes:
        again: The moment at which a policy wants to be asked again; the core sets it back.
    """

    def __init__(
        self,
        requests: Requests,
        policy: Policy,
        out: Outbox,
        *,
        first_batch: int,
        may_hold: bool = False,
    ) -> None:
        self.again = inf
        self._requests = requests
        self._policy = policy
        self._out = out
        self._next_batch = first_batch
        self._may_hold = may_hold

    def assign(self, model: Model, now: float) -> None:
        """Send batches of one model until no credit or no work is left."""
        while model.has_work and (model.team.idle or model.team.pick_for_staging(now)):
            queues = self._policy.order(model.queues.values(), now)
            may_stage = not any(queue.reruns for queue in queues)
            if not any(self._send_next(model, queue, may_stage, now) for queue in queues):
                break
        model.drop_empty_queues()

    def _send_next(self, model: Model, queue: Queue, may_stage: bool, now: float) -> bool:
        """Send one batch of a queue; return whether anything changed."""
        idle = self._pick_idle(model, queue)
        if queue.reruns:
            return idle is not None and self._send_rerun(model, queue, idle, now)
        worker = idle
        if worker is None and may_stage and model.is_repeatable(queue.method):
            worker = model.team.pick_for_staging(now)
        if worker is None:
            return False
        view = self._view(model, queue, worker, now)
        choice = self._choose(queue, view)
        if choice.rows <= 0:
            self.again = min(self.again, choice.again)
            return False
        pieces = self._take(model, queue, choice, view)
        if not pieces:
            return False
        self._count_out(model, pieces, now)
        reason = choice.reason or _reason(choice, view)
        self._start(model, Rerun(pieces, attempt=1), worker, reason, now)
        return True

    def _pick_idle(self, model: Model, queue: Queue) -> Worker | None:
        """Return an idle worker; of devices that differ the one that is fastest."""
        if not model.team.is_mixed:
            return model.team.pick_idle()
        rows = max(1, min(queue.rows, queue.bound))
        return model.team.pick_idle(lambda w: model.costs(queue.method, w).predict(rows))

    def _view(self, model: Model, queue: Queue, worker: Worker, now: float) -> View:
        most = 1
        if model.is_batchable(queue.method):
            most = worker.limits.get(queue.method, queue.bound)
        sizes = model.allowed(queue.method, most)
        is_idle = not worker.batches
        batch = None if is_idle else worker.batches[0]
        ends = now if batch is None else batch.frees if batch.latest >= now else inf
        return View(
            now,
            is_idle,
            sizes[-1] if sizes else most,
            model.team.idle,
            len(model.team),
            ends,
            model.costs(queue.method, worker),
            sizes,
            model.forecast.load(now),
            model.forecast.together,
            0.0 if batch is None else _unsure(batch, now),
            worker.parts.get(queue.method, 1),
        )

    def _choose(self, queue: Queue, view: View) -> Choice:
        """Ask the policy; what an idle worker is kept from leaves after LONGEST_WAIT."""
        choice = self._policy.size(queue, view)
        if choice.rows > 0 or not view.idle or self._may_hold:
            return choice
        latest = queue.oldest + LONGEST_WAIT
        if view.now >= latest:
            return Choice(min(queue.rows, view.full), reason="cap")
        return choice._replace(again=min(choice.again, latest))

    def _take(self, model: Model, queue: Queue, choice: Choice, view: View) -> list[Piece]:
        if not model.is_batchable(queue.method):
            return queue.take_one(view.now, self._requests.expire)
        return queue.take(
            min(choice.rows, view.full),
            view.now,
            self._requests.expire,
            most=view.full,
            drop_before=choice.drop_before,
            on_dropped=self._requests.drop_early,
        )

    def _send_rerun(self, model: Model, queue: Queue, worker: Worker, now: float) -> bool:
        """Run pieces again, without those whose request is closed or has expired by now."""
        rerun = queue.reruns.popleft()
        for piece in rerun.pieces:
            if piece.owner.deadline <= now:
                self._requests.expire(piece.owner)
        pieces = [piece for piece in rerun.pieces if piece.owner.is_open]
        if not rerun.alone:  # another part of an oversize request may have become suspect since
            suspects = [piece for piece in pieces if piece.owner.deaths]
            queue.reruns.extendleft(Rerun([s], rerun.attempt, alone=True) for s in suspects)
            pieces = [piece for piece in pieces if not piece.owner.deaths]
        limit = worker.limits.get(queue.method)
        if limit is not None and places(pieces) > limit:
            parts = chunks(pieces, limit)
            queue.reruns.extendleft(rerun._replace(pieces=part) for part in reversed(parts))
        elif pieces:
            reason = "alone" if rerun.alone else "bisect" if rerun.halved else "requeued"
            self._start(model, rerun._replace(pieces=pieces), worker, reason, now)
        return True

    def _start(self, model: Model, rerun: Rerun, worker: Worker, reason: str, now: float) -> None:
        batch = Batch(self._next_batch, rerun)
        self._next_batch += 1
        batch.sent = now
        batch.waited = now - rerun.pieces[0].owner.arrived
        self._predict(model, batch, worker)
        worker.batches.append(batch)
        self._requests.hold(batch)
        if len(worker.batches) == 1:
            batch.run(now)
            model.team.started(worker)
        else:
            model.team.staged()
        model.ledger.reasons[reason] += 1
        self._out.to_backend(worker.identity, batch.message())

    def _predict(self, model: Model, batch: Batch, worker: Worker) -> None:
        """Note what the batch will probably take, padded to an allowed size."""
        method = batch.pieces[0].owner.request.method
        batch.costs = model.costs(method, worker)
        batch.parts = worker.parts.get(method, 1)
        sizes = model.allowed(method, worker.limits.get(method, worker.largest))
        at = bisect_left(sizes, batch.rows)
        if batch.rows and at < len(sizes):
            batch.padded = sizes[at] - batch.rows
        if batch.costs.is_known:
            batch.pace = batch.pieces[0].owner.queue.pace
            batch.expected = batch.costs.predict(batch.rows + batch.padded) * batch.pace

    def _count_out(self, model: Model, pieces: list[Piece], now: float) -> None:
        """Count requests of which no row waits any more out of the queue."""
        observe = model.ledger.queue_seconds.add
        for owner, start, _ in pieces:
            if start == 0:
                observe(now - owner.arrived)
            if owner.taken == owner.weight:
                model.leave_queue(owner)


def _unsure(batch: Batch, now: float) -> float:
    """Return the seconds by which a running batch may well take longer than expected.

    That is of no interest where one of its parts has left a thread free.
    """
    if not batch.expected or batch.costs is None or (batch.parts > 1 and batch.frees <= now):
        return 0.0
    return max(0.0, batch.costs.upper(batch.rows + batch.padded) * batch.pace - batch.expected)


def _reason(choice: Choice, view: View) -> str:
    """Return why a batch is sent, where the policy does not say."""
    if not view.idle:
        return "staged"
    return "full" if choice.rows >= view.full else "idle"
