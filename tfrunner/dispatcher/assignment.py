"""Pairing: waiting requests and free credits become batches on workers. The only such place."""

from __future__ import annotations

from tfrunner.dispatcher.batches import Batch, Piece, Rerun, chunks
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.dispatcher.policy import Policy
from tfrunner.dispatcher.queues import Queue
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.workers import Worker


class Assignment:
    """Gives workers what they may run."""

    def __init__(
        self, requests: Requests, policy: Policy, out: Outbox, *, first_batch: int
    ) -> None:
        self._requests = requests
        self._policy = policy
        self._out = out
        self._next_batch = first_batch

    def assign(self, model: Model, now: float) -> None:
        """Send batches of one model until no credit or no work is left."""
        while model.has_work and len(model.team):
            queues = self._policy.order(model.queues.values(), now)
            may_stage = not any(queue.reruns for queue in queues)
            if not any(self._send_next(model, queue, may_stage, now) for queue in queues):
                break
        model.drop_empty_queues()

    def _send_next(self, model: Model, queue: Queue, may_stage: bool, now: float) -> bool:
        """Send one batch of a queue; return whether anything changed."""
        idle = model.team.pick_idle()
        if queue.reruns:
            return idle is not None and self._send_rerun(model, queue, idle, now)
        worker = idle
        if worker is None and may_stage and model.is_repeatable(queue.method):
            worker = model.team.pick_for_staging()
        if worker is None:
            return False
        batchable = model.is_batchable(queue.method)
        full = min(queue.bound, worker.limit) if batchable else 1
        rows = self._policy.size(queue, idle=worker is idle, full=full, now=now)
        if rows == 0:
            return False
        if batchable:
            pieces = queue.take(rows, now, self._requests.expire)
        else:
            pieces = queue.take_one(now, self._requests.expire)
        if not pieces:
            return False
        self._count_out(model, pieces, now)
        reason = "staged" if worker is not idle else "full" if rows >= full else "idle"
        self._start(model, Rerun(pieces, attempt=1), worker, reason, now)
        return True

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
        if (
            model.is_batchable(queue.method)
            and sum(p.stop - p.start for p in pieces) > worker.limit
        ):
            parts = chunks(pieces, worker.limit)
            queue.reruns.extendleft(rerun._replace(pieces=part) for part in reversed(parts))
        elif pieces:
            reason = "alone" if rerun.alone else "bisect" if rerun.bisection else "requeued"
            self._start(model, rerun._replace(pieces=pieces), worker, reason, now)
        return True

    def _start(self, model: Model, rerun: Rerun, worker: Worker, reason: str, now: float) -> None:
        batch = Batch(self._next_batch, rerun)
        self._next_batch += 1
        worker.batches.append(batch)
        if len(worker.batches) == 1:
            batch.run(now)
            model.team.started(worker)
        model.ledger.reasons[reason] += 1
        self._out.to_backend(worker.identity, batch.message())

    def _count_out(self, model: Model, pieces: list[Piece], now: float) -> None:
        """Count requests of which no row waits any more out of the queue."""
        observe = model.ledger.queue_seconds.add
        for owner, start, _ in pieces:
            if start == 0:
                observe(now - owner.arrived)
            if owner.taken == owner.weight:
                model.leave_queue(owner)
