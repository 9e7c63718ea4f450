"""The deadlines of unanswered requests, in whatever order they come."""

from __future__ import annotations

import random

import pytest

from tfrunner import protocol as p
from tfrunner.pending import SPARE_DEADLINES, Pending


def request(id: int) -> p.Request:
    """Return a request of one row."""
    return p.Request(id, "m:1", "__call__", b"", 1, 1.0, "", (b"x",))


def pending(*deadlines: float) -> Pending[int]:
    """Return requests 1, 2, 3, ... with these deadlines; each is its own waiter."""
    waiting: Pending[int] = Pending()
    for id, deadline in enumerate(deadlines, 1):
        waiting.add(request(id), deadline=deadline, waiter=id)
    return waiting


def expired(waiting: Pending[int], now: float) -> list[int]:
    """Return the waiters whose time is over."""
    return [each.waiter for each in waiting.expire(now)]


@pytest.mark.parametrize(
    ("deadlines", "order"),
    [
        ((1, 2, 3, 4), [1, 2, 3, 4]),
        ((4, 3, 2, 1), [4, 3, 2, 1]),
        ((2, 9, 1, 9, 3), [3, 1, 5, 2, 4]),
        ((1, 1, 1), [1, 2, 3]),
    ],
    ids=["rising", "falling", "mixed", "equal"],
)
def test_requests_expire_in_the_order_of_their_deadlines(
    deadlines: tuple[float, ...], order: list[int]
) -> None:
    """All at once, and one after the other; nobody else expires with them."""
    assert expired(pending(*deadlines), 10.0) == order
    waiting, found = pending(*deadlines), []
    while (nearest := waiting.next_deadline()) is not None:
        assert expired(waiting, nearest - 0.5) == []
        found += expired(waiting, nearest)
    assert found == order


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_deadline_is_that_of_those_that_wait(seed: int) -> None:
    """As a plain list says it, while requests come, are dropped and expire."""
    draw = random.Random(seed)
    waiting: Pending[int] = Pending()
    model: dict[int, float] = {}
    now, id = 0.0, 0
    for _ in range(600):
        now += draw.choice([0.0, 0.1, 1.0])
        match draw.choice(["add", "add", "add", "drop", "expire", "give up"]):
            case "add":
                id += 1
                model[id] = now + draw.choice([1.0, 5.0, 5.0, 60.0])
                waiting.add(request(id), deadline=model[id], waiter=id)
            case "drop" if model:
                gone = draw.choice(list(model))
                del model[gone]
                waiting.drop(gone)
            case "expire":
                late = {each for each, deadline in model.items() if deadline <= now}
                assert set(expired(waiting, now)) == late
                model = {each: model[each] for each in model if each not in late}
            case "give up" if draw.random() < 0.05:
                waiting.give_up()
                model.clear()
        assert waiting.next_deadline() == min(model.values(), default=None)
        assert len(waiting) == len(model)


def test_early_deadlines_of_finished_requests_do_not_pile_up() -> None:
    """A request that stays keeps all others early."""
    waiting = pending(1e6)
    for id in range(2, 10 * SPARE_DEADLINES):
        waiting.add(request(id), deadline=float(id), waiter=id)
        waiting.drop(id)
        waiting.outgoing()
    assert len(waiting._early) <= SPARE_DEADLINES + 10
    assert waiting.next_deadline() == 1e6


def test_a_message_is_full_with_so_many_requests_or_with_all_that_there_are() -> None:
    """Others that were sent are waited for: more may come."""
    waiting = pending(1, 1, 1)
    assert waiting.fills(64)
    waiting.outgoing()
    waiting.add(request(4), deadline=1.0, waiter=4)
    assert not waiting.fills(64)
    assert waiting.fills(1)
