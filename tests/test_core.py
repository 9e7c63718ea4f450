"""The dispatcher's rules, one story each, in virtual time: no process, no socket, no waiting."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, outputs
from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.outbox import PeerGone
from tfrunner.dispatcher.predictive import Predictive
from tfrunner.dispatcher.states import REQUEST_MOVES, RequestState, move


def only_worker(world: World):
    """Return the one worker."""
    (worker,) = (worker for worker in world.workers.values() if worker.alive)
    return worker


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


# --- models and status ----------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_fails_its_requests_with_the_reason():
    """503 with the reason, for those that wait and for those that come."""
    world = World(workers=0)
    waiting = world.submit()
    world.tell(b"supervisor", p.ModelUnavailable(MODEL, "no such file"))
    after = world.submit()
    for asked in (waiting, after):
        assert asked.failure.code == "unavailable" and "no such file" in asked.failure.message
    world.start_worker()
    assert world.core.snapshot(0.0)["models"][MODEL]["state"] == "available"


def test_a_worker_is_given_work_only_when_it_knows_the_epoch():
    """Hello, Welcome, hello again: then its old replies cannot be taken for new ones."""
    world = World(workers=0)
    hello = p.WorkerHello("w", "", MODEL, 1, "cpu", True, (p.MethodState("__call__", True, True),))
    world.core.handle(b"w", hello, 0.0)
    (send,) = (s for s in world.core.step(0.0) if s.peer == b"w")
    assert send.message == p.Welcome("epoch-1")
    assert world.core.snapshot(0.0)["workers"]["w"]["state"] == "starting"


def test_hellos_are_answered_with_the_epoch_and_models_only_when_it_is_new():
    """A gateway learns what is served once."""
    world = World()
    for epoch, models in (("", (b"spec",)), ("epoch-1", ())):
        world.core.handle(b"g", p.Hello("g", epoch), 0.0)
        sends = world.core.step(0.0)
        assert [s.message for s in sends if s.peer == b"g"] == [p.Welcome("epoch-1", models)]


def test_status_counts_requests_rows_batches_and_the_front_desks_counters():
    """Ask, and get the whole state."""
    world = World()
    world.submit(3)
    world.finish_all()
    world.tell(b"g", p.Count((("http_refused", "400", 1.0), ("http_refused", "400", 2.0))))
    world.core.handle(b"g", p.Ask(5), 0.0)
    (send,) = world.core.step(0.0)
    state = send.message.state
    model = state["models"][MODEL]
    assert (model["requests"], model["rows"], model["batches"]) == ({"ok": 1}, 3, 1)
    assert model["batch_rows"] == {"3": 1}
    assert state["counters"] == {"http_refused": {"400": 3.0}}
    assert send.message.id == 5


def test_the_repr_is_a_window():
    """Logs and tests read the state on one line."""
    world = World(bound=8)
    world.submit()
    world.submit()
    assert repr(world.core) == "<Core [1 queued | workers: 1 busy, 0 idle]>"


def test_a_move_that_is_not_in_the_table_raises():
    """Illegal moves are bugs."""
    with pytest.raises(RuntimeError, match="no move"):
        move(REQUEST_MOVES, RequestState.ANSWERED, "fail")


def test_a_worker_on_an_unused_device_is_preferred():
    """Idle device first, then the most recently used worker."""
    served = ServedModel(MODEL, b"", max_batch_size=1)
    core = Core(DispatcherConfig(("f",), "b", (served,)), Predictive(), epoch="e")
    for name, device in (("w1", "0"), ("w2", "1"), ("w3", "0")):
        methods = (p.MethodState("__call__", True, True),)
        hello = p.WorkerHello(name, "e", MODEL, 1, device, True, methods)
        core.handle(name.encode(), hello, 0.0)
    requests = tuple(p.Request(i, MODEL, "__call__", b"L", 1, 9.0, "", (b"x",)) for i in range(2))
    core.handle(b"g", p.Hello("g", "e"), 0.0)
    core.handle(b"g", p.Submit(requests), 0.0)
    peers = [s.peer for s in core.step(0.0) if isinstance(s.message, p.RunBatch)]
    assert sorted(peers) == [b"w2", b"w3"]


def test_rows_of_a_suspect_that_still_wait_are_run_alone_too():
    """A part of an oversize request was lost: no part of it sits with others again."""
    world = World(bound=4)
    big = world.submit(10)
    world.submit(2)
    world.kill(only_worker(world))
    world.start_worker()
    world.finish_all()
    assert big.is_answered
    assert world.sizes == [4, 4, 4, 4, 2, 2]


def test_requests_that_were_meant_for_an_earlier_dispatcher_are_passed_over():
    """ZeroMQ may have kept them; their gateway sends them again after its Hello."""
    world = World()
    request = p.Request(1, MODEL, "once", b"L", 1, 9.0, "", (b"new:1",))
    world.core.handle(b"new", p.Submit((request,)), 0.0)
    assert not [s for s in world.core.step(0.0) if isinstance(s.message, p.RunBatch)]
    world.core.handle(b"new", p.Hello("new", "epoch-1"), 0.0)
    world.core.handle(b"new", p.Submit((request,)), 0.0)
    assert [s for s in world.core.step(0.0) if isinstance(s.message, p.RunBatch)]


# --- odd messages and edges -----------------------------------------------------------------------


def test_the_supervisor_is_answered_on_its_own_link_and_its_rows_are_shown():
    """Status for `tfrunner status`: processes as the supervisor sees them."""
    world = World()
    world.tell(b"supervisor", p.Processes(({"name": "api-0", "rss": 5},)))
    world.core.handle(b"supervisor", p.Ask(1), 0.0)
    (send,) = world.core.step(0.0)
    assert (send.link, send.message.state["processes"]) == (
        "backend",
        [{"name": "api-0", "rss": 5}],
    )


def test_a_message_that_is_not_for_the_dispatcher_is_a_bug_and_raises():
    """The shell's decoders refuse such messages before."""
    world = World()
    with pytest.raises(TypeError, match="Stop is not for the dispatcher"):
        world.tell(b"g", p.Stop())


