"""Odd messages, and moments at which little is left to do, in virtual time."""

from __future__ import annotations

import pytest

from tests.dispatch_world import MODEL, World, only_worker, outputs
from tfrunner import protocol as p
from tfrunner.dispatcher.outbox import PeerGone

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
