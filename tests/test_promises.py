"""Promises: futures that wait for nobody until somebody waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    InvalidStateError,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import pytest

from tfrunner.errors import Unavailable
from tfrunner.promises import Promise

LIMIT = 20.0


class Desk:
    """A gateway that another thread drives: who waits follows."""

    def __init__(self) -> None:
        self.gate = threading.RLock()
        self.dropped: list[int] = []

    def drive(self, promise: Promise, timeout: float | None) -> None:
        """Wait while another thread drives."""
        promise.follow(timeout)

    def hasten(self) -> None:
        """Do nothing: somebody drives."""

    def drop(self, id: int) -> None:
        """Note what is cancelled."""
        self.dropped.append(id)


@pytest.fixture
def desk() -> Desk:
    """Give a gateway."""
    return Desk()


def in_thread(act: Callable[[], Any]) -> Future[Any]:
    """Return what a function returns in another thread."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(act())
        except BaseException as exc:
            outcome.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def watched(promise: Promise) -> None:
    """Wait until somebody is watching a promise."""
    limit = threading.Event()
    for _ in range(2000):
        if promise._is_watched:
            return
        limit.wait(0.01)
    raise TimeoutError("nobody watches")


def test_one_that_is_kept_before_anybody_asks_makes_nothing_to_wait_on(desk: Desk) -> None:
    """As most are: that is what makes them cheap."""
    promise = Promise(desk)
    assert not promise.done()
    promise.set_result(7)
    assert promise.done()
    assert not promise.cancelled()
    assert promise.result() == promise.result(0) == 7
    assert promise.exception() is None
    kept, failed = Promise(desk), Promise(desk)
    kept.set_result(8)
    failed.set_exception(Unavailable("gone"))
    assert kept.result() == 8
    assert not kept._is_watched
    with pytest.raises(Unavailable, match="gone"):
        failed.result()


@pytest.mark.parametrize("number", range(20))
def test_whoever_waits_is_woken(desk: Desk, number: int) -> None:
    """However the asking and the keeping fall together."""
    promise = Promise(desk)
    waiting = [in_thread(promise.result) for _ in range(3)]
    if number % 2:
        watched(promise)
    promise.set_result(number)
    assert [each.result(LIMIT) for each in waiting] == [number] * 3


def test_an_error_reaches_who_waits(desk: Desk) -> None:
    """In other threads too, and by `exception`."""
    promise = Promise(desk)
    waiting = in_thread(promise.result)
    watched(promise)
    promise.set_exception(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        waiting.result(LIMIT)
    assert isinstance(promise.exception(), Unavailable)


def test_a_wait_that_is_too_short_ends_in_time(desk: Desk) -> None:
    """And leaves the promise as it was."""
    promise = Promise(desk)
    with pytest.raises(FutureTimeout):
        promise.result(0.01)
    promise.set_result(1)
    assert promise.result() == 1


def test_there_is_one_outcome(desk: Desk) -> None:
    """A second one is refused; what was cancelled stays so."""
    kept, cancelled = Promise(desk), Promise(desk)
    kept.set_result(1)
    for act in (lambda: kept.set_result(2), lambda: kept.set_exception(Unavailable("x"))):
        with pytest.raises(InvalidStateError):
            act()
    assert not kept.cancel()
    assert kept.result() == 1
    cancelled.id = 5
    assert cancelled.cancel()
    assert cancelled.cancel()
    assert desk.dropped == [5]
    with pytest.raises(InvalidStateError):
        cancelled.set_result(1)
    with pytest.raises(CancelledError):
        cancelled.result()


def test_of_cancelling_and_keeping_one_wins(desk: Desk) -> None:
    """Whoever says that it succeeded is right, in every one of many races."""
    for number in range(300):
        promise = Promise(desk)
        begin = threading.Barrier(2)

        def keep(promise: Promise = promise, begin: Any = begin, number: int = number) -> bool:
            begin.wait(LIMIT)
            try:
                promise.set_result(number)
            except InvalidStateError:
                return False
            return True

        kept = in_thread(keep)
        begin.wait(LIMIT)
        is_cancelled = promise.cancel()
        assert kept.result(LIMIT) != is_cancelled
        assert promise.cancelled() == is_cancelled
        assert is_cancelled or promise.result() == number


def test_who_waits_for_several_is_told_of_each(desk: Desk) -> None:
    """By the functions of the standard library, whatever became of them."""
    promises = [Promise(desk) for _ in range(4)]
    promises[0].set_result(0)
    waiting = in_thread(lambda: wait(promises))
    first = in_thread(lambda: wait(promises[1:], return_when=FIRST_COMPLETED))
    failing = in_thread(lambda: wait(promises[1:], return_when=FIRST_EXCEPTION))
    one_by_one = in_thread(lambda: list(as_completed(promises[:3], LIMIT)))
    for each in promises[1:]:
        watched(each)
    promises[1].set_result(1)
    assert promises[1] in first.result(LIMIT).done
    promises[2].set_exception(Unavailable("gone"))
    assert promises[2] in failing.result(LIMIT).done
    promises[3].cancel()
    assert waiting.result(LIMIT).not_done == set()
    assert set(one_by_one.result(LIMIT)) == set(promises[:3])


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
def test_who_asked_to_be_called_back_is_called_once(desk: Desk, is_late: bool) -> None:
    """With the promise, whatever became of it."""
    called: list[Any] = []
    for act in (
        lambda each: each.set_result(1),
        lambda each: each.set_exception(Unavailable("gone")),
        lambda each: each.cancel(),
    ):
        promise = Promise(desk)
        if is_late:
            act(promise)
        promise.add_done_callback(called.append)
        if not is_late:
            assert called == []
            act(promise)
        assert called == [promise]
        called.clear()


def test_an_event_loop_can_wait_for_it(desk: Desk) -> None:
    """Kept in another thread, and cancelled from the loop."""

    async def story() -> None:
        kept, cancelled = Promise(desk), Promise(desk)
        waiting = asyncio.wrap_future(kept)
        in_thread(lambda: kept.set_result(3))
        assert await asyncio.wait_for(waiting, LIMIT) == 3
        asyncio.wrap_future(cancelled).cancel()
        await asyncio.sleep(0)
        assert cancelled.cancelled()

    asyncio.run(story())


def test_another_attempt_takes_the_place_of_an_error(desk: Desk) -> None:
    """Only once; what that comes to is the outcome."""
    asked: list[BaseException] = []

    def rescue(promise: Promise, error: BaseException) -> BaseException | None:
        asked.append(error)
        return None

    promise = Promise(desk)
    promise.rescue = rescue
    promise.set_exception(Unavailable("first"))
    assert not promise.done()
    promise.set_exception(Unavailable("second"))
    assert [str(each) for each in asked] == ["first"]
    with pytest.raises(Unavailable, match="second"):
        promise.result()


def test_there_is_nothing_else_that_is_made_late(desk: Desk) -> None:
    """A misspelt name is an error, as with any object."""
    with pytest.raises(AttributeError, match="no 'reslut'"):
        Promise(desk).reslut  # type: ignore[attr-defined]  # noqa: B018
