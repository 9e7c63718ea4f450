"""The dispatcher's promise, under arbitrary interleavings, and proof that the check can fail.

Every accepted request gets exactly one outcome, with its own rows, and no batch is larger
than the bound: with late and repeated replies, deaths in every state, dispatcher restarts,
timeouts and cancellations in flight. The same machine is then run against cores with one
seeded fault each, and must find every one of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.dispatch_world import FakeWorker, World
from tfrunner import protocol as p
from tfrunner.dispatcher.assignment import Assignment
from tfrunner.dispatcher.batches import Accepted, Batch, Piece
from tfrunner.dispatcher.flows import Line
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.dispatcher.queues import SPARE, Queue
from tfrunner.dispatcher.recovery import Recovery
from tfrunner.dispatcher.requests import Requests
from tfrunner.dispatcher.roster import Roster
from tfrunner.dispatcher.states import RequestState
from tfrunner.dispatcher.workers import Worker

GATEWAYS = (b"a", b"b", b"c")


class DispatcherMachine(RuleBasedStateMachine):
    """Random lives of a dispatcher; the World checks each send as it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(bound=4, workers=2)

    @rule(
        gateway=st.sampled_from(GATEWAYS),
        rows=st.integers(0, 11),
        layout=st.sampled_from([b"L", b"M"]),
        method=st.sampled_from(["__call__", "__call__", "__call__", "single", "once"]),
        kind=st.sampled_from(["good", "good", "good", "good", "fails", "kills", "hungry"]),
        timeout=st.sampled_from([0.5, 5.0, 1e6]),
        lent=st.booleans(),
    )
    def submit(self, gateway, rows, layout, method, kind, timeout, lent):
        """A caller asks."""
        if gateway in self.world.gone_gateways:
            return
        self.world.submit(
            rows,
            gateway=gateway,
            layout=layout,
            method=method,
            timeout=timeout,
            fails=kind == "fails",
            kills=kind == "kills",
            hungry=kind == "hungry",
            lent=lent,
        )

    @rule(kinds=st.lists(st.sampled_from(["good", "good", "fails", "kills", "hungry"]), max_size=6))
    def submit_many(self, kinds):
        """Several callers ask for one row each: what batches are made of."""
        for index, kind in enumerate(kinds):
            gateway = GATEWAYS[index % len(GATEWAYS)]
            if gateway not in self.world.gone_gateways:
                self.world.submit(
                    gateway=gateway,
                    fails=kind == "fails",
                    kills=kind == "kills",
                    hungry=kind == "hungry",
                    lent=index < 3,
                )

    @rule(gateway=st.sampled_from(GATEWAYS), requests=st.integers(1, 40), client=st.booleans())
    def ask_and_leave(self, gateway, requests, client):
        """Callers ask, and leave at once: what waits among them still waits."""
        if gateway not in self.world.gone_gateways:
            for number in range(requests):
                name = f"client-{number % 3}" if client else ""
                self.world.cancel(self.world.submit(gateway=gateway, client=name))

    def _worker(self, data, *, busy: bool) -> FakeWorker | None:
        choice = [
            worker
            for worker in self.world.workers.values()
            if worker.alive and not worker.stopped and (worker.held or not busy)
        ]
        return data.draw(st.sampled_from(choice)) if choice else None

    @rule(data=st.data())
    def finish(self, data):
        """A worker ends its running batch."""
        if (worker := self._worker(data, busy=True)) is not None:
            self.world.finish(worker)

    @rule(data=st.data())
    def repeat_a_reply(self, data):
        """An old answer comes again."""
        if (worker := self._worker(data, busy=False)) is not None and worker.old_replies:
            reply = data.draw(st.sampled_from(worker.old_replies))
            self.world.tell(worker.identity, reply)

    @rule(data=st.data())
    def kill(self, data):
        """A worker dies and is reaped."""
        if (worker := self._worker(data, busy=False)) is not None:
            self.world.kill(worker)

    @rule(data=st.data())
    def lose_connection(self, data):
        """A send to a worker fails; the supervisor kills it when it gets round to it."""
        if (worker := self._worker(data, busy=False)) is not None:
            self.world.lose_connection(worker)

    @rule(data=st.data())
    def stop(self, data):
        """SIGSTOP: a worker stands still, until it is found out."""
        if (worker := self._worker(data, busy=False)) is not None:
            worker.stopped = True

    @rule(data=st.data())
    def leave(self, data):
        """SIGTERM: a worker asks to go, and goes when it is told to."""
        if (worker := self._worker(data, busy=False)) is not None:
            self.world.leave(worker)

    @rule(data=st.data())
    def wear_out(self, data):
        """A worker wishes to be replaced; it serves on until its turn comes."""
        if (worker := self._worker(data, busy=False)) is not None:
            self.world.wish_to_leave(worker)

    @rule(data=st.data(), rows=st.integers(1, 3))
    def lose_memory(self, data, rows):
        """A device can hold only so many rows."""
        if (worker := self._worker(data, busy=False)) is not None:
            self.world.lose_memory(worker, rows)

    @rule(data=st.data(), rows=st.integers(1, 3), gateway=st.sampled_from(GATEWAYS))
    def find_a_limit(self, data, rows, gateway):
        """A device turns out to hold only so many rows: a full batch fails there, its parts fit."""
        worker = self._worker(data, busy=False)
        if worker is None or gateway in self.world.gone_gateways:
            return
        self.world.lose_memory(worker, rows)
        self.world.submit(self.world.bound, gateway=gateway)
        for _ in range(self.world.bound):
            if worker.alive and worker.held:
                self.world.finish(worker)

    @precondition(lambda self: self.world.fences)
    @rule()
    def obey_a_fence(self):
        """The supervisor reaps a fenced worker."""
        fence = self.world.fences.pop()
        for worker in self.world.workers.values():
            if worker.name == fence.worker and worker.alive:
                self.world.kill(worker, "fenced")

    @rule()
    def start_worker(self):
        """One more worker comes up."""
        if sum(worker.alive for worker in self.world.workers.values()) < 4:
            self.world.start_worker()

    @rule(data=st.data())
    def cancel(self, data):
        """A caller leaves."""
        if open_requests := self.world.open_requests():
            self.world.cancel(data.draw(st.sampled_from(open_requests)))

    @rule(data=st.data())
    def submit_again(self, data):
        """A gateway repeats a request that is still open."""
        if open_requests := self.world.open_requests():
            asked = data.draw(st.sampled_from(open_requests))
            self.world.tell(asked.gateway, p.Submit((asked.request,)))

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0]))
    def let_time_pass(self, seconds):
        """Deadlines pass in queues and in flight."""
        self.world.let_pass(seconds)

    @rule(gateway=st.sampled_from(GATEWAYS))
    def lose_gateway(self, gateway):
        """An api process dies, seldom the last one."""
        if not self.world.gone_gateways:
            self.world.lose_gateway(gateway)

    @rule()
    def restart_dispatcher(self):
        """A new epoch begins."""
        self.world.fences.clear()
        for worker in self.world.workers.values():
            worker.old_replies.clear()
        self.world.restart_dispatcher()

    @invariant()
    def status_is_plain_data(self):
        """A snapshot can be sent at any moment, and its counts are not negative."""
        for model in self.world.core.snapshot(self.world.now)["models"].values():
            for key in ("queued_requests", "queued_rows", "queued_bytes"):
                assert model[key] >= 0, f"{key} is {model[key]}"

    @invariant()
    def only_culprits_fail(self):
        """What fails as bad was bad, whatever it sat with."""
        for asked in self.world.asked.values():
            code = "" if asked.failure is None else asked.failure.code
            assert code != "model_error" or asked.fails, "an innocent request failed"
            if code == "out_of_memory" and asked.request.method == "__call__":
                assert asked.hungry, "a request failed for which there was memory"

    @invariant()
    def limits_are_those_of_memories(self):
        """A request for which no memory is enough takes nothing from those after it."""
        told = self.world.core.snapshot(self.world.now)["workers"]
        for worker in self.world.workers.values():
            limit = told.get(worker.name, {}).get("limit", self.world.bound)
            needed = min(self.world.bound, (worker.least + 2) // 2)
            assert limit >= needed, f"{limit} rows, though {worker.least} fit into memory"

    @invariant()
    def nothing_is_kept_of_what_is_over(self):
        """What the bounds of the queue count is all that the queue holds."""
        for model in self.world.core._models.values():
            for queue in model.queues.values():
                kept = queue._arrivals
                assert len(kept) <= 2 * queue.requests + SPARE, "requests pile up that are closed"
                for accepted in kept:
                    is_over = accepted.state in (RequestState.FAILED, RequestState.DROPPED)
                    assert not (is_over and accepted.request.bodies), "bodies are kept for nobody"

    def teardown(self):
        """In the end everybody who still waits has been answered."""
        world = self.world
        for _ in range(50):
            while world.fences:
                self.obey_a_fence()
            for worker in list(world.workers.values()):
                if worker.told_to_stop and worker.alive:
                    world.kill(worker, "exit code 0")
            ready = (w.alive and not w.stopped for w in world.workers.values())
            if not any(ready) or not world.open_requests():
                world.start_worker()
            world.finish_all()
            if not world.open_requests() and not any(w.held for w in world.workers.values()):
                break
            world.let_pass(10.0)
        self.only_culprits_fail()
        self.limits_are_those_of_memories()
        self.nothing_is_kept_of_what_is_over()
        assert not world.unreleased(), "shared memory is never free again"
        left = world.open_requests()
        assert not left, f"{len(left)} requests were lost: {left[:3]}"
        for model in world.core.snapshot(world.now)["models"].values():
            assert model["queued_requests"] == 0 and model["queued_bytes"] == 0
        for model in world.core._models.values():
            assert model.shares.active == 0 and model.shares.work == 0, "work is left in accounts"
            assert model.team.lying == 0, "batches are counted as staged"
            assert not any(model.team._devices.values()), "batches are counted as running"


SETTINGS = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)

