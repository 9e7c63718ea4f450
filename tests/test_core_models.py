"""Models, their state and status, and what the log says, in virtual time."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, only_worker
from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.predictive import Predictive
from tfrunner.dispatcher.states import REQUEST_MOVES, RequestState, move

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
