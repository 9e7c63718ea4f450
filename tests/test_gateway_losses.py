"""A gateway when time runs out, callers leave, or the dispatcher goes and comes."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from time import monotonic

import numpy as np
import pytest

from tests.gateway_world import (
    LIMIT,
    METHOD,
    MODEL,
    FakeDispatcher,
    block,
    rows,
    submit,
    within,
)
from tfrunner import protocol as p
from tfrunner.errors import (
    DeadlineExceeded,
    StateError,
    Unavailable,
)
from tfrunner.gateway import Gateway
from tfrunner.specs import ModelSpec


@pytest.fixture
def address() -> Iterator[str]:
    """Give an address with a short path."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        yield f"ipc://{path}/f"


# --- deadlines and cancelling ---------------------------------------------------------------


def test_a_deadline_ends_the_wait_and_the_dispatcher_is_told(address: str) -> None:
    """The gateway's own timer alone answers; later requests keep their time; late rows vanish."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            patient = submit(gateway, 0, 1, timeout=LIMIT)
            hasty = submit(gateway, 1, 2, timeout=0.05)
            hastier = submit(gateway, 2, 3, timeout=0.02)
            await dispatcher.next(p.Submit)
            with pytest.raises(DeadlineExceeded, match=r"m:v1.*0\.05 s"):
                await within(hasty)
            with pytest.raises(TimeoutError):
                await hastier
            cancelled = [*(await dispatcher.next(p.Cancel)).ids]
            while len(cancelled) < 2:
                cancelled += (await dispatcher.next(p.Cancel)).ids
            assert cancelled == [3, 2]
            late = block([(2, 0, 1, 1), (1, 0, 1, 1)], rows(1, 3))
            dispatcher.send(p.Results((late,)))
            np.testing.assert_array_equal((await within(patient)).value(), rows(2, 3))

    asyncio.run(story())


def test_a_cancelled_request_is_cancelled_at_the_dispatcher(address: str) -> None:
    """Whoever stops waiting, by cancelling the future or the task, frees the queue."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            direct, awaited = submit(gateway, 0, 1), submit(gateway, 1, 2)
            kept = submit(gateway, 2, 3)
            await dispatcher.next(p.Submit)
            direct.cancel()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(awaited, 0.01)
            cancelled = [*(await dispatcher.next(p.Cancel)).ids]
            while len(cancelled) < 2:
                cancelled += (await dispatcher.next(p.Cancel)).ids
            assert cancelled == [1, 2]
            spans = [(number, 0, 1, 1) for number in (1, 2, 3)]
            dispatcher.send(p.Results((block(spans, rows(0, 3)),)))
            np.testing.assert_array_equal((await within(kept)).value(), rows(2, 3))

    asyncio.run(story())


def test_a_request_cancelled_in_the_turn_of_its_submit_is_never_sent(address: str) -> None:
    """There is nothing to cancel at the dispatcher either."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            submit(gateway).cancel()
            kept = submit(gateway, 1, 2)
            message = await dispatcher.next(p.Submit)
            assert [request.id for request in message.requests] == [2]
            dispatcher.send(p.Results((block([(2, 0, 1, 1)], rows(1, 2)),)))
            await within(kept)
            assert dispatcher.take_passed(p.Cancel) == []

    asyncio.run(story())


def test_many_finished_requests_leave_nothing_behind(address: str) -> None:
    """Deadlines of answered requests do not pile up for their whole minute."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            for _ in range(10):
                futures = [submit(gateway, timeout=LIMIT - n % 7) for n in range(500)]
                message = await dispatcher.next(p.Submit)
                spans = [(request.id, 0, 1, 1) for request in message.requests]
                dispatcher.send(p.Results((block(spans, rows(0, 500)),)))
                await asyncio.gather(*map(within, futures))
            assert len(gateway._exchange.pending) == 0
            assert len(gateway._exchange.pending._early) < 3000

    asyncio.run(story())


# --- the dispatcher goes and comes ----------------------------------------------------------