def test_what_nobody_knows_changes_nothing():
    """Losses, cancellations, replies and deaths of strangers."""
    world = World()
    worker = only_worker(world)
    world.tell(b"stranger", PeerGone("frontend"))
    world.tell(b"stranger", PeerGone("backend"))
    world.tell(b"stranger", p.Cancel((1, 2)))
    world.tell(b"g", p.Cancel((99,)))
    world.tell(b"supervisor", p.WorkerGone("nobody", "signal 9"))
    world.tell(b"stranger", p.BatchFailed(1, 1, "model_error", "no"))
    world.tell(worker.identity, p.BatchFailed(1, 1, "model_error", "no"))
    world.tell(b"supervisor", p.ModelUnavailable("other:1", "no"))
    hello = p.WorkerHello("w", "epoch-1", "other:1", 1, "cpu", True, ())
    world.tell(b"w", hello)
    asked = world.submit()
    world.finish_all()
    assert asked.is_answered and "w" not in world.core.snapshot(0.0)["workers"]


def test_a_worker_is_fenced_once():
    """Losing it again while it waits to be reaped asks for nothing more."""
    world = World()
    for _ in range(2):
        world.lose_connection(only_worker(world))
    assert len(world.fences) == 1


def test_a_hello_is_repeated_without_effect():
    """Heartbeats of a ready worker, and of one that is loading."""
    world = World()
    world.announce(only_worker(world))
    assert world.core.snapshot(0.0)["models"][MODEL]["workers"] == 1


def test_the_most_careful_worker_decides_how_a_method_is_run():
    """A probe that failed on one worker switches batching off for all."""
    world = World()
    hello = p.WorkerHello(
        "careful",
        "epoch-1",
        MODEL,
        1,
        "cpu",
        True,
        (p.MethodState("__call__", False, False, "rows differ"),),
    )
    world.tell(b"careful", hello)
    method = world.core.snapshot(0.0)["models"][MODEL]["methods"]["__call__"]
    assert method == {"batchable": False, "repeatable": False, "note": "rows differ", "sizes": []}


def test_a_load_error_of_a_worker_is_the_models_reason():
    """Said by the worker itself, before its exit is seen; an available model serves on."""
    world = World(workers=0)
    asked = world.submit()
    error = p.WorkerHello("w", "epoch-1", MODEL, 1, "cpu", False, (), "no such folder")
    world.tell(b"w", error)
    assert asked.failure.code == "unavailable" and "no such folder" in asked.failure.message
    world.start_worker()
    world.tell(b"w", error)
    served = world.submit()
    world.finish_all()
    assert served.is_answered


def test_expired_and_cancelled_requests_of_an_unbatchable_method_are_passed_over():
    """The next one that somebody waits for is run."""
    world = World()
    world.submit(method="single")
    gone = world.submit(method="single")
    world.submit(method="single", timeout=1.0)
    stays = world.submit(method="single")
    world.cancel(gone)
    world.now = 2.0
    world.finish_all()
    assert stays.is_answered and len(world.sizes) == 3


def test_a_queue_in_which_everything_has_expired_sends_nothing():
    """Neither batchable nor not."""
    world = World(workers=0)
    for method in ("__call__", "single"):
        world.submit(method=method, timeout=1.0)
    world.now = 2.0
    world.start_worker()
    assert world.sizes == []


def test_a_batch_of_which_nobody_waits_any_more_may_fail_or_be_lost():
    """Nothing is run again for nobody."""
    world = World()
    for end in ("fail", "kill"):
        asked = world.submit(fails=end == "fail")
        worker = only_worker(world)
        world.cancel(asked)
        if end == "fail":
            world.finish(worker)
        else:
            world.kill(worker)
            world.start_worker()
    assert world.sizes == [1, 1] and only_worker(world).held == []


