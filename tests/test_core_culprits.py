"""Requests that raise, or for which memory is too small, and what becomes of their neighbours."""

from __future__ import annotations

import random

import pytest

from tests.dispatch_world import MODEL, Asked, World, only_worker
from tfrunner import protocol as p


def limit(world: World) -> int:
    """Return what the status says of the only worker: the most rows that it gets."""
    (told,) = world.core.snapshot(world.now)["workers"].values()
    return int(told["limit"])


def together(world: World, kinds: list[dict[str, bool]]) -> list[Asked]:
    """Let requests of one row share a batch."""
    asked = [world.submit(**kind) for kind in kinds]
    world.start_worker()
    world.finish_all()
    return asked


@pytest.mark.parametrize("culprits", [2, 3, 4, 8, 16, 63])
def test_several_bad_requests_fail_and_nobody_else(culprits):
    """Halves are run again down to one request, however many culprits there are."""
    world = World(bound=64, workers=0)
    bad = set(random.Random(culprits).sample(range(64), culprits))
    asked = together(world, [{"fails": index in bad} for index in range(64)])
    assert {index for index, each in enumerate(asked) if each.failure} == bad
    assert len(world.sizes) <= 2 * 64 - 1


def test_a_request_that_no_memory_holds_takes_nothing_from_those_after_it():
    """It alone fails; good requests after it run in full batches."""
    world = World(bound=64, workers=0)
    asked = together(world, [{"hungry": index == 7} for index in range(64)])
    assert [each.failure is not None for each in asked] == [i == 7 for i in range(64)]
    assert asked[7].failure.code == "out_of_memory"
    assert limit(world) == 64
    world.sizes.clear()
    for _ in range(65):
        world.submit()
    world.finish_all()
    assert world.sizes == [1, 64]


def test_a_lone_request_of_several_rows_that_no_memory_holds_lowers_no_limit():
    """Its rows are run in smaller batches, and the first one that does not fit is the end of it."""
    world = World(bound=64)
    asked = world.submit(8, hungry=True)
    world.finish_all()
    assert asked.failure.code == "out_of_memory"
    assert limit(world) == 64


def test_a_small_memory_is_found_although_a_culprit_asks_too():
    """What ran in smaller batches counts; what the culprit was part of says nothing."""
    world = World(bound=16, workers=0)
    asked = [world.submit(hungry=index == 0) for index in range(16)]
    worker = world.start_worker()
    world.lose_memory(worker, 4)
    world.finish_all()
    assert [each.failure is not None for each in asked] == [i == 0 for i in range(16)]
    assert limit(world) == 4


def test_a_limit_is_lowered_once_all_parts_of_the_batch_ran():
    """After the first half nobody knows: the second one may hold a culprit."""
    world = World(bound=8, workers=0)
    for _ in range(8):
        world.submit()
    worker = world.start_worker()
    world.lose_memory(worker, 4)
    world.finish(worker)
    world.finish(worker)
    assert limit(world) == 8
    world.finish(worker)
    assert limit(world) == 4


def test_a_limit_is_of_one_method():
    """Another method of the same worker may need less for a row."""
    world = World(bound=8)
    world.methods = (*world.methods, p.MethodState("other", True, True))
    world.kill(only_worker(world))
    for _ in range(8):
        world.submit(method="__call__")
    worker = world.start_worker()
    world.lose_memory(worker, 4)
    world.finish_all()
    worker.memory = 8
    world.sizes.clear()
    for method in ("__call__", "other"):
        world.submit(8, method=method)
    world.finish_all()
    assert world.sizes in ([4, 4, 8], [8, 4, 4])


def test_parts_that_run_on_another_worker_do_not_lower_its_limit():
    """Only whose memory was too small gets smaller batches."""
    world = World(bound=8, workers=0)
    for _ in range(8):
        world.submit()
    small = world.start_worker()
    world.lose_memory(small, 4)
    large = world.start_worker()
    world.finish(small)
    world.finish_all()
    limits = {n: w["limit"] for n, w in world.core.snapshot(0.0)["workers"].items()}
    assert limits == {small.name: 4, large.name: 8}
    assert world.core.snapshot(0.0)["models"][MODEL]["out_of_memory"] == 1


def test_who_ran_with_a_culprit_that_has_failed_meanwhile_is_run_again():
    """The culprit's first rows failed in an earlier batch, its last ones ran beside it."""
    world = World(bound=4, workers=0)
    innocent = world.submit(3, timeout=5.0)
    culprit = world.submit(5, timeout=0.5, fails=True)  # the earlier deadline: it goes first
    world.start_worker()
    world.finish_all()
    assert culprit.failure is not None
    assert innocent.is_answered


def test_a_request_of_no_rows_for_which_no_memory_is_enough_lowers_no_limit():
    """All rows that were beside it run: it was the culprit all the same."""
    world = World(bound=4, workers=0)
    culprit = world.submit(0, hungry=True)
    innocent = world.submit(2)
    world.start_worker()
    world.finish_all()
    assert culprit.failure is not None and culprit.failure.code == "out_of_memory"
    assert innocent.is_answered
    (worker,) = world.core.snapshot(world.now)["workers"].values()
    assert worker.get("limit", 4) == 4


def test_a_request_that_kills_from_behind_another_is_found_and_the_other_is_not_blamed():
    """A worker that splits batches may begin the second of two before the first has ended."""
    world = World(bound=1)
    before, killer, after = world.submit(), world.submit(kills=True), world.submit()
    worker = only_worker(world)
    assert len(worker.held) == 2
    world.kill(worker)  # by the second batch, though the first one counts as running
    world.start_worker()
    world.finish_all()
    assert killer.failure is not None and killer.failure.code == "poison_request"
    assert before.is_answered and after.is_answered
