"""When the core says that what a request lies in may be used again, and who runs meanwhile."""

from __future__ import annotations

from tests.dispatch_world import World, outputs
from tfrunner import protocol as p


def refused(batch: p.RunBatch, *gateways: bytes) -> p.BatchFailed:
    """Return what a worker says that cannot read the memory of these gateways."""
    return p.BatchFailed(batch.batch, batch.attempt, p.SEGMENT_REFUSED, "it is not it", gateways)


def test_an_answer_and_its_release_are_one_message():
    """No message more for a request that lies in shared memory."""
    world = World()
    world.submit(lent=True, gateway=b"a")
    (worker,) = world.workers.values()
    done = p.BatchDone(worker.held[0].batch, 1, 0.001, outputs(worker.held[0]))
    world.core.handle(worker.identity, done, 1.0)
    (send,) = world.core.step(1.0)
    assert send.peer == b"a" and send.message.released == (1,) and len(send.message.blocks) == 1


def test_a_cancelled_request_is_released_when_its_batch_is_done():
    """Not before: the worker reads it."""
    world = World()
    asked = world.submit(lent=True, gateway=b"a")
    world.cancel(asked)
    assert not asked.released
    world.finish_all()
    assert asked.released == 1


def test_a_cancelled_request_that_waits_is_released_at_once():
    """Nobody holds it."""
    world = World()
    world.submit(gateway=b"a")
    waiting = world.submit(lent=True, gateway=b"b", layout=b"M")
    world.cancel(waiting)
    assert waiting.released == 1


def test_a_request_in_two_batches_is_released_with_the_second():
    """One part fails, and with it the request; another worker still reads the other part."""
    world = World(bound=4, workers=2)
    asked = world.submit(8, lent=True, gateway=b"a")
    one, two = (worker for worker in world.workers.values())
    assert one.held and two.held
    failed = one.held.pop(0)
    world.tell(one.identity, p.BatchFailed(failed.batch, failed.attempt, "model_error", "no"))
    assert asked.failure is not None and not asked.released
    world.finish(two)
    assert asked.released == 1


def test_a_fenced_worker_s_requests_are_released_when_it_is_reaped():
    """Until then it may go on reading."""
    world = World(workers=1)
    asked = world.submit(lent=True, gateway=b"a")
    (worker,) = world.workers.values()
    world.cancel(asked)
    world.lose_connection(worker)
    assert world.fences and not asked.released
    world.kill(worker)
    assert asked.released == 1


def test_what_is_refused_fails_alone_and_the_rest_runs_at_once():
    """No bisection: the worker says whose memory it is."""
    world = World(workers=1)
    first = world.submit(gateway=b"c")
    (worker,) = world.workers.values()
    liars = [world.submit(lent=True, gateway=b"a") for _ in range(3)]
    honest = [world.submit(lent=True, gateway=b"b") for _ in range(3)]
    world.finish(worker)
    batch = worker.held.pop(0)
    assert first.is_answered and batch.rows == 6
    assert [group.segment.name for group in batch.groups] == ["tfrunner:a:1", "tfrunner:b:1"]
    world.tell(worker.identity, refused(batch, b"a"))
    assert [asked.failure.code for asked in liars] == [p.SEGMENT_REFUSED] * 3
    assert [asked.released for asked in liars] == [1] * 3
    assert worker.held[0].rows == 3
    world.finish_all()
    assert all(asked.is_answered and asked.released == 1 for asked in honest)
    assert world.core.snapshot(world.now)["models"]["m:1"]["bisected"] == 0


def test_a_caller_that_left_before_its_memory_was_refused_harms_nobody():
    """Its request is closed; the others of its batch run at once, and none fails."""
    world = World(workers=1)
    first = world.submit(gateway=b"c")
    (worker,) = world.workers.values()
    gone = world.submit(lent=True, gateway=b"a")
    others = [world.submit(gateway=b"b"), world.submit(lent=True, gateway=b"c")]
    world.finish(worker)
    assert first.is_answered
    world.cancel(gone)
    world.tell(worker.identity, refused(worker.held.pop(0), b"a"))
    assert gone.released == 1
    world.finish_all()
    assert all(asked.is_answered for asked in others)


def test_what_a_refused_gateway_sent_as_bytes_is_run():
    """Only what lies in the memory that was refused has to be sent again."""
    world = World(workers=1)
    world.submit(gateway=b"c")
    (worker,) = world.workers.values()
    lent, plain = world.submit(lent=True, gateway=b"a"), world.submit(gateway=b"a")
    world.finish(worker)
    world.tell(worker.identity, refused(worker.held.pop(0), b"a"))
    assert lent.failure is not None and lent.failure.code == p.SEGMENT_REFUSED
    world.finish_all()
    assert plain.is_answered


def test_what_never_fits_makes_nobody_give_way():
    """A size is only said, not yet sent."""
    world = World(workers=0, queue_bytes=1000)
    waiting = [world.submit(gateway=b"a", client="one") for _ in range(4)]
    huge = world.submit(gateway=b"b", client="two", priority=8, lent=True, length=2**40)
    assert huge.failure is not None and huge.failure.code == "too_large"
    assert huge.failure.retry_after is None and "1000" in huge.failure.message
    assert not any(asked.failure for asked in waiting)


def test_a_worker_that_blames_nobody_in_its_batch_ends_no_loop():
    """A refusal that fits no part counts as any other failure."""
    world = World(workers=1)
    asked = world.submit(lent=True, gateway=b"a")
    (worker,) = world.workers.values()
    world.tell(worker.identity, refused(worker.held.pop(0), b"stranger"))
    assert asked.failure is not None and asked.failure.code == p.SEGMENT_REFUSED


def test_bodies_in_shared_memory_count_in_the_bound_of_bytes():
    """They take memory like others."""
    world = World(workers=0, queue_bytes=150)
    world.submit(lent=True, gateway=b"a")
    refusal = world.submit(lent=True, gateway=b"b")
    assert refusal.failure is not None and refusal.failure.code == "overloaded"
    assert refusal.released == 1
