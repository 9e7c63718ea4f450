"""Refusing at once what would wait beyond its deadline, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.dispatch_world import World, outputs
from tfrunner import protocol as p
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.costs import CostTable
from tfrunner.dispatcher.flows import Shares
from tfrunner.dispatcher.forecast import REFRESH, Forecast, Lately
from tfrunner.dispatcher.workers import Team


def finish(world: World, seconds: float) -> None:
    """Let the first worker end its running batch, which took so long."""
    worker = next(iter(world.workers.values()))
    message = worker.held.pop(0)
    done = p.BatchDone(message.batch, message.attempt, seconds, outputs(message))
    world.tell(worker.identity, done)


def taught(seconds: float, *, bound: int = 1) -> World:
    """Return a world that has seen some batches take so long."""
    world = World(bound=bound)
    for _ in range(5):
        world.submit()
        finish(world, seconds)
    return world


def fill(world: World, requests: int) -> None:
    """Let so many requests wait, with one running and one staged before them."""
    for _ in range(requests + 2):
        world.submit()


def test_a_request_that_would_wait_beyond_its_deadline_is_refused_at_once():
    """With a reason and a hint when to try again; one with more time is taken."""
    world = taught(1.0)
    fill(world, 10)
    refused, taken = world.submit(timeout=10.0), world.submit(timeout=100.0)
    assert refused.failure is not None and refused.failure.code == "overloaded"
    assert "10 s" in refused.failure.message
    assert refused.failure.retry_after == 10.0
    assert taken.failure is None
    assert world.core.snapshot(world.now)["models"]["m:1"]["refused"] == {"deadline": 1}


def test_nothing_is_refused_while_nothing_waits():
    """However slow the model seems: what a batch takes is learned from those that run."""
    world = taught(1000.0)
    assert world.submit(timeout=1.0).failure is None


def test_batches_are_counted_not_requests():
    """Eight rows share a batch: eighty waiting ones are ten batches."""
    world = taught(1.0, bound=8)
    fill(world, 80)
    assert world.submit(timeout=20.0).failure is None
    assert world.submit(timeout=10.0).failure is not None


def test_one_long_batch_changes_little():
    """An outlier must not make the server refuse what it can do."""
    world = taught(1.0)
    world.submit()
    finish(world, 1000.0)
    fill(world, 5)
    assert world.submit(timeout=20.0).failure is None


def test_a_server_without_ready_workers_refuses_nothing_for_its_deadline():
    """Nobody knows when a worker will be back: its requests wait, and are sent again."""
    world = taught(1.0)
    fill(world, 10)
    (worker,) = world.workers.values()
    world.kill(worker)
    assert world.submit(timeout=1.0).failure is None


def test_a_burst_that_an_idle_worker_takes_at_once_is_not_refused():
    """Requests of one message wait only for the end of their step."""
    world = taught(1.0, bound=8)
    requests = tuple(
        p.Request(100 + number, "m:1", "__call__", b"L", 1, 1.5, "", (b"g:%d" % (100 + number),))
        for number in range(8)
    )
    world.core.handle(b"g", p.Submit(requests), world.now)
    (send,) = world.core.step(world.now)
    assert isinstance(send.message, p.RunBatch) and send.message.rows == 8


def test_of_devices_of_two_speeds_the_faster_decides_who_is_in_time():
    """What a row costs is the mean over both: they share the work by their speeds."""
    fast, slow = CostTable(), CostTable()
    fast.seed([(1, 0.002), (64, 0.010)])
    slow.seed([(1, 0.004), (64, 0.020)])
    lately = Lately(slow, 64)
    for table in (fast, slow) * REFRESH:
        lately.note(table, table.predict(64))
    assert lately.costs is fast
    assert lately.full_seconds == pytest.approx(0.010)
    assert lately.row_seconds == pytest.approx(0.015 / 64)
    assert lately.slowness == pytest.approx(1.5)


def test_rows_that_come_at_one_moment_are_counted():
    """Salvos of ten."""
    forecast = Forecast(Team(Counter()), Shares())
    for moment in range(100):
        for number in range(10):
            request = p.Request(number, "m:1", "__call__", b"L", 1, 1.0, "", (b"",))
            forecast.expect(Accepted(b"g", request, 1.0 + moment))
    assert forecast.together == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize("bound", [1, 8])
def test_each_batch_key_is_expected_to_take_what_its_own_batches_take(bound):
    """Small shapes are not refused because large ones of the same method take 200 times as long."""
    seconds = {b"large": 2.0, b"small": 0.01}
    world = World(bound=bound)
    for index in range(40):
        layout = b"large" if index % 2 else b"small"
        world.submit(layout=layout)
        finish(world, seconds[layout])
        world.now += 2.5
    world.submit(layout=b"large")
    small = [world.submit(layout=b"small", timeout=5.0) for _ in range(100)]
    assert not [each for each in small if each.failure], "a second of work in all"
    large = [world.submit(layout=b"large", timeout=20.0) for _ in range(20 * bound)]
    assert any(each.failure for each in large), "40 seconds of work"