LONG = settings(SETTINGS, max_examples=5000, derandomize=False)
"""With --long: other lives in each run. Without it they are the same, so that a change is judged by
what it changes."""


def test_every_accepted_request_gets_exactly_one_outcome_with_its_own_rows(
    request: pytest.FixtureRequest,
):
    """The invariant of the dispatcher."""
    chosen = LONG if request.config.getoption("--long") else SETTINGS
    run_state_machine_as_test(DispatcherMachine, settings=chosen)


# --- seeded faults: each must make the machine fail -----------------------------------------------


def dropped_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that nobody waits for are run all the same."""
    monkeypatch.setattr(Requests, "cancel", lambda self, gateway, ids: None)


def swapped_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of two gateways change places."""
    original = Outbox.take

    def take(self: Outbox) -> list:
        if len(self._blocks) == 2:
            (one, first), (two, second) = self._blocks.items()
            self._blocks = {one: second, two: first}
        return original(self)

    monkeypatch.setattr(Outbox, "take", take)


def double_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is sent twice."""
    original = Outbox.answer

    def answer(self: Outbox, gateway: bytes, block: p.Block) -> None:
        original(self, gateway, block)
        original(self, gateway, block)

    monkeypatch.setattr(Outbox, "answer", answer)


def one_row_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is off by one."""
    original = Queue.take

    def take(self: Queue, rows: int, *rest, most: int, **options) -> list[Piece]:
        return original(self, rows + 1, *rest, most=most + 1, **options)

    monkeypatch.setattr(Queue, "take", take)


