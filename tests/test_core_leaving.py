"""Workers that hang, leave, lack memory or are worn out, in virtual time."""

from __future__ import annotations

from tests.dispatch_world import MODEL, World, only_worker, outputs
from tfrunner import protocol as p

# --- hanging, leaving, shrinking ------------------------------------------------------------------


def warm_up(world: World) -> None:
    """Let the dispatcher learn what a run takes: 1 ms."""
    for _ in range(3):
        world.submit()
        world.finish_all()


def test_a_worker_that_stands_still_in_mid_batch_is_fenced_and_its_batch_runs_again():
    """SIGSTOP: no result and no hello; killed and reaped first, then run elsewhere."""
    world = World()
    warm_up(world)
    asked = world.submit()
    worker = only_worker(world)
    worker.stopped = True
    world.let_pass(4.0)
    assert world.fences == [], "5 seconds are given"
    world.let_pass(2.5)
    assert [fence.worker for fence in world.fences] == [worker.name]
    spare = world.start_worker()
    assert not spare.held
    world.kill(worker, "fenced")
    world.finish_all()
    assert asked.is_answered


def test_a_slow_run_with_a_beating_heart_is_left_alone_while_somebody_waits():
    """A first run that compiles may take long."""
    world = World()
    warm_up(world)
    asked = world.submit()
    only_worker(world).stuck = True
    world.let_pass(500.0)
    assert world.fences == []
    only_worker(world).stuck = False
    world.finish_all()
    assert asked.is_answered


def test_a_model_that_does_not_return_is_fenced_when_every_deadline_has_passed():
    """Its hellos go on, but nobody waits any more."""
    world = World()
    warm_up(world)
    world.submit(timeout=10.0)
    only_worker(world).stuck = True
    world.let_pass(9.0)
    assert world.fences == []
    world.let_pass(3.0)
    assert len(world.fences) == 1


def test_short_timeouts_on_a_slow_model_end_no_worker():
    """20 times the model's p99 are given, whatever callers ask for."""
    world = World()
    worker = only_worker(world)
    message = world.submit() and worker.held.pop()
    done = p.BatchDone(message.batch, message.attempt, 5.0, outputs(message))
    world.tell(worker.identity, done)
    world.submit(timeout=0.1)
    worker.stuck = True
    world.let_pass(90.0)
    assert world.fences == []


def test_an_idle_worker_without_a_sign_of_life_is_fenced():
    """It would only be found out by the next request otherwise."""
    world = World()
    only_worker(world).stopped = True
    world.let_pass(7.0)
    assert len(world.fences) == 1


def test_a_worker_that_leaves_finishes_what_it_holds_and_is_then_told_to_stop():
    """SIGTERM to one worker: nothing is lost, nothing new is given."""
    world = World(bound=4)
    running, staged, later = world.submit(4), world.submit(4), world.submit(4)
    worker = only_worker(world)
    world.leave(worker)
    world.leave(worker)
    assert not worker.told_to_stop
    world.finish(worker)
    assert len(worker.held) == 1, "nothing new is given"
    world.finish(worker)
    assert worker.told_to_stop and running.is_answered and staged.is_answered
    world.start_worker()
    world.finish_all()
    assert later.is_answered


def test_an_idle_worker_that_leaves_is_told_to_stop_at_once():
    """Also one that is still loading, and one that nobody knows."""
    world = World()
    worker = only_worker(world)
    world.leave(worker)
    assert worker.told_to_stop
    world.core.handle(b"stranger", p.Leave("signal 15"), 0.0)
    assert [s.message for s in world.core.step(0.0) if s.peer == b"stranger"] == [p.Stop()]


