"""A gateway whose dispatcher dies, hangs, moves, or never comes: what is sent again."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from time import monotonic

import numpy as np
import pytest

from tests.gateway_world import LIMIT, ONCE, FakeDispatcher, block, rows, submit, within
from tfrunner import protocol as p
from tfrunner.errors import DeadlineExceeded, NotFound, Unavailable, WorkerLost
from tfrunner.gateway import Gateway
from tfrunner.liveness import LOST_SECONDS, STALE_SECONDS, Liveness
from tfrunner.transport import Router


@pytest.fixture
def folder() -> Iterator[str]:
    """Give a folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        yield path


@pytest.fixture
def address(folder: str) -> str:
    """Give an address in it."""
    return f"ipc://{folder}/f"


# --- what must not run twice ----------------------------------------------------------------


def test_what_must_not_run_twice_is_not_sent_to_the_next_dispatcher(address: str) -> None:
    """The one before may have begun it: WorkerLost; what may run twice is sent again."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address) as first:
            await gateway.open()
            once = submit(gateway, 0, 1, method=ONCE)
            twice = submit(gateway, 1, 2)
            await first.next(p.Submit)
        async with FakeDispatcher(address, epoch="epoch-2") as second:
            with pytest.raises(WorkerLost, match=r"'once' of m:v1.*may have run.*not sent again"):
                await within(once)
            (request,) = (await second.next(p.Submit)).requests
            assert request.method == "__call__"
            second.send(p.Results((block([(request.id, 0, 1, 1)], rows(1, 2)),)))
            await within(twice)
            later = submit(gateway, 2, 3, method=ONCE)
            (request,) = (await second.next(p.Submit)).requests
            second.send(p.Results((block([(request.id, 0, 1, 1)], rows(2, 3)),)))
            np.testing.assert_array_equal((await within(later)).value(), rows(2, 3))
            await gateway.close()

    asyncio.run(story())


def test_a_dispatcher_that_is_lost_takes_what_must_not_run_twice_with_it(address: str) -> None:
    """After 2 s of silence: WorkerLost for that, Unavailable for what may be tried again."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address) as first:
            await gateway.open()
            once, twice = submit(gateway, 0, 1, method=ONCE), submit(gateway, 1, 2)
            await first.next(p.Submit)
        with pytest.raises(WorkerLost, match="may have run"):
            await within(once)
        with pytest.raises(Unavailable) as caught:
            await within(twice)
        assert type(caught.value) is Unavailable
        await gateway.close()

    asyncio.run(story())


def test_closing_says_what_may_have_run(address: str) -> None:
    """Of what was sent and must not run twice; what had not left was not run."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher:
            gateway = Gateway(address, name="g")
            await gateway.open()
            sent = submit(gateway, 0, 1, method=ONCE)
            await dispatcher.next(p.Submit)
            unsent = submit(gateway, 1, 2, method=ONCE)
            await gateway.close()
            with pytest.raises(WorkerLost, match="may have run"):
                await sent
            with pytest.raises(Unavailable, match="closed") as caught:
                await unsent
            assert type(caught.value) is Unavailable

    asyncio.run(story())


# --- hours without a dispatcher -------------------------------------------------------------


def test_a_silent_dispatcher_is_asked_once_for_each_lost_connection() -> None:
    """While it counts as there: at every beat; else only when the Hello before is given up."""
    liveness = Liveness()
    liveness.heard()
    assert liveness.hello_is_due(0.0)
    liveness.asked(0.0)
    assert liveness.hello_is_due(0.5)
    assert liveness.becomes_lost(LOST_SECONDS)
    liveness.forget()
    assert liveness.hello_is_due(2.0)
    liveness.asked(2.0)
    assert not liveness.hello_is_due(2.5)
    assert not liveness.hello_is_due(3.9)
    assert liveness.hello_is_due(2.0 + LOST_SECONDS)


def test_hellos_do_not_pile_up_while_no_dispatcher_is_there(address: str) -> None:
    """A dispatcher that comes late finds one of them, not one for each beat."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address):
            await gateway.open()
        lost = submit(gateway)
        with pytest.raises(Unavailable):
            await within(lost)
        sockets = {gateway._exchange.link.identity}
        while len(sockets) < 2:  # one more connection is given up
            await asyncio.sleep(0.1)
            sockets.add(gateway._exchange.link.identity)
        await asyncio.sleep(1.2)  # two more beats
        async with FakeDispatcher(address) as late:
            (first,) = (await late.next(p.Hello),)
            assert first.epoch == "epoch-1"
            assert late.take_passed(p.Hello) == []
            answered = submit(gateway) if gateway.is_connected else None
            while answered is None or answered.done():
                await asyncio.sleep(0.01)
                answered = submit(gateway)
            (request,) = (await late.next(p.Submit)).requests
            late.send(p.Results((block([(request.id, 0, 1, 1)], rows(0, 1)),)))
            await within(answered)
            await gateway.close()

    asyncio.run(story())