def batch_of_a_dead_worker_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss is not followed by a re-run."""
    monkeypatch.setattr(
        Recovery, "take_back", lambda self, model, worker, reason: worker.batches.clear()
    )


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker presumed lost is not reaped before its batch runs elsewhere."""

    def fence(self: Roster, worker: Worker, reason: str) -> None:
        self.bury(worker.name, reason)

    monkeypatch.setattr(Roster, "fence", fence)


def expired_requests_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines are not looked at."""
    original = Queue.take

    def take(self: Queue, rows: int, now: float, *rest, **options) -> list[Piece]:
        return original(self, rows, -1, *rest, **options)

    monkeypatch.setattr(Queue, "take", take)


def suspects_in_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose worker died are run together again."""

    def take_back(self: Recovery, model, batch, pieces: list[Piece], reason: str) -> None:
        from tfrunner.dispatcher.batches import Rerun

        queue = model.queue_of(pieces[0].owner.request)
        queue.reruns.appendleft(Rerun(pieces, batch.attempt + 1))

    monkeypatch.setattr(Recovery, "_take_back_running", take_back)


def run_twice_though_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """`repeatable` is not looked at."""
    from tfrunner.dispatcher.models import Model

    monkeypatch.setattr(Model, "is_repeatable", lambda self, method: True)