def test_a_rerun_of_which_everybody_left_is_not_sent():
    """Closed and expired requests leave a re-run."""
    world = World(bound=4)
    left, late = world.submit(2), world.submit(2, timeout=1.0)
    world.kill(only_worker(world))
    world.cancel(left)
    world.now = 2.0
    world.start_worker()
    assert world.sizes == [2] and not late.rows_back


def test_blocks_for_the_wrong_gateway_or_too_few_are_not_believed():
    """What comes back must be what was sent."""
    for spoil in ("gateway", "fewer", "parts"):
        world = World(workers=0)
        one, two = world.submit(gateway=b"a"), world.submit(gateway=b"b")
        worker = world.start_worker()
        message = worker.held.pop()
        blocks = list(outputs(message))
        if spoil == "gateway":
            blocks.reverse()
        elif spoil == "fewer":
            blocks.pop()
        else:
            (first, second) = blocks
            both = p.Block(first.block.spans * 2, b"out", (b"",))
            blocks = [p.BlockFor(first.gateway, both), second]
        done = p.BatchDone(message.batch, message.attempt, 0.0, tuple(blocks))
        world.tell(worker.identity, done)
        assert not one.rows_back and not two.rows_back
        world.finish_all()
        assert one.is_answered and two.is_answered


def test_batch_keys_that_nothing_waits_for_are_forgotten():
    """Callers choose shapes; memory stays bounded."""
    world = World()
    for index in range(200):
        world.submit(layout=b"%d" % index)
        world.finish_all()
    (model,) = world.core._models.values()
    assert len(model.queues) <= 65


def test_reprs_say_the_state_on_one_line():
    """For logs and failing tests."""
    world = World(bound=8)
    world.submit(3)
    world.submit(2)
    (model,) = world.core._models.values()
    (queue,) = model.queues.values()
    (worker,) = world.core._roster.workers.values()
    (batch,) = worker.batches
    assert repr(model) == "<Model m:1 [1 queued | 1 workers]>"
    assert repr(queue) == "<Queue __call__ [1 requests | 2 rows]>"
    assert repr(worker) == "<Worker worker-1 [ready | 1 batches]>"
    assert repr(batch).endswith(".1 [running | 3 rows]>")
    assert repr(batch.pieces[0].owner) == "<Accepted 1 [open | 3 rows]>"


def test_notes_for_the_log_are_taken_once():
    """The core does not log; its shell does."""
    world = World()
    assert any("is ready" in note for note in world.core.take_notes())
    assert world.core.take_notes() == []


def test_gateways_that_wait_for_nothing_are_forgotten_after_a_while():
    """And one that comes back says Hello again."""
    world = World()
    world.let_pass(100.0)
    world.tell(b"g", p.Hello("g", "epoch-1"))
    asked = world.submit()
    world.finish_all()
    assert asked.is_answered


# --- worn workers, and what the log says ----------------------------------------------------------


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


def test_a_signal_is_no_wish_and_waits_for_no_turn():
    """The end of the server, or an operator."""
    world = World(workers=2)
    for worker in list(world.workers.values()):
        world.leave(worker)
        assert worker.told_to_stop


def notes(world: World) -> str:
    """Return what the log says since the last call."""
    return "\n".join(world.core.take_notes())


def test_the_log_names_the_requests_of_a_lost_batch_and_of_poison():
    """Gateway and number, worker and reason."""
    world = World(bound=4)
    world.submit(gateway=b"a")
    killer = world.submit(4, gateway=b"b", kills=True)
    world.finish_all()
    said = notes(world)
    assert f"when it was lost (signal 9): b/{killer.request.id}" in said
    assert f"request b/{killer.request.id} of m:1 is poison: worker-" in said
    assert killer.failure.code == "poison_request"


def test_the_log_names_failed_and_bisected_batches():
    """Which requests, where, and what the model said."""
    world = World()
    world.submit()
    bad, good = world.submit(gateway=b"a", fails=True), world.submit(gateway=b"b")
    world.finish_all()
    said = notes(world)
    assert f"run again in halves: a/{bad.request.id}, b/{good.request.id}" in said
    assert f"failed (model_error: ValueError: bad row): a/{bad.request.id}\n" in said + "\n"


def test_the_log_says_when_a_model_is_available_again():
    """Once when it is lost, once when it is back."""
    world = World(workers=0)
    world.tell(b"supervisor", p.ModelUnavailable("m:1", "it is corrupt"))
    assert "model m:1 is unavailable: it is corrupt" in notes(world)
    world.start_worker()
    assert "model m:1 is available again" in notes(world)
    world.start_worker()
    assert "again" not in notes(world)


def test_refusals_are_counted_by_reason():
    """Three reasons, two codes."""
    world = World(queue_requests=1, workers=0)
    world.submit()
    world.submit()
    world.tell(b"supervisor", p.ModelUnavailable("m:1", "it is corrupt"))
    world.submit()
    world.tell(b"supervisor", p.Drain())
    world.submit()
    refused = world.core.snapshot(0.0)["models"]["m:1"]["refused"]
    assert refused == {"queue_full": 1, "model_unavailable": 1, "draining": 1}
