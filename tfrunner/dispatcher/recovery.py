"""What follows from a batch that is done, has failed, or was held by a worker that is gone.

1. Done: every block goes to its gateway, unopened.
2. Failed: bisected, so that only the culprits fail; a method that must not run twice fails whole.
   Out of memory: run again in smaller batches; if all of it ran so, the worker gets none so
   large any more.
3. Lost while running: each request runs again, alone; a second death, alone, is its own doing.
4. Lost while staged: returned to the front, unmarked.
"""

from __future__ import annotations

from tfrunner.dispatcher.batches import Accepted, Batch, Piece, Rerun, chunks, halves, names, places
from tfrunner.dispatcher.learning import Learning
from tfrunner.dispatcher.memory import Shortage
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.states import BatchState
from tfrunner.dispatcher.workers import Worker
from tfrunner.errors import OutOfMemory
from tfrunner.protocol import BatchDone, BatchFailed, Block

OUT_OF_MEMORY = OutOfMemory.code


def _timed(block: Block, batch: Batch, seconds: float) -> Block:
    """Return a block that says how long its requests waited, and how long they ran."""
    return Block(
        block.spans,
        block.layout,
        block.bodies,
        (batch.waited, *(block.timing or (0.0, seconds, 0.0))),
        batch.rows,
    )


def _again(batch: Batch, pieces: list[Piece]) -> Rerun:
    """Return what is left of a batch that was not run, as it was."""
    return Rerun(pieces, batch.attempt + 1, batch.alone, batch.halved, batch.shortage)