def test_a_batch_that_does_not_fit_into_memory_is_run_in_smaller_ones():
    """The worker's limit is lowered for good; no caller notices."""
    world = World(bound=16, workers=0)
    asked = [world.submit(2) for _ in range(7)] + [world.submit(2)]
    worker = world.start_worker()
    worker.memory = 5
    world.finish_all()
    assert all(a.is_answered for a in asked)
    assert world.sizes == [16, 8, 4, 4, 4, 4]
    more = world.submit(10)
    world.finish_all()
    assert more.is_answered and max(world.sizes[6:]) == 4
    assert world.core.snapshot(0.0)["workers"][worker.name]["limit"] == 4


def test_a_row_that_no_memory_holds_fails_with_its_name():
    """One row is the end of making smaller."""
    world = World()
    only_worker(world).memory = 0
    asked = world.submit()
    world.finish_all()
    assert asked.failure.code == "out_of_memory"


# --- worn workers --------------------------------------------------------------------------------


def test_one_worn_worker_of_a_model_leaves_at_a_time():
    """The second one serves on, and may go once the first one's successor is ready."""
    world = World(workers=2)
    first, second = world.workers.values()
    for worker in (first, second):
        world.wish_to_leave(worker)
    assert (first.told_to_stop, second.told_to_stop) == (True, False)
    world.kill(first, "exit code 0")
    world.wish_to_leave(second)
    assert not second.told_to_stop
    asked = world.submit()
    assert second.held and asked.failure is None
    world.finish_all()
    world.start_worker()
    world.wish_to_leave(second)
    assert second.told_to_stop


def test_the_worker_that_has_wished_for_longest_leaves_first():
    """Else one that wears out faster than others ask would leave each time, and they never."""
    world = World(workers=2)
    fast, patient = world.workers.values()
    world.wish_to_leave(fast)
    world.wish_to_leave(patient)
    world.kill(fast, "exit code 0")
    fast = world.start_worker()
    world.let_pass(0.1)
    world.wish_to_leave(fast)
    assert not fast.told_to_stop
    world.wish_to_leave(patient)
    assert patient.told_to_stop
    world.kill(patient, "exit code 0")
    world.start_worker()
    world.wish_to_leave(fast)
    assert fast.told_to_stop


def test_a_worn_worker_does_not_wait_for_ever_for_one_that_never_comes():
    """After a minute it may leave although another one of its model is missing."""
    world = World(workers=2)
    lost, worn = world.workers.values()
    world.kill(lost)
    world.wish_to_leave(worn)
    world.let_pass(50.0)
    world.announce(worn)
    world.wish_to_leave(worn)
    assert not worn.told_to_stop
    world.let_pass(11.0)
    world.wish_to_leave(worn)
    assert worn.told_to_stop


def test_worn_workers_leave_one_a_minute_while_nobody_comes_after_them():
    """Not all of those that have wished for a minute at once."""
    world = World(workers=4)
    workers = list(world.workers.values())
    left: list[float] = []
    while world.now < 200.0:
        for worker in workers:
            if not worker.told_to_stop:
                world.announce(worker)
                world.wish_to_leave(worker)
        if sum(worker.told_to_stop for worker in workers) > len(left):
            left.append(world.now)
        world.now += 0.5
    assert left == [0.0, 60.5, 121.0, 181.5]


def test_a_wish_of_a_worker_that_is_not_ready_changes_nothing():
    """A new dispatcher knows none of its workers yet: all of them would be told to stop."""
    world = World(workers=3)
    workers = list(world.workers.values())
    world.core = world._new_core()
    for worker in workers:
        hello = p.WorkerHello(worker.name, "epoch-1", MODEL, 1, "cpu", True, methods=world.methods)
        world.tell(worker.identity, hello)
        world.wish_to_leave(worker)
    assert not any(worker.told_to_stop for worker in workers)
    for worker in workers:
        world.announce(worker)
    world.wish_to_leave(workers[0])
    assert workers[0].told_to_stop


def test_a_signal_is_no_wish_and_waits_for_no_turn():
    """The end of the server, or an operator."""
    world = World(workers=2)
    for worker in list(world.workers.values()):
        world.leave(worker)
        assert worker.told_to_stop
