"""What bounds the dispatcher's memory: bodies of the withdrawn, layouts, accounts."""

from __future__ import annotations

import gc

import pytest

from tests.dispatch_world import MODEL, Asked, World
from tfrunner.dispatcher.batches import Accepted
from tfrunner.dispatcher.flows import MOST_ACCOUNTS


def told(world: World) -> dict[str, int]:
    """Return what the status says of the model."""
    state: dict[str, int] = world.core.snapshot(world.now)["models"][MODEL]
    return state


def kept() -> list[Accepted]:
    """Return the requests that anything in this process keeps."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Accepted)]


@pytest.fixture
def nothing_kept():
    """Requests of earlier tests must not be counted."""
    gc.collect()
    before = {id(each) for each in kept()}
    return lambda: [each for each in kept() if id(each) not in before]


@pytest.mark.parametrize("workers", [0, 1], ids=["no-worker", "a-busy-worker"])
@pytest.mark.parametrize("clients", [1, 1000], ids=["one-client", "many-clients"])
def test_what_is_withdrawn_is_not_kept(nothing_kept, workers, clients):
    """`queue_bytes` bounds what is there: a request that nobody waits for leaves at once."""
    world = World(workers=workers)
    first = world.submit()
    for number in range(2000):
        world.cancel(world.submit(client=f"client-{number % clients}"))
    assert len(nothing_kept()) < 50
    world.start_worker()
    world.finish_all()
    assert first.is_answered


def test_the_bodies_of_a_withdrawn_request_go_with_it(nothing_kept):
    """Even the few that a queue keeps for a while weigh nothing."""
    world = World(workers=0)
    world.submit()
    for _ in range(10):
        world.cancel(world.submit(layout=b"L" * 10_000, lent=True))
    closed = [each for each in nothing_kept() if not each.is_open]
    assert not any(each.request.bodies or each.request.layout for each in closed)


def test_a_running_request_that_is_withdrawn_is_answered_by_its_worker_all_the_same():
    """Its batch holds what it needs; its neighbours get their rows, and the method is learned."""
    world = World(workers=0)
    left, stays = world.submit(), world.submit()
    world.start_worker()
    world.cancel(left)
    world.finish_all()
    assert stays.is_answered
    assert len(world.core._models[MODEL].queues) == 1


def test_the_bytes_of_a_layout_are_counted():
    """Values that are the same for all rows travel in it, however large."""
    world = World(workers=0, queue_bytes=25_000)
    first, second = (world.submit(layout=bytes([65 + i]) * 20_000) for i in range(2))
    assert first.failure is None and second.failure.code == "overloaded"
    assert told(world)["queued_bytes"] > 20_000


def test_clients_that_come_once_are_forgotten():
    """A name for each call costs neither memory nor time."""
    world = World()
    for number in range(3 * MOST_ACCOUNTS):
        world.submit(client=f"client-{number}")
        world.finish_all()
    assert len(world.core._models[MODEL].shares._accounts) <= MOST_ACCOUNTS


def test_clients_that_come_once_are_forgotten_while_others_always_wait():
    """No moment without work is needed; whoever waits keeps its place."""
    world = World(bound=1)
    steady = [world.submit(client="steady") for _ in range(200)]
    for number in range(5 * MOST_ACCOUNTS):
        world.submit(client=f"client-{number}")
        world.finish(next(iter(world.workers.values())))
        if not any(each for each in steady[-50:] if not each.is_answered):
            steady += [world.submit(client="steady") for _ in range(200)]
    accounts = world.core._models[MODEL].shares._accounts
    assert len(accounts) <= 2 * (MOST_ACCOUNTS + told(world)["queued_requests"])
    world.finish_all()
    assert all(each.is_answered for each in world.asked.values())


# --- who gives way ----------------------------------------------------------------------------


def given_up(world: World, client: str) -> list[Asked]:
    """Return the requests of a client that failed."""
    return [a for a in world.asked.values() if a.request.client == client and a.failure]


def test_nobody_gives_way_to_a_request_that_does_not_fit_then():
    """Eight small requests are not enough room for a large one: none is given up."""
    world = World(bound=1, queue_bytes=100_000)
    while not given_up(world, "small"):
        world.submit(client="small", lent=True, length=900)
    large = world.submit(client="large", lent=True, length=50_000)
    assert large.failure.code == "overloaded"
    assert len(given_up(world, "small")) == 1, "the one that found the queue full"
    fair = world.submit(client="large", lent=True, length=6_000)
    assert fair.failure is None and 7 <= len(given_up(world, "small")) - 1 <= 8


def test_nobody_gives_way_to_a_request_that_will_be_late_anyway():
    """It is refused at once, and costs nobody anything."""
    world = World(bound=1, queue_requests=50)
    for _ in range(10):
        world.submit(client="patient")
        world.now += 1.0
        world.finish(next(iter(world.workers.values())), 1.0)
    while not given_up(world, "patient"):
        world.submit(client="patient")
    before = len(given_up(world, "patient"))
    hasty = world.submit(client="hasty", timeout=0.5)
    assert hasty.failure.code == "overloaded"
    assert len(given_up(world, "patient")) == before
    assert world.submit(client="other").failure is None, "who has the time is let in"
    assert len(given_up(world, "patient")) == before + 1


def test_those_who_wait_with_the_most_give_way_in_turn():
    """What is given up comes from whoever has the most at that moment, the last one first."""
    world = World(bound=1, queue_bytes=25_000)
    for _ in range(14):
        world.submit(client="one", lent=True, length=900)
        world.submit(client="two", lent=True, length=900)
    assert not given_up(world, "one") and not given_up(world, "two")
    world.submit(client="large", lent=True, length=6_000)
    gone = [given_up(world, client) for client in ("one", "two")]
    assert abs(len(gone[0]) - len(gone[1])) <= 1 and len(gone[0]) + len(gone[1]) >= 2
    for each in gone:
        assert all(a.request.id > 28 - 8 for a in each), "the last ones"
