"""What is learned from a batch that is done: its cost, shares, and how good the prediction was."""

from __future__ import annotations

from tfrunner.dispatcher.batches import Batch
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.policy import Policy
from tfrunner.dispatcher.workers import Worker
from tfrunner.protocol import BatchDone

SHORTEST = 1e-9
"""Seconds that any batch costs: nobody has to divide by nothing."""


class Learning:
    """Takes in batches that are done."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def take_in(
        self, model: Model, worker: Worker, batch: Batch, done: BatchDone, now: float
    ) -> None:
        """Learn from a batch whose answer came at `now`."""
        method = batch.pieces[0].owner.request.method
        seconds = max(SHORTEST, done.seconds if done.cost is None else done.cost)
        model.ledger.count_run(method, batch.rows, done.seconds)
        model.ledger.padded_rows += batch.padded
        costs = batch.costs
        if costs is None:
            return
        queue = model.queue_of(batch.pieces[0].owner.request)
        if batch.expected:
            model.ledger.count_prediction(batch.expected, seconds)
            if len(model.queues) > 1:
                queue.note_run(batch.expected / batch.pace, seconds)
        size = batch.rows + batch.padded
        is_first = (method, size) not in worker.seen
        worker.seen.add((method, size))
        costs.observe(size, seconds, now, is_first=is_first)
        if batch.sent == batch.started:  # it did not lie staged: all else was transfer
            costs.observe_transfer(now - batch.sent - done.seconds)
        model.forecast.note(method, costs, model.full(method), seconds)
        requests = self._settle_shares(model, batch, seconds)
        self._policy.observe(
            queue,
            rows=batch.rows,
            requests=requests,
            seconds=seconds,
            waited=batch.waited,
            now=now,
        )

    def _settle_shares(self, model: Model, batch: Batch, seconds: float) -> int:
        """Let each client pay for its part of the device time; return how many requests ran."""
        per_row = seconds / max(1, sum(stop - start for _, start, stop in batch.pieces))
        account, charged, actual = batch.pieces[0].owner.account, 0.0, 0.0
        for owner, start, stop in batch.pieces:
            if owner.account is not account:
                model.shares.settle(account, charged, actual)
                account, charged, actual = owner.account, 0.0, 0.0
            rows = stop - start
            charged += owner.cost * rows / owner.weight
            actual += per_row * rows
        model.shares.settle(account, charged, actual)
        return len(batch.pieces)