def test_a_new_epoch_sends_again_what_is_unanswered(address: str) -> None:
    """With less time left, after a Hello that knows the epoch, joined anew; nothing answered."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address) as first:
            await gateway.open()
            answered, open_one, large = (
                submit(gateway, 0, 1),
                submit(gateway, 1, 2, timeout=60.0),
                submit(gateway, 0, 4, timeout=60.0),
            )
            await first.next(p.Submit)
            dropped = submit(gateway, 9, 10)
            await first.next(p.Submit)
            dropped.cancel()
            await first.next(p.Cancel)
            first.send(p.Results((block([(3, 0, 2, 4)], rows(0, 2)),)))
            first.send(p.Results((block([(1, 0, 1, 1)], rows(0, 1)),)))
            await within(answered)
        other = ModelSpec("m", "v2", 2, {"__call__": METHOD})
        async with FakeDispatcher(address, epoch="epoch-2", models=(MODEL, other)) as second:
            before = []
            while not isinstance(again := await second.next(p.Message), p.Submit):
                before.append(again)
            assert {type(message) for message in before} == {p.Hello}
            assert before[0].epoch == "epoch-1"
            assert before[-1].epoch == "epoch-2"
            assert [request.id for request in again.requests] == [2, 3]
            assert all(0 < request.timeout < 60.0 for request in again.requests)
            assert again.requests[0].bodies == (rows(1, 2).tobytes(),)
            assert gateway.find("m").version == "v2"
            parts = (
                block([(3, 0, 3, 4), (2, 0, 1, 1)], np.concatenate([rows(0, 3), rows(1, 2)])),
                block([(3, 3, 4, 4)], rows(3, 4)),
            )
            second.send(p.Results(parts))
            np.testing.assert_array_equal((await within(open_one)).value(), rows(1, 2))
            np.testing.assert_array_equal((await within(large)).value(), rows(0, 4))
            await gateway.close()

    asyncio.run(story())


def test_without_a_dispatcher_requests_fail_until_one_is_back(address: str) -> None:
    """After 2 s of silence: Unavailable at once, with a time to try again; then all is well."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address):
            await gateway.open()
        begin = monotonic()
        with pytest.raises(Unavailable, match="no dispatcher") as caught:
            await within(submit(gateway, timeout=60.0))
        assert caught.value.retry_after == 1.0
        assert monotonic() - begin > 1.0  # it was given the time to come back
        assert not gateway.is_connected
        with pytest.raises(Unavailable, match="no dispatcher"):
            await submit(gateway)
        with pytest.raises(Unavailable, match="no dispatcher"):
            await gateway.ask()
        async with FakeDispatcher(address, epoch="epoch-2") as back:
            while (await back.next(p.Hello)).epoch != "epoch-2":
                pass
            future = submit(gateway)
            (request,) = (await back.next(p.Submit)).requests
            assert request.id == 3, "what failed is not sent again"
            kinds = {type(each) for each in back.take_passed(p.Message)}
            assert kinds <= {p.Hello}, "what ZeroMQ had kept went with its socket"
            back.send(p.Results((block([(request.id, 0, 1, 1)], rows(0, 1)),)))
            await within(future)
            await gateway.close()

    asyncio.run(story())


def test_a_loop_that_stood_still_does_not_blame_the_dispatcher(address: str) -> None:
    """A handler that blocks its event loop for longer than the limit loses no request."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway)
            (request,) = (await dispatcher.next(p.Submit)).requests
            threading.Event().wait(2.6)
            await asyncio.sleep(0)
            dispatcher.send(p.Results((block([(request.id, 0, 1, 1)], rows(0, 1)),)))
            await within(future)
            assert gateway.is_connected

    asyncio.run(story())


def test_opening_without_a_dispatcher_says_so(address: str) -> None:
    """The error names the address, and nothing stays open."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        with pytest.raises(Unavailable, match=f"{address} within 0.05 s"):
            await gateway.open(0.05)
        with pytest.raises(StateError):
            submit(gateway)

    asyncio.run(story())


def test_closing_fails_what_waits_and_tells_the_dispatcher(address: str) -> None:
    """Nobody hangs, nothing runs for nobody, and the last counters arrive."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher:
            gateway = Gateway(address, name="g")
            await gateway.open()
            future = submit(gateway)
            await dispatcher.next(p.Submit)
            gateway.count("http", "200")
            await gateway.close()
            await gateway.close()
            with pytest.raises(Unavailable, match="closed"):
                await future
            assert (await dispatcher.next(p.Cancel)).ids == (1,)
            assert (await dispatcher.next(p.Count)).amounts == (("http", "200", 1.0),)

    asyncio.run(story())
