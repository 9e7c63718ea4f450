"""Which requests share a batch, and which are refused, expire or are cancelled, in virtual time."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, only_worker
from tfrunner import protocol as p

# --- batching -------------------------------------------------------------------------------------


def test_a_lone_request_leaves_in_the_step_it_came_in():
    """No batch timeout stands in the way of an idle worker."""
    world = World()
    world.submit()
    assert world.sizes == [1]


def test_requests_that_arrive_while_a_worker_is_busy_share_its_next_batch():
    """Late binding: who sits with whom is decided when a credit is free."""
    world = World(bound=8)
    world.submit()
    for gateway in (b"a", b"b", b"a"):
        world.submit(gateway=gateway)
    assert world.sizes == [1]
    world.finish(only_worker(world))
    assert world.sizes == [1, 3]
    world.finish_all()
    assert not world.open_requests()


def test_the_row_bound_is_exact():
    """Sizes are rows, not requests; a request that does not fit waits whole."""
    world = World(bound=8)
    world.submit()
    world.submit(5)
    world.submit(3)
    world.submit(1)
    world.finish_all()
    assert world.sizes == [1, 8, 1]


def test_a_request_of_exactly_the_bound_runs_and_so_does_one_of_no_rows():
    """Two edges that other dispatchers never dispatch."""
    world = World(bound=8)
    full, empty = world.submit(8), world.submit(0)
    world.finish_all()
    assert full.is_answered and empty.is_answered
    assert sorted(world.sizes) == [0, 8]


def test_a_request_larger_than_the_bound_is_cut_and_spread_over_idle_workers():
    """Row ranges: 20 rows at a bound of 8 are 8 + 8 + 4, on three workers at once."""
    world = World(bound=8, workers=3)
    big = world.submit(20)
    assert sorted(world.sizes) == [4, 8, 8]
    assert all(len(worker.held) == 1 for worker in world.workers.values())
    world.finish_all()
    assert big.is_answered


def test_the_rest_of_an_oversize_request_shares_its_batch_with_others():
    """Rows that are left over do not waste a batch."""
    world = World(bound=8)
    world.submit(10)
    world.submit(3)
    world.finish_all()
    assert world.sizes == [8, 5]


def test_other_shapes_do_not_block_each_other():
    """A, B, A, B ... x 16 in two layouts are two batches, not sixteen."""
    world = World(bound=64)
    world.submit()
    for index in range(16):
        world.submit(layout=b"AB"[index % 2 : index % 2 + 1])
    world.finish_all()
    assert world.sizes == [1, 8, 8]


def test_methods_that_are_not_batchable_get_exactly_their_input():
    """Each request of such a method is a batch of its own, whatever its rows."""
    world = World(bound=2)
    world.submit(5, method="single")
    world.submit(7, method="single")
    world.finish_all()
    assert world.sizes == [5, 7]


def test_a_full_batch_is_staged_and_a_smaller_one_stays_open():
    """Two credits: what cannot grow goes out early, what can grow waits for `done`."""
    world = World(bound=4)
    world.submit(4)
    world.submit(3)
    assert len(only_worker(world).held) == 1
    world.submit(1)
    assert len(only_worker(world).held) == 2
    world.submit(4)
    assert len(only_worker(world).held) == 2, "no third batch"
    world.finish_all()
    assert world.sizes == [4, 4, 4]


def test_hold_starts_when_so_many_requests_wait():
    """The switch for exact batch tests."""
    world = World(bound=64, hold=3)
    world.submit()
    world.submit()
    assert world.sizes == []
    world.submit()
    assert world.sizes == [3]
    world.finish_all()
    world.submit()
    assert world.sizes == [3]


def test_requests_wait_for_a_worker_that_is_still_loading():
    """Nothing is refused because the model is not warm yet."""
    world = World(workers=0)
    asked = world.submit()
    world.start_worker()
    world.finish_all()
    assert asked.is_answered


# --- refusing, expiring, cancelling ---------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"queue_requests": 2}, {"queue_bytes": 8}], ids=["requests", "bytes"]
)
def test_a_full_queue_refuses_at_once_with_a_reason_and_a_time(limits):
    """503 on arrival; what was accepted is answered."""
    world = World(workers=0, **limits)
    asked = [world.submit() for _ in range(3)]
    assert [a.failure and a.failure.code for a in asked] == [None, None, "overloaded"]
    assert asked[2].failure.retry_after >= 0.1
    world.start_worker()
    world.finish_all()
    assert [a.is_answered for a in asked] == [True, True, False]


def test_room_comes_back_when_requests_leave_the_queue():
    """Answered, cancelled and expired requests all make room."""
    world = World(workers=0, queue_requests=2)
    first, _ = world.submit(), world.submit(timeout=1.0)
    world.cancel(first)
    assert world.submit().failure is None
    world.now = 2.0
    world.start_worker()
    world.finish_all()
    assert world.core.snapshot(world.now)["models"][MODEL]["queued_requests"] == 0
    assert world.core.snapshot(world.now)["models"][MODEL]["queued_bytes"] == 0


def test_an_unknown_model_is_not_found_and_what_is_served_is_named():
    """The caller learns what exists."""
    world = World()
    request = p.Request(1, "other:1", "__call__", b"L", 1, 1.0, "", (b"x",))
    world.core.handle(b"g", p.Submit((request,)), 0.0)
    (send,) = world.core.step(0.0)
    (failure,) = send.message.failures
    assert failure.code == "not_found" and MODEL in failure.message


def test_nothing_expired_is_assigned_and_its_gateway_answers_it():
    """The dispatcher is silent about it: the gateway's own timer says 504."""
    world = World()
    world.submit()
    late = world.submit(timeout=1.0)
    world.now = 1.5
    world.finish_all()
    assert world.sizes == [1] and late.failure is None and not late.rows_back


def test_a_cancelled_request_is_not_run():
    """Queued work of a caller who left is dropped."""
    world = World()
    world.submit()
    gone, stays = world.submit(), world.submit()
    world.cancel(gone)
    world.finish_all()
    assert world.sizes == [1, 1] and stays.is_answered and not gone.rows_back


def test_work_of_a_lost_gateway_is_dropped():
    """An api process that died leaves no orphans in the queue."""
    world = World()
    world.submit(gateway=b"a")
    world.submit(gateway=b"a")
    other = world.submit(gateway=b"b")
    world.lose_gateway(b"a")
    world.finish_all()
    assert world.sizes == [1, 1] and other.is_answered


def test_a_silent_gateway_is_sent_something_so_that_its_loss_is_noticed():
    """ZeroMQ tells a ROUTER nothing when a peer goes; a send that fails does."""
    world = World(workers=0)
    world.submit(gateway=b"quiet")
    wakeup = world.core.next_wakeup()
    assert wakeup is not None
    sends = world.core.step(wakeup)
    assert [(s.peer, type(s.message)) for s in sends] == [(b"quiet", p.Welcome)]
    world.cancel(world.asked[b"quiet", 1])
    assert world.core.next_wakeup() is None


def test_a_draining_dispatcher_refuses_what_is_new_and_answers_what_it_has():
    """503 with Retry-After after Drain."""
    world = World()
    before = world.submit()
    world.tell(b"supervisor", p.Drain())
    after = world.submit()
    world.finish_all()
    assert before.is_answered and after.failure.code == "unavailable"
