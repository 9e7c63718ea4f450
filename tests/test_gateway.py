"""A gateway against a real Router that plays the dispatcher."""

from __future__ import annotations

import asyncio
import select
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.gateway_world import (
    LIMIT,
    MODEL,
    OUTPUT,
    FakeDispatcher,
    block,
    rows,
    submit,
    within,
)
from tfrunner import protocol as p
from tfrunner.errors import (
    InvalidInput,
    ModelError,
    Overloaded,
    StateError,
    TFRunnerError,
    Unavailable,
)
from tfrunner.gateway import Gateway
from tfrunner.specs import DictSpec, NothingSpec, TensorSpec, TupleSpec
from tfrunner.tensors import Layout, Leaf, encode_layout
from tfrunner.transport import Router, wait


@pytest.fixture
def address() -> Iterator[str]:
    """Give an address with a short path."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        yield f"ipc://{path}/f"


# --- sending --------------------------------------------------------------------------------


def test_requests_of_one_turn_travel_in_one_message(address: str) -> None:
    """Forty submits in one turn make one Submit, in their order."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            futures = [submit(gateway, n, n + 1) for n in range(40)]
            message = await dispatcher.next(p.Submit)
            assert [request.id for request in message.requests] == list(range(1, 41))
            request = message.requests[3]
            assert (request.model, request.method, request.rows) == ("m:v1", "__call__", 1)
            assert request.bodies == (rows(3, 4).tobytes(),)
            assert dispatcher.take_passed(p.Submit) == []
            spans = [(request.id, 0, 1, 1) for request in message.requests]
            dispatcher.send(p.Results((block(spans, rows(0, 40)),)))
            answers = await asyncio.gather(*map(within, futures))
            assert [a.arrays[0].tolist() for a in answers] == [
                rows(n, n + 1).tolist() for n in range(40)
            ]

    asyncio.run(story())


def test_no_reply_is_lost_whose_wake_up_a_send_swallows(address: str) -> None:
    """Each reply arrives after the loop has looked and before it sends; reading again finds it.

    The limit is for all rounds together: a Hello, which reads again too, rescues at most two
    replies a second.
    """

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            descriptor = gateway._exchange.link._dealer.fileno()

            def reply(number: int) -> None:
                dispatcher.send(p.Results((block([(number, 0, 1, 1)], rows(0, 1)),)))
                assert select.select([descriptor], [], [], LIMIT)[0]
                # ZeroMQ looks at its signals when it sends, but not twice in a millisecond.
                select.select([], [], [], 0.0015)

            waiting = submit(gateway)
            for number in range(1, 301):
                await dispatcher.next(p.Submit)
                loop.call_soon(reply, number)  # runs right before the flush of the next one
                following = submit(gateway)
                await waiting
                waiting = following

    asyncio.run(asyncio.wait_for(story(), 30))


def test_no_reply_is_lost_in_2000_racing_round_trips(address: str) -> None:
    """Replies come from a thread, whenever they like."""
    router = Router("dispatcher")
    router.open()
    router.bind(address)
    stop = threading.Event()

    def answer() -> None:
        decoder = p.Decoder(p.FromGateway)
        while not stop.is_set():
            wait([router], 0.05)
            for sender, frames in router.receive():
                message = decoder.decode(frames)
                if isinstance(message, p.Hello):
                    router.send(sender, p.encode(p.Welcome("e", ())))
                elif isinstance(message, p.Submit):
                    for each in message.requests:
                        done = block([(each.id, 0, 1, 1)], rows(each.id, each.id + 1))
                        router.send(sender, p.encode(p.Results((done,))))

    async def story() -> None:
        async with Gateway(address, name="g") as gateway:

            async def ask_500(which: int) -> None:
                for _ in range(500):
                    await submit(gateway)

            await asyncio.wait_for(asyncio.gather(*map(ask_500, range(4))), 60)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        asyncio.run(story())
    finally:
        stop.set()
        thread.join()
        router.close()


