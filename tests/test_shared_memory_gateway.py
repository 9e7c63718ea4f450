"""The gateway's end of shared memory: when a slot is free, and what travels as frames instead."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.gateway_world import LIMIT, METHOD, MODEL, FakeDispatcher, block, call, rows, within
from tests.shared_memory_world import open_files, wait_until
from tfrunner import protocol as p
from tfrunner.errors import DeadlineExceeded
from tfrunner.gateway import Answer, Gateway
from tfrunner.shared_memory import KEPT_BYTES, LEND_FROM, STEP_BYTES, create

COUNT = LEND_FROM // 8
"""Rows of a body that is just large enough to be lent."""


def submit(gateway: Gateway, first: int, *, timeout: float = LIMIT) -> asyncio.Future[Answer]:
    """Submit a large request; its rows begin with a number of its own."""
    return gateway.submit(MODEL, METHOD, call(rows(first, first + COUNT)), timeout=timeout)


def offset(request: p.Request) -> int | None:
    """Return where the body of a request lies, None if it came as a frame."""
    (body,) = request.bodies
    return body.offset if isinstance(body, p.Place) else None


def answer_to(request: p.Request) -> p.Block:
    """Return the whole answer."""
    return block([(request.id, 0, COUNT, COUNT)], rows(0, COUNT))


@asynccontextmanager
async def world(slots: int = 1, **options: bool) -> AsyncIterator[tuple[Gateway, FakeDispatcher]]:
    """Open a gateway that has room for so many large bodies."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        address = f"ipc://{folder}/f"
        async with (
            FakeDispatcher(address) as dispatcher,
            Gateway(address, name="g", shared=slots * LEND_FROM, **options) as gateway,
        ):
            yield gateway, dispatcher


def story(tell: Callable[[Gateway, FakeDispatcher], Awaitable[None]], slots: int = 1) -> None:
    """Run a story in an event loop."""

    async def run() -> None:
        async with world(slots) as both:
            await tell(*both)

    asyncio.run(run())


async def asked(gateway: Gateway, dispatcher: FakeDispatcher, first: int) -> p.Request:
    """Submit a large request; return it as it came."""
    future = submit(gateway, first)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    (request,) = (await dispatcher.next(p.Submit)).requests
    return request


def test_small_bodies_open_no_segment():
    """Who sends nothing large has no memory for it."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        gateway.submit(MODEL, METHOD, call(rows(0, COUNT - 1)), timeout=LIMIT).cancel()
        submitted = gateway.submit(MODEL, METHOD, call(rows(0, COUNT - 1)), timeout=LIMIT)
        (request,) = (await dispatcher.next(p.Submit)).requests
        assert offset(request) is None
        assert all(hello.segment is None for hello in dispatcher.take_passed(p.Hello))
        submitted.cancel()

    story(tell)


def test_the_segment_is_announced_before_the_first_body_that_lies_in_it():
    """And with every Hello after: the dispatcher may have forgotten this gateway."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        await asked(gateway, dispatcher, 0)
        segments = [hello.segment for hello in dispatcher.take_passed(p.Hello)]
        assert segments[-1] is not None
        assert os.readlink(f"/proc/self/fd/{segments[-1].descriptor}").endswith(
            f"memfd:{segments[-1].name} (deleted)"
        )
        assert (await dispatcher.next(p.Hello)).segment == segments[-1]

    story(tell)


def test_an_answer_alone_frees_nothing_and_a_release_does():
    """Another worker may still run a part of what was answered with an error."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        first = await asked(gateway, dispatcher, 0)
        assert offset(first) == 0
        dispatcher.send(p.Failures((p.Failure(first.id, "model_error", "no"),)))
        second = await asked(gateway, dispatcher, 1)
        assert offset(second) is None
        dispatcher.send(p.Results((answer_to(second),), (first.id,)))
        third = await asked(gateway, dispatcher, 2)
        while offset(third) is None:  # it may have left before the release came
            third = await asked(gateway, dispatcher, 2)
        assert offset(third) == 0

    story(tell)


@pytest.mark.parametrize("way", ["timeout", "cancellation"])
def test_who_leaves_frees_nothing_until_the_dispatcher_says_so(way: str):
    """The slot belongs to whoever holds the batch."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        future = submit(gateway, 0, timeout=0.05 if way == "timeout" else LIMIT)
        (first,) = (await dispatcher.next(p.Submit)).requests
        if way == "timeout":
            with pytest.raises(DeadlineExceeded):
                await within(future)
        else:
            future.cancel()
        assert (await dispatcher.next(p.Cancel)).ids == (first.id,)
        assert offset(await asked(gateway, dispatcher, 1)) is None
        dispatcher.send(p.Results((), (first.id,)))
        await wait_until(lambda: "0 requests" in repr(gateway._exchange._lender))
        assert offset(await asked(gateway, dispatcher, 2)) == 0

    story(tell)


