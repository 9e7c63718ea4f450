"""The workers' lives, as the dispatcher sees them: they come, hold batches, leave, hang, die.

The supervisor alone ends processes: the roster asks it to (`Fence`), and believes a death only
when it says `WorkerGone`. Until then nothing that a worker holds is run elsewhere.
"""

from __future__ import annotations

from collections import deque

from tfrunner.dispatcher.batches import Batch
from tfrunner.dispatcher.ledger import BOUNDS
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.dispatcher.recovery import Recovery
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.states import WorkerState
from tfrunner.dispatcher.workers import Worker
from tfrunner.protocol import (
    BatchDone,
    BatchFailed,
    Fence,
    Leave,
    Stop,
    Welcome,
    WorkerHello,
)

QUIET_SECONDS = 3.0
"""A worker whose hellos stopped for so long may hang (they come every half second)."""

LOADING_QUIET_SECONDS = 30.0
"""The same of a worker that loads: whoever imports a framework may hold its interpreter's lock."""

SHORTEST_PATIENCE = 5.0
FIRST_PATIENCE = 30.0
"""Seconds that a run may take at least before it is called hung; before anything is known."""

PATIENCE_RUNS = 20.0
"""A run may take so many times what others hardly exceed."""

LONGEST_WISH = 60.0
"""Seconds that a worn worker waits at most until all others of its model serve."""