def keys_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of different layouts share a queue."""
    from tfrunner.dispatcher.models import Model

    original = Model.queue_of

    def queue_of(self: Model, request: p.Request) -> Queue:
        return original(self, p.msgspec.structs.replace(request, layout=b""))

    monkeypatch.setattr(Model, "queue_of", queue_of)


def third_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are given more than they may hold."""
    monkeypatch.setattr(Worker, "has_free_credit", property(lambda self: self.is_ready))


def staged_behind_a_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspect takes its neighbour down with it."""
    monkeypatch.setattr(
        Worker, "has_free_credit", property(lambda w: w.is_ready and len(w.batches) == 1)
    )


def old_attempts_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply is taken for an answer to whatever runs now."""
    original = Roster.finish

    def finish(self: Roster, sender: bytes, message, now: float) -> None:
        worker = self._by_identity.get(sender)
        if worker is not None and worker.batches:
            batch = worker.batches[0]
            message = p.msgspec.structs.replace(message, batch=batch.id, attempt=batch.attempt)
        original(self, sender, message, now)

    monkeypatch.setattr(Roster, "finish", finish)
    monkeypatch.setattr(Batch, "is_answered_by", lambda self, blocks: True)


def failed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is told for every part of a request."""
    original = Outbox.fail

    def fail(self: Outbox, gateway: bytes, failure: p.Failure) -> None:
        original(self, gateway, failure)
        original(self, gateway, failure)

    monkeypatch.setattr(Outbox, "fail", fail)


def halves_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bisection runs one half twice and forgets the other."""
    monkeypatch.setattr(
        "tfrunner.dispatcher.recovery.halves", lambda pieces: (pieces[:1], pieces[:1])
    )


def worker_forgotten_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work waits although a worker has nothing to do."""
    monkeypatch.setattr(Assignment, "assign", lambda self, model, now: None)


def leaving_workers_given_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that asked to go is told to stop while it still holds a batch."""

    def let_go(self: Roster, sender: bytes, leave: p.Leave, now: float) -> None:
        self._out.to_backend(sender, p.Stop())

    monkeypatch.setattr(Roster, "let_go", let_go)


def hangs_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that stands still keeps its batch for ever."""
    monkeypatch.setattr(Roster, "fence_hung", lambda self, now: None)


def memory_limit_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are lost when a batch is cut for a smaller memory."""
    from tfrunner.dispatcher import recovery

    original = recovery.chunks
    monkeypatch.setattr(recovery, "chunks", lambda pieces, rows: original(pieces, rows)[:1])