def test_a_dispatcher_that_hangs_and_comes_back_is_met_again(address: str) -> None:
    """Stopped for longer than the limit, then going on in the same life: requests are answered."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            dispatcher.is_silent = True
            with pytest.raises(Unavailable):
                await within(submit(gateway, timeout=60.0))
            before = dispatcher.peer
            dispatcher.is_silent = False
            while not gateway.is_connected:
                await asyncio.sleep(0.01)
            assert dispatcher.peer != before, "the old connection was given up"
            dispatcher.take_passed(p.Message)
            future = submit(gateway)
            while (message := await dispatcher.next(p.Submit)).requests[0].id != 2:
                pass
            span = (message.requests[0].id, 0, 1, 1)
            dispatcher.send(p.Results((block([span], rows(0, 1)),)))
            await within(future)

    asyncio.run(story())


# --- a dispatcher elsewhere -----------------------------------------------------------------


def test_a_dispatcher_that_listens_elsewhere_is_found(folder: str) -> None:
    """Asked only while there is no answer; what is unanswered goes there."""
    places = [f"ipc://{folder}/a"]

    def find() -> str:
        if not places:
            raise NotFound("no server runs here")
        return places[0]

    async def story() -> None:
        gateway = Gateway(places[0], name="g", find=find)
        async with FakeDispatcher(places[0]) as first:
            await gateway.open()
            future = submit(gateway, 3, 4)
            await first.next(p.Submit)
        elsewhere = f"ipc://{folder}/b"
        del places[:]
        async with FakeDispatcher(elsewhere, epoch="epoch-2") as second:
            places.append(elsewhere)
            (request,) = (await second.next(p.Submit)).requests
            second.send(p.Results((block([(request.id, 0, 1, 1)], rows(3, 4)),)))
            np.testing.assert_array_equal((await within(future)).value(), rows(3, 4))
            assert gateway.address == elsewhere
            await gateway.close()

    asyncio.run(story())


# --- closing --------------------------------------------------------------------------------


def test_closing_towards_a_dispatcher_that_does_not_read_blocks_nobody(address: str) -> None:
    """Other work of the event loop goes on while the last words wait to leave."""

    async def story(router: Router) -> None:
        gateway = Gateway(address, name="g", shared=0)  # what lies in shared memory, leaves at once
        opening = asyncio.ensure_future(gateway.open())
        while not (received := router.receive()):
            await asyncio.sleep(0.001)
        router.send(received[0].sender, p.encode(p.Welcome("e", ())))
        await opening
        for _ in range(40):  # more than the kernel takes for a reader that does not read
            submit(gateway, 0, 100_000, timeout=60.0).add_done_callback(asyncio.Future.exception)
            await asyncio.sleep(0)
        turns, longest, last = 0, 0.0, monotonic()
        closing = asyncio.ensure_future(gateway.close())
        while not closing.done():
            await asyncio.sleep(0.005)
            turns, longest, last = turns + 1, max(longest, monotonic() - last), monotonic()
        assert turns > 3, f"the event loop stood still for {longest:.3f} s"

    with Router("deaf") as router:
        assert isinstance(router, Router)
        router.socket.setsockopt(RCVHWM, 1)
        router.bind(address)
        asyncio.run(story(router))


RCVHWM = 24
"""ZMQ_RCVHWM: so few messages the router reads ahead."""


def test_closing_ends_what_is_asked(address: str) -> None:
    """Nobody waits for a status that cannot come."""

    async def story() -> None:
        async with FakeDispatcher(address):
            gateway = Gateway(address, name="g")
            await gateway.open()
            asking = asyncio.ensure_future(gateway.ask(60.0))
            await asyncio.sleep(0)
            await gateway.close()
            with pytest.raises(Unavailable, match="closed"):
                await asyncio.wait_for(asking, LIMIT)

    asyncio.run(story())


def test_a_question_survives_its_dispatcher(address: str) -> None:
    """The next one is asked again; if there is none in time, that is said."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        async with FakeDispatcher(address) as first:
            await gateway.open()
            asking = asyncio.ensure_future(gateway.ask(60.0))
            await first.next(p.Ask)
        async with FakeDispatcher(address, epoch="epoch-2") as second:
            second.send(p.Status((await second.next(p.Ask)).id, {"epoch": "epoch-2"}))
            assert await asyncio.wait_for(asking, LIMIT) == {"epoch": "epoch-2"}
            asking = asyncio.ensure_future(gateway.ask(60.0))
            await second.next(p.Ask)
        with pytest.raises(Unavailable, match="no dispatcher"):
            await asyncio.wait_for(asking, LIMIT)
        await gateway.close()

    asyncio.run(story())


def test_an_error_names_the_request_as_the_servers_logs_do(address: str) -> None:
    """Gateway and number, for errors of the server and of the gateway itself."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            failing = submit(gateway)
            await dispatcher.next(p.Submit)
            dispatcher.send(p.Failures((p.Failure(1, "model_error", "it raised"),)))
            errors = [await _error(failing), await _error(submit(gateway, timeout=0.01))]
            name = dispatcher.peer.decode()
            assert [error.request_id for error in errors] == [f"{name}/1", f"{name}/2"]
            assert isinstance(errors[1], DeadlineExceeded)

    asyncio.run(story())


async def _error(future: asyncio.Future[object]) -> Exception:
    (done,), _ = await asyncio.wait([future], timeout=LIMIT)
    error = done.exception()
    assert isinstance(error, Exception)
    return error


def test_a_gateway_may_be_closed_while_it_waits_for_its_first_dispatcher(address: str) -> None:
    """A cancelled open leaves no socket and no thread."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        opening = asyncio.ensure_future(gateway.open(60.0))
        await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await gateway.close()

    before = threading.active_count()
    asyncio.run(story())
    assert threading.active_count() == before


def test_a_gateway_that_stood_still_says_hello_before_its_next_request():
    """The dispatcher may have forgotten it, and passes over requests of whom it does not know."""
    liveness = Liveness()
    assert not liveness.is_stale(1e6)  # nobody was there yet
    liveness.asked(100.0)
    liveness.heard()
    assert not liveness.is_stale(100.0 + STALE_SECONDS)
    assert liveness.is_stale(100.1 + STALE_SECONDS)
    liveness.asked(100.1 + STALE_SECONDS)
    assert not liveness.is_stale(100.2 + STALE_SECONDS)