class Recovery:
    """Settles batches."""

    def __init__(self, requests: Requests, learning: Learning, out: Outbox) -> None:
        self._requests = requests
        self._learning = learning
        self._out = out

    def settle(
        self, model: Model, worker: Worker, batch: Batch, done: BatchDone, now: float
    ) -> None:
        """Forward the answers of a batch."""
        if not batch.is_answered_by(done.blocks):
            text = "the worker answered other rows than it was given"
            failed = BatchFailed(batch.id, batch.attempt, "internal", text)
            self.isolate(model, worker, batch, failed)
            return
        batch.move("done")
        self._learning.take_in(model, worker, batch, done, now)
        for addressed in done.blocks:
            self._out.answer(addressed.gateway, _timed(addressed.block, batch, done.seconds))
        for owner, start, stop in batch.pieces:
            self._requests.answer(owner, stop - start)
        if batch.shortage is not None:
            for shortage in batch.shortage.ran(places(batch.pieces)):
                self._limit(shortage)

    def isolate(self, model: Model, worker: Worker, batch: Batch, failed: BatchFailed) -> None:
        """Find the culprits of a failed batch by running its halves again, down to one request.

        That takes at most 2 n - 2 runs of n requests, and runs each log2 n times. Who is closed
        by now (failed with other rows, say) may have been the culprit: the only one that is left
        is run again too, unless it ran alone.
        """
        batch.move("fail")
        pieces = [piece for piece in batch.pieces if piece.owner.is_open]
        method = pieces[0].owner.request.method if pieces else ""
        if failed.gateways and self._set_apart(model, batch, pieces, failed):
            return None
        if failed.code == OUT_OF_MEMORY and self._shrink(model, worker, batch, pieces):
            return None
        if not pieces:
            return None
        if len(batch.pieces) == 1 or not model.is_repeatable(method):
            return self._give_up(model, batch, pieces, failed)
        if not batch.halved:
            model.ledger.bisected += 1
            self._out.note(
                f"batch {batch.id}.{batch.attempt} of {model.tag} failed on {worker.name} "
                f"({failed.code}: {failed.message}); its {len(pieces)} requests are run again "
                f"in halves: {names(pieces)}"
            )
        queue = model.queue_of(pieces[0].owner.request)
        for half in filter(None, reversed(halves(pieces))):
            queue.reruns.appendleft(Rerun(half, 1, halved=True, shortage=batch.shortage))
        return None

    def _set_apart(
        self, model: Model, batch: Batch, pieces: list[Piece], failed: BatchFailed
    ) -> bool:
        """Fail what lies in shared memory that was refused, and run the rest at once.

        Nothing was run yet. Its gateway sends again as frames what it can. Whose memory was
        refused may have left meanwhile: then nothing fails.
        """
        blamed = {owner.gateway for owner in batch.lent}.intersection(failed.gateways)
        if not blamed:
            return False
        refused: list[Piece] = []
        rest: list[Piece] = []
        for piece in pieces:
            is_refused = piece.owner.is_lent and piece.owner.gateway in blamed
            (refused if is_refused else rest).append(piece)
        if refused:
            self._out.note(f"{failed.message}: {names(refused)}")
        self._fail_all(refused, failed)
        if rest:
            rerun = _again(batch, rest)
            model.queue_of(rest[0].owner.request).reruns.appendleft(rerun)
        return True

    def _shrink(self, model: Model, worker: Worker, batch: Batch, pieces: list[Piece]) -> bool:
        """Run what did not fit into memory again in halves of its rows; return whether it can."""
        model.ledger.out_of_memory += 1
        request = batch.pieces[0].owner.request
        can_be_cut = model.is_batchable(request.method) and model.is_repeatable(request.method)
        if batch.rows < 2 or not can_be_cut:
            return False
        shortage = Shortage(worker, request.method, places(batch.pieces), batch.shortage)
        self._out.note(
            f"worker {worker.name} had no memory for the {batch.rows} rows of batch "
            f"{batch.id}.{batch.attempt} of {model.tag}; they are run again, at most "
            f"{shortage.fits} at a time"
        )
        queue = model.queue_of(request)
        for part in reversed(chunks(pieces, shortage.fits)):
            queue.reruns.appendleft(Rerun(part, 1, batch.alone, batch.halved, shortage))
        return True

    def _limit(self, shortage: Shortage) -> None:
        """Give a worker no batches any more that did not fit: smaller ones with their rows did."""
        worker, method = shortage.worker, shortage.method
        if shortage.fits < worker.limits.get(method, worker.largest):
            worker.limits[method] = shortage.fits
            self._out.note(
                f"worker {worker.name} gets at most {shortage.fits} rows of {method} from now on: "
                f"{shortage.rows} did not fit into its memory"
            )

    def take_back(self, model: Model, worker: Worker, reason: str) -> None:
        """Decide on everything that a worker held when it died."""
        for batch in reversed(worker.batches):
            was_running = batch.state is BatchState.RUNNING
            batch.move("return")
            self._requests.let_go(batch)
            pieces = [piece for piece in batch.pieces if piece.owner.is_open]
            if not pieces:
                continue
            self._out.note(
                f"batch {batch.id}.{batch.attempt} of {model.tag} "
                f"{'ran' if was_running else 'was staged'} on {worker.name} when it was lost "
                f"({reason}): {names(pieces)}"
            )
            if was_running:
                self._take_back_running(model, batch, pieces, f"{worker.name}: {reason}")
            else:
                rerun = _again(batch, pieces)
                model.queue_of(pieces[0].owner.request).reruns.appendleft(rerun)
        worker.batches.clear()

    def _take_back_running(
        self, model: Model, batch: Batch, pieces: list[Piece], reason: str
    ) -> None:
        request = pieces[0].owner.request
        queue = model.queue_of(request)
        if not model.is_repeatable(request.method):
            for piece in pieces:
                text = (
                    f"the worker died while it ran this request ({reason}), and method "
                    f"{request.method!r} must not be run twice."
                )
                self._requests.fail(piece.owner, "worker_lost", text, retry_after=1.0)
            return
        for piece in reversed(pieces):
            piece.owner.deaths += 1
            if batch.alone:
                model.ledger.poisoned += 1
                self._out.note(f"request {names([piece])} of {model.tag} is poison: {reason}")
                text = (
                    f"this request ended {piece.owner.deaths} workers, the last one while it ran "
                    f"alone ({reason}); it is not run again."
                )
                self._requests.fail(piece.owner, "poison_request", text)
            else:
                model.ledger.requeued += 1
                self._isolate_rest(model, piece.owner)
                queue.reruns.appendleft(Rerun([piece], batch.attempt + 1, alone=True))

    def _isolate_rest(self, model: Model, owner: Accepted) -> None:
        """Rows of a suspect that still wait are run alone as well."""
        queue = model.queue_of(owner.request)
        start, stop = owner.taken, owner.weight
        model.forget(owner)
        for first in range(start, stop, queue.bound):
            piece = Piece(owner, first, min(stop, first + queue.bound))
            queue.reruns.append(Rerun([piece], 1, alone=True))

    def _give_up(
        self, model: Model, batch: Batch, pieces: list[Piece], failed: BatchFailed
    ) -> None:
        if pieces:
            self._out.note(
                f"batch {batch.id}.{batch.attempt} of {model.tag} failed "
                f"({failed.code}: {failed.message}): {names(pieces)}"
            )
            self._fail_all(pieces, failed)

    def _fail_all(self, pieces: list[Piece], failed: BatchFailed) -> None:
        for piece in pieces:
            self._requests.fail(piece.owner, failed.code, failed.message)