def test_a_gateway_that_is_not_open_refuses_requests(address: str) -> None:
    """Before `open` and after `close`, with a word on what to do."""

    async def story() -> None:
        gateway = Gateway(address, name="g")
        with pytest.raises(StateError, match="open"):
            submit(gateway)
        with pytest.raises(StateError, match="open"):
            await gateway.ask()
        async with FakeDispatcher(address):
            await gateway.open()
            await gateway.close()
        with pytest.raises(StateError, match="open"):
            submit(gateway)

    asyncio.run(story())


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_timeout_that_is_not_positive_is_refused(address: str, timeout: float) -> None:
    """No request is without a deadline."""

    async def story() -> None:
        async with FakeDispatcher(address), Gateway(address, name="g") as gateway:
            with pytest.raises(InvalidInput, match="timeout"):
                submit(gateway, timeout=timeout)

    asyncio.run(story())


# --- answers --------------------------------------------------------------------------------


def test_each_request_gets_its_own_rows_of_a_block(address: str) -> None:
    """Spans of several requests, of several sizes and in another order, are cut right."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            first, second, third = (
                submit(gateway, 0, 3),
                submit(gateway, 3, 4),
                submit(gateway, 4, 9),
            )
            a, b, c = (await dispatcher.next(p.Submit)).requests
            mixed = np.concatenate([rows(4, 9), rows(0, 3), rows(3, 4)])
            spans = [(c.id, 0, 5, 5), (a.id, 0, 3, 3), (b.id, 0, 1, 1)]
            dispatcher.send(p.Results((block(spans, mixed),)))
            for future, expected in (
                (first, rows(0, 3)),
                (second, rows(3, 4)),
                (third, rows(4, 9)),
            ):
                answer = await within(future)
                np.testing.assert_array_equal(answer.value(), expected)
                assert answer.arrays[0].dtype == np.float32

    asyncio.run(story())


def test_outputs_keep_their_structure_and_their_batch_axis(address: str) -> None:
    """Several outputs, strings among them, with rows on axis 1, come back nested as they were."""
    structure = DictSpec(
        {"a": TensorSpec("a", "float32", (2, None)), "b": TupleSpec((OUTPUT, NothingSpec()))}
    )

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            futures = [submit(gateway, 0, 2), submit(gateway, 2, 3)]
            first, second = (await dispatcher.next(p.Submit)).requests
            words = np.array([["u", "v", "w"]], dtype=object)
            numbers = np.arange(6, dtype=np.int64).reshape(2, 3)
            spans = [(first.id, 0, 2, 2), (second.id, 0, 1, 1)]
            dispatcher.send(p.Results((block(spans, numbers, words, structure=structure, axis=1),)))
            value, other = [(await within(future)).value() for future in futures]
            assert value["a"].tolist() == [[0, 1], [3, 4]]
            assert value["b"][0].tolist() == [[b"u", b"v"]]
            assert value["b"][1] is None
            assert other["a"].tolist() == [[2], [5]]
            assert other["b"][0].tolist() == [[b"w"]]

    asyncio.run(story())


def test_a_request_that_was_not_batched_gets_its_outputs_whole(address: str) -> None:
    """Outputs without rows, a scalar among them, go to the one request of their block."""
    structure = TupleSpec((TensorSpec("a", "float32", ()), OUTPUT))

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway)
            (request,) = (await dispatcher.next(p.Submit)).requests
            scalar = np.array(1.5, dtype=np.float32)
            done = block(
                [(request.id, 0, 1, 1)], scalar, rows(0, 7), structure=structure, axis=None
            )
            dispatcher.send(p.Results((done,)))
            value = (await within(future)).value()
            assert value[0] == 1.5
            assert value[1].shape == (7, 2)

    asyncio.run(story())


def test_an_oversize_request_is_joined_in_order(address: str) -> None:
    """Its parts come out of order, beside rows of another request, and once in two blocks."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            large, small = submit(gateway, 0, 150), submit(gateway, 500, 501)
            a, b = (await dispatcher.next(p.Submit)).requests
            last = block(
                [(a.id, 128, 150, 150), (b.id, 0, 1, 1)],
                np.concatenate([rows(128, 150), rows(500, 501)]),
            )
            dispatcher.send(p.Results((last,)))
            np.testing.assert_array_equal((await within(small)).value(), rows(500, 501))
            assert not large.done()
            middle = block([(a.id, 64, 128, 150)], rows(64, 128))
            first = block([(a.id, 0, 64, 150)], rows(0, 64))
            dispatcher.send(p.Results((middle, first)))
            np.testing.assert_array_equal((await within(large)).value(), rows(0, 150))

    asyncio.run(story())


