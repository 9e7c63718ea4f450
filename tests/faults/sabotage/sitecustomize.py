"""Switches one protection off in the processes of a server under test, to see its check fail.

Python imports this module at its start where PYTHONPATH says so. TFRUNNER_SABOTAGE names the
protection; the module that holds it is changed right after it was imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def drop_what_a_lost_worker_held(recovery: Any) -> None:
    """Fail the requests of a dead worker instead of running them again."""

    def take_back(self: Any, model: Any, worker: Any, reason: str) -> None:
        for batch in worker.batches:
            for piece in batch.pieces:
                self._requests.fail(piece.owner, "worker_lost", "sabotage")
        worker.batches.clear()

    recovery.Recovery.take_back = take_back


def never_run_suspects_alone(recovery: Any) -> None:
    """Run the company of a request that killed its worker again as it was."""
    rerun = recovery.Rerun

    def take_back(self: Any, model: Any, worker: Any, reason: str) -> None:
        for batch in worker.batches:
            pieces = [piece for piece in batch.pieces if piece.owner.is_open]
            if pieces:
                queue = model.queue_of(pieces[0].owner.request)
                queue.reruns.append(rerun(pieces, batch.attempt + 1))
        worker.batches.clear()

    recovery.Recovery.take_back = take_back


def fail_whole_batches(recovery: Any) -> None:
    """Fail every request of a batch that failed."""

    def isolate(self: Any, model: Any, worker: Any, batch: Any, failed: Any) -> None:
        batch.move("fail")
        self._fail_all([piece for piece in batch.pieces if piece.owner.is_open], failed)

    recovery.Recovery.isolate = isolate


def never_run_smaller_batches(recovery: Any) -> None:
    """Fail every request of a batch that did not fit."""
    isolate = recovery.Recovery.isolate

    def isolate_what_fits(self: Any, model: Any, worker: Any, batch: Any, failed: Any) -> None:
        if failed.code != recovery.OUT_OF_MEMORY:
            return isolate(self, model, worker, batch, failed)
        batch.move("fail")
        return self._fail_all([piece for piece in batch.pieces if piece.owner.is_open], failed)

    recovery.Recovery.isolate = isolate_what_fits


def keep_what_nobody_can_run(requests: Any) -> None:
    """Queue for a model that cannot be served, instead of refusing."""
    requests.Requests.refuse = lambda self, accepted, *args, **kwargs: self.accept(accepted)
    requests.Requests.fail_waiting = lambda self, *args, **kwargs: None


def believe_that_nobody_hangs(roster: Any) -> None:
    """Never fence a worker that stands still."""
    roster.Roster.fence_hung = lambda self, now: None


def lose_patience(roster: Any) -> None:
    """Take a worker for hung after half a second, whatever it runs."""
    hung = roster.Roster._why_hung

    def why_hung(self: Any, worker: Any, now: float) -> str:
        if worker.batches and now - worker.batches[0].started > 0.5:
            return "sabotage"
        return str(hung(self, worker, now))

    roster.Roster._why_hung = why_hung


def reuse_numbers_at_once(exchange: Any) -> None:
    """Give the number of a request that timed out to the next one, while it still runs."""
    submit = exchange.Exchange.submit

    def submit_with_free_number(self: Any, *args: Any, **kwargs: Any) -> Any:
        number = 1
        while number in self.pending._waiting:
            number += 1
        self._last_id = number - 1
        return submit(self, *args, **kwargs)

    exchange.Exchange.submit = submit_with_free_number


def take_everything(models: Any) -> None:
    """Refuse nothing, however long it will have to wait."""
    models.Model.has_room = lambda self, *args, **kwargs: True
    models.Model.is_hopeless = lambda self, *args, **kwargs: False


def give_up_with_the_first_worker(models: Any) -> None:
    """Call a model unavailable as soon as one of its workers cannot load it."""
    state = models.Model.state.fget
    models.Model.state = property(lambda self: "unavailable" if self.reason else state(self))


def raise_what_the_log_cannot_write(logging: Any) -> None:
    """Let a full disk under the log end whoever writes a line."""

    def handle_error(self: Any, record: Any) -> None:
        raise

    logging.Handler.handleError = handle_error


def end_api_processes_at_once(server: Any) -> None:
    """Do not drain: end with the signal."""
    server.Server.handle_exit = lambda self, sig, frame: os._exit(0)


def end_workers_at_once(processes: Any) -> None:
    """Do not finish the batch: end with the signal."""
    if "tfrunner_workers" in sys.orig_argv:
        processes.StopSignals._remember = lambda self, number, frame: os._exit(0)


def forget_what_was_sent(pending: Any) -> None:
    """Send nothing again to a new dispatcher."""
    pending.Pending.send_again = lambda self, now: []


def let_one_api_process_take_the_others_along(core: Any) -> None:
    """Kill every api process when one of them dies."""
    handle = core.Core.handle

    def spread(self: Any, event: Any, now: float) -> None:
        handle(self, event, now)
        if isinstance(event, core.Exited) and event.slot.startswith("api"):
            for slot in self.slots.values():
                if slot.kind == core.API and slot.has_process:
                    self._actions.append(core.Signal(slot.name, 9))

    core.Core.handle = spread


def outlive_the_parent(processes: Any) -> None:
    """Go on without the supervisor."""
    processes.die_with_parent = lambda *args, **kwargs: None


SABOTAGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "no-requeue": ("tfrunner.dispatcher.recovery", drop_what_a_lost_worker_held),
    "no-isolation": ("tfrunner.dispatcher.recovery", never_run_suspects_alone),
    "no-bisection": ("tfrunner.dispatcher.recovery", fail_whole_batches),
    "no-smaller-batches": ("tfrunner.dispatcher.recovery", never_run_smaller_batches),
    "no-refusal": ("tfrunner.dispatcher.requests", keep_what_nobody_can_run),
    "no-fence": ("tfrunner.dispatcher.roster", believe_that_nobody_hangs),
    "no-patience": ("tfrunner.dispatcher.roster", lose_patience),
    "reused-numbers": ("tfrunner.exchange", reuse_numbers_at_once),
    "one-for-all": ("tfrunner.dispatcher.models", give_up_with_the_first_worker),
    "no-admission": ("tfrunner.dispatcher.models", take_everything),
    "fatal-log": ("logging", raise_what_the_log_cannot_write),
    "no-api-drain": ("tfrunner.api.server", end_api_processes_at_once),
    "no-worker-drain": ("tfrunner.processes", end_workers_at_once),
    "no-resend": ("tfrunner.pending", forget_what_was_sent),
    "shared-fate": ("tfrunner.supervisor.core", let_one_api_process_take_the_others_along),
    "no-parent": ("tfrunner.processes", outlive_the_parent),
}


class Saboteur(importlib.abc.MetaPathFinder):
    """Changes one module when it is imported.

    Args:
        target: Name of the module.
        change: Called with it.
    """

    def __init__(self, target: str, change: Callable[[Any], None]) -> None:
        self._target = target
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the module as always; change it once its code has run."""
        if fullname != self._target:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run, change = spec.loader.exec_module, self._change

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


if os.environ.get("TFRUNNER_SABOTAGE"):
    sys.meta_path.insert(0, Saboteur(*SABOTAGES[os.environ["TFRUNNER_SABOTAGE"]]))