def test_what_is_dropped_before_it_left_is_free_at_once():
    """The dispatcher never hears of it, and cannot release it."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        submit(gateway, 0).cancel()
        await asyncio.sleep(0)
        assert offset(await asked(gateway, dispatcher, 1)) == 0

    story(tell)


def test_rows_that_came_before_a_refusal_are_not_joined_with_those_of_the_next_life():
    """A request that was cut may be cut differently when it is sent again."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        future = submit(gateway, 5)
        (first,) = (await dispatcher.next(p.Submit)).requests
        dispatcher.send(p.Results((block([(first.id, 0, 2, COUNT)], rows(0, 2)),)))
        failure = p.Failure(first.id, p.SEGMENT_REFUSED, "there is no such process")
        dispatcher.send(p.Failures((failure,)))
        (again,) = (await dispatcher.next(p.Submit)).requests
        for start, stop in ((0, 3), (3, COUNT)):
            part = block([(again.id, start, stop, COUNT)], rows(start, stop))
            dispatcher.send(p.Results((part,)))
        np.testing.assert_array_equal((await within(future)).value(), rows(0, COUNT))

    story(tell)


def test_what_workers_cannot_read_is_sent_again_as_a_frame():
    """Another host, another namespace: the caller notices nothing."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        future = submit(gateway, 5)
        (first,) = (await dispatcher.next(p.Submit)).requests
        assert offset(first) == 0
        failure = p.Failure(first.id, p.SEGMENT_REFUSED, "there is no such process")
        dispatcher.send(p.Failures((failure,)))
        dispatcher.send(p.Results((), (first.id,)))
        (again,) = (await dispatcher.next(p.Submit)).requests
        assert (again.id, bytes(again.bodies[0])) == (first.id, rows(5, 5 + COUNT).tobytes())
        assert again.timeout <= first.timeout
        dispatcher.send(p.Results((answer_to(again),)))
        np.testing.assert_array_equal((await within(future)).value(), rows(0, COUNT))
        assert offset(await asked(gateway, dispatcher, 6)) is None

    story(tell)


def test_a_new_dispatcher_gets_frames_of_what_is_unanswered_and_then_a_new_segment():
    """Nobody asks what workers of the old one still read: the old memory is never written."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        first = await asked(gateway, dispatcher, 5)
        (old,) = {each.segment for each in dispatcher.take_passed(p.Hello)} - {None}
        dispatcher.epoch = "epoch-2"
        (again,) = (await dispatcher.next(p.Submit)).requests
        assert (again.id, bytes(again.bodies[0])) == (first.id, rows(5, 5 + COUNT).tobytes())
        assert offset(await asked(gateway, dispatcher, 6)) == 0
        found = {each.segment for each in dispatcher.take_passed(p.Hello)} - {None, old}
        assert [each.name.rpartition(":")[2] for each in found] == ["2"]
        assert not Path(f"/proc/self/fd/{old.descriptor}").exists() or old.name not in os.readlink(
            f"/proc/self/fd/{old.descriptor}"
        )

    story(tell)


def test_the_end_of_a_gateway_closes_its_memory():
    """No descriptor and no mapping of it is left."""

    async def tell(gateway: Gateway, dispatcher: FakeDispatcher) -> None:
        await asked(gateway, dispatcher, 0)
        assert "tfrunner:g." in Path("/proc/self/maps").read_text()

    story(tell)
    assert "tfrunner:g." not in Path("/proc/self/maps").read_text()
    assert not [link for link in open_files() if "tfrunner:g." in link]


def test_an_array_that_changes_after_submit_is_sent_as_it_was():
    """The copy into the slot is made at once, and nothing is read from the array after."""

    async def run() -> None:
        async with world(1, owns=True) as (gateway, dispatcher):
            array = rows(0, COUNT)
            for way in ("shared", "frame"):
                gateway.submit(MODEL, METHOD, call(array), timeout=LIMIT)
                before = array.tobytes()
                array += 1
                (request,) = (await dispatcher.next(p.Submit)).requests
                (body,) = gateway._exchange._lender.copy_out(request.id, request.bodies)
                assert bytes(body) == before, way

    asyncio.run(run())


def test_memory_is_allocated_as_it_is_needed():
    """A segment costs nothing before it is written, and then no more than a step too much."""
    memory = create("tfrunner:g:1", 64 * STEP_BYTES)
    assert memory is not None
    used = lambda: 512 * os.fstat(memory.segment.descriptor).st_blocks  # noqa: E731
    assert used() == 0
    memory.put(bytes(STEP_BYTES + 1))
    assert used() == 2 * STEP_BYTES
    memory.close()


def test_memory_beyond_what_is_kept_goes_back_with_its_slot():
    """A large request leaves no more behind than many small ones; what others hold stays."""
    memory = create("tfrunner:g:1", 2 * KEPT_BYTES)
    assert memory is not None
    used = lambda: 512 * os.fstat(memory.segment.descriptor).st_blocks  # noqa: E731
    below, large, above = (
        memory.put(bytes(size)) for size in (STEP_BYTES, KEPT_BYTES, 2 * STEP_BYTES)
    )
    assert below and large and above
    memory.mapping[above.offset] = 7
    memory.give_back(large.offset)
    assert used() == KEPT_BYTES + 3 * STEP_BYTES
    assert memory.mapping[above.offset] == 7
    memory.give_back(above.offset)
    assert used() == memory.allocated == KEPT_BYTES
    again = memory.put(b"x" * KEPT_BYTES)
    assert again == large
    assert used() == KEPT_BYTES + STEP_BYTES
    assert memory.mapping[again.offset : again.offset + again.length] == b"x" * again.length
    memory.close()