class Roster:
    """All workers, and the supervisor.

    Attributes:
        workers: By name; those that are not reaped.
    """

    def __init__(
        self,
        models: dict[str, Model],
        requests: Requests,
        recovery: Recovery,
        out: Outbox,
        *,
        epoch: str,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self._models = models
        self._requests = requests
        self._out = out
        self._epoch = epoch
        self._recovery = recovery
        self._by_identity: dict[bytes, Worker] = {}
        self._gone: deque[str] = deque(maxlen=1000)
        self._let_go: dict[str, float] = {}  # when a worker of each model was last let go
        self._supervisor: bytes | None = None

    @property
    def is_busy(self) -> bool:
        """Whether any worker holds a batch."""
        return any(worker.batches for worker in self.workers.values())

    # --- coming -------------------------------------------------------------------------------

    def meet(self, sender: bytes, hello: WorkerHello, now: float) -> None:
        """Take in a worker's hello; it may work once it knows this epoch and is warm."""
        model = self._models.get(hello.model)
        if model is None or hello.name in self._gone:
            return
        self._out.to_backend(sender, Welcome(self._epoch))
        if hello.load_error:
            self.set_reason(hello.model, hello.load_error)
            return
        worker = self.workers.get(hello.name)
        if worker is None:
            worker = Worker(sender, hello, largest=model.served.largest_batch, now=now)
            self.workers[hello.name] = self._by_identity[sender] = worker
            self._out.note(f"worker {worker.name} (pid {worker.pid}) loads {model.tag}")
        worker.heard = now
        knows_us = hello.epoch == self._epoch
        if hello.ready and knows_us and worker.state is WorkerState.STARTING:
            worker.move("ready")
            worker.methods = hello.methods
            worker.parts = {method.name: max(1, method.parts) for method in hello.methods}
            worker.device_class = hello.device_class or worker.device_class  # known once it loaded
            model.learn(hello.methods)
            if model.state == "unavailable":
                self._out.note(f"model {model.tag} is available again")
            model.reason = ""
            model.add_worker(worker)
            self._out.note(
                f"worker {worker.name} (pid {worker.pid}) is ready on {worker.device} "
                f"for {model.tag}"
            )

    def meet_supervisor(self, sender: bytes) -> None:
        """Answer the supervisor; a new one is asked again for what the old one owed."""
        if sender != self._supervisor:
            self._supervisor = sender
            for worker in self.workers.values():
                if worker.state is WorkerState.FENCED:
                    self._out.to_backend(sender, Fence(worker.name, worker.last_error))
        self._out.to_backend(sender, Welcome(self._epoch))

    def is_supervisor(self, peer: bytes) -> bool:
        """Whether this peer is the supervisor."""
        return peer == self._supervisor

    def set_reason(self, tag: str, reason: str) -> None:
        """Mark a model as unavailable; what waits for it without a worker fails with the reason."""
        model = self._models.get(tag)
        if model is None or model.reason == reason:
            return
        model.reason = reason
        if model.state == "unavailable":
            self._out.note(f"model {tag} is unavailable: {reason}")
            text = f"model {tag} cannot be served: {reason}"
            self._requests.fail_waiting(model, "unavailable", text, retry_after=5.0)

    # --- working --------------------------------------------------------------------------------

    def finish(self, sender: bytes, message: BatchDone | BatchFailed, now: float) -> None:
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
            worker.batches[0].run(now)
        model.team.finished(worker)
        if isinstance(message, BatchDone):
            worker.done += 1
            self._recovery.settle(model, worker, batch, message, now)
        else:
            worker.last_error = message.message
            self._recovery.isolate(model, worker, batch, message)
        self._requests.let_go(batch)
        if worker.state is WorkerState.LEAVING and not worker.batches:
            self._out.to_backend(worker.identity, Stop())

    # --- leaving --------------------------------------------------------------------------------

    def let_go(self, sender: bytes, leave: Leave, now: float) -> None:
        """Give a worker nothing more; tell it to stop once it holds nothing."""
        worker = self._by_identity.get(sender)
        if worker is None:
            self._out.to_backend(sender, Stop())
            return
        is_leaving = worker.state is WorkerState.LEAVING
        if leave.may_wait and not is_leaving and not self._has_its_turn(worker, now):
            return  # it serves on, and asks again
        if worker.state in (WorkerState.STARTING, WorkerState.READY):
            worker.move("leave")
            self._let_go[worker.model] = now
            self._models[worker.model].remove_worker(worker)
            self._out.note(f"worker {worker.name} leaves: {leave.reason}")
        if worker.state is WorkerState.LEAVING and not worker.batches:
            self._out.to_backend(sender, Stop())

    def _has_its_turn(self, worker: Worker, now: float) -> bool:
        """Whether a worn worker may leave: all others of its model serve, or it waited long.

        Who has wished for longest goes first: else one that wears out as soon as it serves would
        always leave again before the others have asked. Who comes next waits anew when one goes.
        """
        if not worker.is_ready:
            return False
        if worker.worn is None:
            worker.worn = now
        model = self._models[worker.model]
        if any(each.worn is not None and each.worn < worker.worn for each in model.team):
            return False
        since = max(worker.worn, self._let_go.get(worker.model, 0.0))
        return len(model.team) >= model.most_workers or now - since > LONGEST_WISH

    def lose(self, peer: bytes) -> None:
        """A message to a peer could not leave: its connection is gone."""
        if peer == self._supervisor:
            self._supervisor = None
        elif (worker := self._by_identity.get(peer)) is not None:
            self.fence(worker, "its connection is gone")

    def hear_all(self, now: float) -> None:
        """Count every worker as heard just now: nobody was there to hear them."""
        for worker in self.workers.values():
            worker.heard = now

    def fence_hung(self, now: float) -> None:
        """Fence every worker that hangs."""
        for worker in self.workers.values():
            reason = ""
            if worker.state in (WorkerState.READY, WorkerState.LEAVING):
                reason = self._why_hung(worker, now)
            elif worker.state is WorkerState.STARTING:
                reason = _silence(worker, now, LOADING_QUIET_SECONDS)
            if reason:
                self.fence(worker, reason)

    def _why_hung(self, worker: Worker, now: float) -> str:
        """Return why a worker counts as hung, "" if it does not.

        A run is given 20 times what one of its method, or of its size, hardly exceeds. After that
        it counts as hung if its hellos have stopped (the process stands still), or if nobody waits
        for it any more (the model does not return): whoever sets short timeouts on a slow method
        ends no worker.
        """
        if not worker.batches:
            return _silence(worker, now, SHORTEST_PATIENCE)
        quiet = now - worker.heard
        batch = worker.batches[0]
        running = now - batch.started
        if running <= SHORTEST_PATIENCE or running <= self._patience(worker, batch):
            return ""
        if quiet > QUIET_SECONDS:
            return f"no result for {running:.1f} s, and no sign of life for {quiet:.1f} s"
        if not batch.is_awaited(now):
            return f"no result for {running:.1f} s, and every deadline has passed"
        return ""

    def _patience(self, worker: Worker, batch: Batch) -> float:
        """Return the seconds that a batch may run before anybody wonders."""
        method = batch.pieces[0].owner.request.method
        p99 = self._models[worker.model].ledger.run_seconds[method].quantile(0.99)
        if p99 is None:
            return FIRST_PATIENCE
        usual = min(p99, BOUNDS[-1])
        if batch.costs is not None and batch.costs.is_known:
            usual = max(usual, batch.costs.upper(batch.rows + batch.padded))
        return max(SHORTEST_PATIENCE, PATIENCE_RUNS * usual)

    def fence(self, worker: Worker, reason: str) -> None:
        """Have a worker killed and reaped; only then what it holds may run elsewhere."""
        if worker.state in (WorkerState.FENCED, WorkerState.GONE):
            return
        worker.move("fence")
        worker.last_error = reason
        model = self._models[worker.model]
        model.remove_worker(worker)
        model.ledger.fenced += 1
        self._out.note(f"worker {worker.name} is fenced: {reason}")
        if self._supervisor is not None:
            self._out.to_backend(self._supervisor, Fence(worker.name, reason))

    def bury(self, name: str, reason: str) -> None:
        """A worker was reaped: what it held is run again, or fails, by the rules."""
        self._gone.append(name)
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        del self._by_identity[worker.identity]
        worker.move("gone")
        model = self._models[worker.model]
        model.remove_worker(worker)
        self._out.note(f"worker {name} is gone: {reason}")
        self._recovery.take_back(model, worker, reason)


def _silence(worker: Worker, now: float, patience: float) -> str:
    """Return why a worker of which nothing was heard for so long counts as hung, else ""."""
    quiet = now - worker.heard
    return f"no sign of life for {quiet:.1f} s" if quiet > patience else ""
