"""Batches that fail, and workers that are lost with one, in virtual time."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, only_worker
from tfrunner import protocol as p
from tfrunner.dispatcher.outbox import PeerGone

# --- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("culprit", [0, 13, 31])
def test_one_bad_request_among_32_fails_alone(culprit):
    """A failed batch is run again in halves; 31 neighbours get their rows."""
    world = World(bound=32, workers=0)
    asked = [world.submit(fails=index == culprit) for index in range(32)]
    world.start_worker()
    world.finish_all()
    assert [a.failure is not None for a in asked] == [i == culprit for i in range(32)]
    assert asked[culprit].failure.code == "model_error"
    assert len(world.sizes) <= 1 + 2 * 5


def test_a_model_that_always_fails_costs_a_bounded_number_of_runs():
    """Halves down to one request are 2 n - 1 runs, the first one counted; each fails by itself."""
    world = World(bound=64, workers=0)
    asked = [world.submit(fails=True) for _ in range(64)]
    world.start_worker()
    world.finish_all()
    assert all(a.failure.code == "model_error" for a in asked)
    assert len(world.sizes) == 2 * 64 - 1


def test_new_requests_wait_behind_a_bisection_and_are_not_drawn_into_it():
    """Re-runs go first and keep to themselves; full batches are not staged in their way."""
    world = World(bound=4, workers=0)
    bad = [world.submit(fails=index == 0) for index in range(4)]
    world.start_worker()
    fresh = [world.submit() for _ in range(8)]
    world.finish_all()
    assert [a.failure is not None for a in bad] == [True, False, False, False]
    assert all(a.is_answered for a in fresh)


def test_one_part_of_an_oversize_request_fails_and_the_request_fails_once():
    """Rows that are not sent yet are dropped."""
    world = World(bound=4)
    big = world.submit(16, fails=True)
    world.finish_all()
    assert big.failure.code == "model_error"
    assert len(world.sizes) <= 3


def test_a_worker_that_answers_other_rows_than_it_was_given_is_not_believed():
    """No caller ever gets another's rows, even from a broken worker."""
    world = World()
    asked = world.submit(2)
    worker = only_worker(world)
    message = worker.held.pop()
    (group,) = message.groups
    wrong = p.Block((p.Span(asked.request.id, 0, 1, 2),), b"out", (b"g:1:0",))
    done = p.BatchDone(message.batch, message.attempt, 0.0, (p.BlockFor(group.gateway, wrong),))
    world.tell(worker.identity, done)
    assert asked.failure.code == "internal" and not asked.rows_back


# --- losing workers -------------------------------------------------------------------------------


def test_a_lost_workers_batch_runs_again_elsewhere():
    """A death is invisible to callers."""
    world = World(bound=8, workers=2)
    asked = [world.submit() for _ in range(2)]
    asked += [world.submit() for _ in range(4)]
    world.kill(next(worker for worker in world.workers.values() if worker.held))
    world.finish_all()
    assert all(a.is_answered for a in asked)


def test_a_death_in_company_makes_every_request_run_again_alone():
    """Suspects are run one by one, with nothing staged behind them; none is poison."""
    world = World(bound=8, workers=0)
    asked = [world.submit() for _ in range(4)]
    worker = world.start_worker()
    world.kill(worker)
    world.start_worker()
    world.finish_all()
    assert world.sizes == [4, 1, 1, 1, 1]
    assert all(a.is_answered for a in asked)


def test_only_a_second_death_while_alone_makes_a_request_poison():
    """A killer among many costs two workers, and only itself fails."""
    world = World(bound=64, workers=0)
    asked = [world.submit(kills=index == 7) for index in range(20)]
    world.start_worker()
    world.finish_all()
    assert world.started == 3, "two workers died"
    assert [a.failure is not None for a in asked] == [i == 7 for i in range(20)]
    assert asked[7].failure.code == "poison_request"


def test_an_innocent_lone_request_survives_the_death_of_its_worker():
    """A worker killed by hand does not make the request it ran poison."""
    world = World(workers=2)
    asked = world.submit()
    world.kill(next(worker for worker in world.workers.values() if worker.held))
    world.finish_all()
    assert asked.is_answered


def test_a_staged_batch_of_a_dead_worker_returns_unmarked():
    """Only what was running is suspect."""
    world = World(bound=4)
    running, staged = world.submit(4), world.submit(4)
    world.kill(only_worker(world))
    world.start_worker()
    world.finish_all()
    assert running.is_answered and staged.is_answered
    assert world.core.snapshot(0.0)["models"][MODEL]["requeued"] == 1


def test_a_method_that_must_not_run_twice_fails_with_its_worker():
    """503 with the reason, once it was started; before that it runs elsewhere."""
    world = World()
    started, waiting = world.submit(method="once"), world.submit(method="once")
    worker = only_worker(world)
    assert len(worker.held) == 1, "nothing that must not run twice is staged"
    world.kill(worker)
    assert started.failure.code == "worker_lost" and "once" in started.failure.message
    world.start_worker()
    world.finish_all()
    assert waiting.is_answered


def test_a_worker_that_cannot_be_reached_is_fenced_before_its_batch_runs_elsewhere():
    """Kill and reap, then re-run: two processes never hold the same rows."""
    world = World(workers=1)
    asked = world.submit()
    worker = only_worker(world)
    world.lose_connection(worker)
    assert [fence.worker for fence in world.fences] == [worker.name]
    spare = world.start_worker()
    assert spare.held == [], "the first worker is not reaped yet"
    world.kill(worker, "fenced")
    world.finish_all()
    assert asked.is_answered


def test_a_fence_is_asked_for_again_when_a_supervisor_comes():
    """A supervisor that was away does not leave a batch behind a fence for ever."""
    world = World()
    world.submit()
    world.tell(b"supervisor", PeerGone("backend"))
    world.lose_connection(only_worker(world))
    assert world.fences == []
    world.tell(b"supervisor-2", p.SupervisorHello("supervisor-2"))
    assert len(world.fences) == 1


def test_replies_to_an_earlier_attempt_are_dropped():
    """A late or repeated answer changes nothing."""
    world = World()
    world.submit()
    worker = only_worker(world)
    world.finish(worker)
    second = world.submit()
    world.tell(worker.identity, worker.old_replies[0])
    assert not second.rows_back
    world.finish_all()
    assert second.is_answered
    assert world.core.snapshot(0.0)["models"][MODEL]["late"] == 1


def test_a_hello_of_a_reaped_worker_is_ignored():
    """What was in flight when it died brings nobody back."""
    world = World()
    worker = only_worker(world)
    world.kill(worker)
    world.announce(worker)
    asked = world.submit()
    assert not worker.held and not asked.rows_back


def test_a_request_that_is_sent_again_while_open_counts_once():
    """A gateway that reconnects may repeat itself."""
    world = World(workers=0)
    asked = world.submit()
    world.tell(b"g", p.Submit((asked.request,)))
    world.start_worker()
    world.finish_all()
    assert world.sizes == [1] and asked.is_answered