def rows_lost_at_a_known_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are lost when a batch is cut for a memory that is known to be small."""
    from tfrunner.dispatcher import assignment

    original = assignment.chunks
    monkeypatch.setattr(assignment, "chunks", lambda pieces, rows: original(pieces, rows)[:1])


def limit_lowered_for_a_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not fit lowers the limit, whatever becomes of its parts."""
    original = Recovery._shrink

    def shrink(self: Recovery, model, worker: Worker, batch: Batch, pieces) -> bool:
        can_be_cut = original(self, model, worker, batch, pieces)
        if can_be_cut:
            method = batch.pieces[0].owner.request.method
            worker.limits[method] = min(worker.limits.get(method, 10**9), batch.rows // 2)
        return can_be_cut

    monkeypatch.setattr(Recovery, "_shrink", shrink)


def culprits_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sits with a culprit in a half that fails too fails with it."""
    original = Recovery.isolate

    def isolate(self: Recovery, model, worker: Worker, batch: Batch, failed) -> None:
        if not batch.halved:
            return original(self, model, worker, batch, failed)
        batch.move("fail")
        return self._fail_all([piece for piece in batch.pieces if piece.owner.is_open], failed)

    monkeypatch.setattr(Recovery, "isolate", isolate)


def bodies_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for any more keeps its bodies, which nothing counts."""
    monkeypatch.setattr(Accepted, "drop_bodies", lambda self: None)


def closed_requests_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues let go of nothing that was withdrawn behind one that waits."""
    monkeypatch.setattr(Queue, "_tidy", lambda self: None)


def waiting_requests_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those that were withdrawn one is let go that waits."""
    original = Line.tidy

    def tidy(self: Line) -> None:
        original(self)
        if self._row:
            self._row.popleft()

    monkeypatch.setattr(Line, "tidy", tidy)


def released_at_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared memory is used again as soon as nobody waits, though a worker still reads it."""

    def release(self: Requests, accepted: Accepted) -> None:
        if accepted.is_lent and not accepted.is_open:
            self._out.release(accepted.gateway, accepted.request.id)
            accepted.is_lent = False

    monkeypatch.setattr(Requests, "_release", release)


def released_before_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that shall be killed counts as dead before it is reaped."""
    original = Roster.fence

    def fence(self: Roster, worker: Worker, reason: str) -> None:
        for batch in worker.batches:
            self._requests.let_go(batch)
        original(self, worker, reason)

    monkeypatch.setattr(Roster, "fence", fence)


def never_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran is held for ever: after a while there is no room."""
    monkeypatch.setattr(Requests, "let_go", lambda self, batch: None)


def held_by_dead_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker held when it was reaped counts as held by it, and by the next one."""
    original = Recovery.take_back

    def take_back(self: Recovery, model, worker: Worker, reason: str) -> None:
        for batch in worker.batches:
            self._requests.hold(batch)
        original(self, model, worker, reason)

    monkeypatch.setattr(Recovery, "take_back", take_back)


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    dropped_cancel,
    swapped_rows,
    double_reply,
    one_row_too_many,
    batch_of_a_dead_worker_forgotten,
    no_fence,
    expired_requests_assigned,
    suspects_in_company,
    run_twice_though_forbidden,
    keys_merged,
    third_credit,
    staged_behind_a_suspect,
    old_attempts_believed,
    failed_twice,
    halves_overlap,
    worker_forgotten_when_idle,
    leaving_workers_given_work,
    hangs_not_noticed,
    memory_limit_forgotten,
    rows_lost_at_a_known_limit,
    limit_lowered_for_a_culprit,
    culprits_counted,
    bodies_kept,
    closed_requests_kept,
    waiting_requests_let_go,
    released_at_timeout,
    released_before_the_fence,
    never_released,
    held_by_dead_workers,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_invariant_finds_a_seeded_fault(fault, monkeypatch):
    """A check that cannot fail proves nothing: each fault must be found.

    The rarest takes a hundred lives on average. Which are drawn depends on the versions of Python
    and Hypothesis, so it may take many more.
    """
    fault(monkeypatch)
    found = settings(
        SETTINGS, max_examples=5000, derandomize=True, phases=[Phase.generate], database=None
    )
    with pytest.raises((AssertionError, RuntimeError, KeyError, IndexError)):
        run_state_machine_as_test(DispatcherMachine, settings=found)