def test_a_failed_part_fails_the_request_once(address: str) -> None:
    """What comes for it before and after the failure changes nothing."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            large, other = submit(gateway, 0, 128), submit(gateway)
            a, b = (await dispatcher.next(p.Submit)).requests
            dispatcher.send(p.Results((block([(a.id, 0, 64, 128)], rows(0, 64)),)))
            dispatcher.send(p.Failures((p.Failure(a.id, "model_error", "row 100"),)))
            dispatcher.send(p.Failures((p.Failure(a.id, "internal", "again"),)))
            with pytest.raises(ModelError, match="row 100"):
                await within(large)
            assert len(gateway._exchange.pending) == 1
            dispatcher.send(p.Results((block([(a.id, 64, 128, 128)], rows(64, 128)),)))
            dispatcher.send(p.Results((block([(b.id, 0, 1, 1)], rows(0, 1)),)))
            await within(other)

    asyncio.run(story())


def test_a_failure_becomes_the_error_that_its_code_names(address: str) -> None:
    """With the message and the time after which to try again."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway)
            (request,) = (await dispatcher.next(p.Submit)).requests
            dispatcher.send(p.Failures((p.Failure(request.id, "overloaded", "full", 0.25),)))
            with pytest.raises(Overloaded, match="full") as caught:
                await within(future)
            assert caught.value.retry_after == 0.25

    asyncio.run(story())


def test_parts_that_do_not_fit_together_fail_the_request(address: str) -> None:
    """A model whose output width depends on the batch cannot be cut into parts."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway, 0, 2)
            (request,) = (await dispatcher.next(p.Submit)).requests
            wide = block([(request.id, 0, 1, 2)], np.zeros((1, 3), np.float32))
            narrow = block([(request.id, 1, 2, 2)], np.zeros((1, 2), np.float32))
            dispatcher.send(p.Results((wide, narrow)))
            with pytest.raises(ModelError, match="do not fit together"):
                await within(future)

    asyncio.run(story())


def _two_rows_short() -> p.Block:
    return block([(1, 0, 2, 2)], rows(0, 1))


def _two_bodies() -> p.Block:
    good = block([(1, 0, 2, 2)], rows(0, 2))
    return p.Block(good.spans, good.layout, good.bodies * 2)


def _no_layout() -> p.Block:
    return p.Block((p.Span(1, 0, 2, 2),), b"\xc1", (rows(0, 2).tobytes(),))


def _no_structure() -> p.Block:
    layout = encode_layout(Layout((Leaf("float32", (None, 2)),)))
    return p.Block((p.Span(1, 0, 2, 2),), layout, (rows(0, 2).tobytes(),))


def _object_array() -> p.Block:
    layout = encode_layout(Layout((Leaf("object", (None, 2)),), OUTPUT))
    return p.Block((p.Span(1, 0, 2, 2),), layout, (rows(0, 2).tobytes(),))


def _another_size() -> p.Block:
    return block([(1, 0, 3, 3)], rows(0, 3))


def _backwards() -> p.Block:
    return block([(1, 2, 0, 2)], rows(0, 1))


def _shared_scalar() -> p.Block:
    scalar = np.array(1.0, np.float32)
    return block([(1, 0, 2, 2), (9, 0, 1, 1)], scalar, axis=None)


@pytest.mark.parametrize(
    "bad",
    [
        _two_rows_short,
        _two_bodies,
        _no_layout,
        _no_structure,
        _object_array,
        _another_size,
        _backwards,
        _shared_scalar,
    ],
)
def test_a_block_that_cannot_be_read_fails_its_requests_and_no_other(
    address: str, bad: type[p.Block]
) -> None:
    """Nobody gets rows that might be another's, nobody waits for what will not come."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            hit, spared = submit(gateway, 0, 2), submit(gateway, 5, 6)
            await dispatcher.next(p.Submit)
            dispatcher.send(p.Results((bad(), block([(2, 0, 1, 1)], rows(5, 6)))))
            np.testing.assert_array_equal((await within(spared)).value(), rows(5, 6))
            with pytest.raises(TFRunnerError, match="the server"):
                await within(hit)

    asyncio.run(story())


