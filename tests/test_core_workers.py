"""When a worker counts as hung, and what an earlier trouble of another one means for callers."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, only_worker
from tfrunner import protocol as p


def world_of(*methods: str) -> World:
    """Return a world whose worker has these methods."""
    world = World(workers=0)
    world.methods = tuple(p.MethodState(name, True, True) for name in methods)
    world.start_worker()
    return world


def run(world: World, method: str, seconds: float, *, times: int = 1) -> None:
    """Let a method run so often, each time for so long."""
    for _ in range(times):
        world.submit(method=method, layout=method.encode())
        world.let_pass(seconds)
        world.finish(only_worker(world), seconds)


def test_a_slow_method_is_given_its_time_beside_a_fast_one():
    """300 fast calls say nothing of it: a short timeout ends no worker."""
    world = world_of("fast", "slow")
    run(world, "slow", 9.0)
    run(world, "fast", 0.001, times=300)
    world.submit(method="slow", layout=b"slow", timeout=2.0)
    world.let_pass(60.0)
    assert world.fences == []
    world.let_pass(400.0)
    assert len(world.fences) == 1, "20 times what it usually takes"


def test_a_method_that_never_ran_is_given_half_a_minute():
    """Nothing is known of it, however much is of others."""
    world = world_of("fast", "slow")
    run(world, "fast", 0.001, times=300)
    world.submit(method="slow", layout=b"slow", timeout=2.0)
    world.let_pass(29.0)
    assert world.fences == []
    world.let_pass(3.0)
    assert len(world.fences) == 1


def test_a_worker_that_stands_still_is_found_out_however_slow_the_model_is():
    """Runs of more than a minute are beyond every bucket, yet there is an end."""
    world = World()
    for _ in range(3):
        world.submit()
        world.let_pass(70.0)
        world.finish(only_worker(world), 70.0)
    world.submit(timeout=1e5)
    only_worker(world).stopped = True
    world.let_pass(600.0)
    assert world.fences == []
    world.let_pass(4000.0)
    assert len(world.fences) == 1


def loads(world: World) -> p.WorkerHello:
    """Let a worker say that it loads; return what it says."""
    hello = p.WorkerHello("late", f"epoch-{world.epoch}", MODEL, 1, "cpu", False, ())
    world.tell(b"late", hello)
    return hello


def test_a_loading_worker_without_a_sign_of_life_is_fenced():
    """SIGSTOP while it imports: nobody would ever take its place."""
    world = World(workers=0)
    loads(world)
    world.let_pass(25.0)
    assert world.fences == [], "an import may hold the interpreter for long"
    world.let_pass(10.0)
    assert [fence.worker for fence in world.fences] == ["late"]
    assert "no sign of life" in world.fences[0].reason


def test_a_loading_worker_that_says_hello_may_take_its_time():
    """Large models load for minutes."""
    world = World(workers=0)
    for _ in range(600):
        loads(world)
        world.let_pass(0.5)
    assert world.fences == []


@pytest.mark.parametrize("end", ["killed", "fenced", "left"])
def test_an_earlier_load_error_does_not_spoil_the_restart_of_a_healthy_worker(end):
    """Requests wait for its successor, as if the other one had never been."""
    world = World()
    worker = only_worker(world)
    error = p.WorkerHello("other", "epoch-1", MODEL, 2, "cpu", False, (), "no memory just now")
    world.tell(b"other", error)
    assert world.core.snapshot(0.0)["models"][MODEL]["reason"] == "no memory just now"
    {"killed": world.kill, "fenced": world.lose_connection, "left": world.leave}[end](worker)
    asked = world.submit()
    assert asked.failure is None
    world.start_worker()
    world.finish_all()
    assert asked.is_answered


def test_a_load_error_after_the_last_worker_is_gone_is_said_at_once():
    """Then nobody serves, and the reason is the latest."""
    world = World()
    world.kill(only_worker(world))
    waiting = world.submit()
    error = p.WorkerHello("other", "epoch-1", MODEL, 2, "cpu", False, (), "no such folder")
    world.tell(b"other", error)
    assert waiting.failure is not None and "no such folder" in waiting.failure.message


def test_the_snapshot_counts_what_is_owed_also_what_waits_to_be_run_again():
    """A drain is over when nothing is owed, not when the queues are empty."""
    world = World()
    world.submit()
    world.kill(only_worker(world))
    state = world.core.snapshot(world.now)
    assert state["models"][MODEL]["queued_requests"] == 0
    assert state["open_requests"] == 1
    world.start_worker()
    world.finish_all()
    assert world.core.snapshot(world.now)["open_requests"] == 0


def test_nobody_is_fenced_for_a_standstill_of_the_dispatcher_itself():
    """SIGSTOP of everything, or a suspended machine: all workers went on where they were."""
    world = World(workers=2)
    asked = world.submit()
    world.now += 60.0
    world.step()
    world.let_pass(2.0)
    assert not world.fences
    world.finish_all()
    assert asked.is_answered


def test_a_worker_that_stays_silent_after_the_standstill_is_fenced():
    """It has as long as after any hello."""
    world = World(workers=2)
    world.submit()
    (busy,) = [worker for worker in world.workers.values() if worker.held]
    world.let_pass(10.0)
    busy.stopped = True
    world.now += 60.0
    world.step()
    assert not world.fences
    world.let_pass(10.0)
    assert [fence.worker for fence in world.fences] == [busy.name]