def test_rows_that_come_twice_never_make_up_for_others(address: str) -> None:
    """Overlapping parts whose rows add up to the request's fail it."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway, 0, 4)
            await dispatcher.next(p.Submit)
            parts = [(1, 0, 2, 4), (1, 0, 2, 4), (1, 1, 3, 4)]
            for _, start, stop, _ in parts:
                dispatcher.send(p.Results((block([(1, start, stop, 4)], rows(start, stop)),)))
            with pytest.raises(TFRunnerError, match="twice"):
                await within(future)

    asyncio.run(story())


def test_a_message_that_is_refused_changes_nothing(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage, other directions' messages and unknown requests are passed over."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            future = submit(gateway)
            await dispatcher.next(p.Submit)
            dispatcher.send_frames([b"\xc1"])
            dispatcher.send_frames([b"", b"x"])
            dispatcher.send(p.Stop())
            dispatcher.send(p.Welcome("epoch-2", (b"no spec",)))
            dispatcher.send(p.Status(99, {}))
            dispatcher.send(p.Results((block([(77, 0, 1, 1)], rows(0, 1)),)))
            dispatcher.send(p.Failures((p.Failure(78, "internal", "late"),)))
            dispatcher.send(p.Results((block([(1, 0, 1, 1)], rows(0, 1)),)))
            np.testing.assert_array_equal((await within(future)).value(), rows(0, 1))
            assert gateway.models == {"m:v1": MODEL}

    asyncio.run(story())
    assert caplog.text.count("from the dispatcher was refused") == 4


# --- status and counters --------------------------------------------------------------------


def test_ask_returns_the_state_that_answers_it(address: str) -> None:
    """Two questions at once get their own answers, and silence becomes Unavailable."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            first = asyncio.ensure_future(gateway.ask())
            second = asyncio.ensure_future(gateway.ask())
            asks = [await dispatcher.next(p.Ask), await dispatcher.next(p.Ask)]
            for number, ask in reversed(list(enumerate(asks))):
                dispatcher.send(p.Status(ask.id, {"number": number}))
            assert await first == {"number": 0}
            assert await second == {"number": 1}
            with pytest.raises(Unavailable, match="no status"):
                await gateway.ask(0.02)

    asyncio.run(story())


def test_counters_are_added_up_and_sent_with_a_hello(address: str) -> None:
    """A thousand counts are one message."""

    async def story() -> None:
        async with FakeDispatcher(address) as dispatcher, Gateway(address, name="g") as gateway:
            for _ in range(1000):
                gateway.count("http", "200")
            gateway.count("http", "404", 2.5)
            message = await dispatcher.next(p.Count)
            assert message.amounts == (("http", "200", 1000.0), ("http", "404", 2.5))

    asyncio.run(story())
