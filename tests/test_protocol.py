"""Messages come back as they were sent; everything else is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner import protocol as p
from tfrunner.errors import ProtocolError

LARGE = b"x" * p.INLINE_BYTES
SMALL = b"y" * (p.INLINE_BYTES - 1)

MESSAGES: dict[str, tuple[Any, p.Message]] = {
    "hello": (p.FromGateway, p.Hello("api-0", "e")),
    "submit": (
        p.FromGateway,
        p.Submit((p.Request(7, "m:1", "__call__", b"layout", 2, 1.5, "c", (SMALL, LARGE), -3),)),
    ),
    "cancel": (p.FromGateway, p.Cancel((1, 2))),
    "ask": (p.FromGateway, p.Ask(3)),
    "count": (p.FromGateway, p.Count((("requests", "200", 2.0),))),
    "report": (
        p.FromWorker,
        p.Report(
            *("w#1", "e"),
            (p.Family("seen", "histogram", "Seen.", ("kind",), (0.5, 1.0)),),
            (p.Reading(0, ("cat",), (1.0, 0.0, 2.0, 3.5), 0.25),),
        ),
    ),
    "welcome": (p.ToGateway, p.Welcome("e", (b"spec",))),
    "results": (
        p.ToGateway,
        p.Results(
            (p.Block((p.Span(1, 0, 2, 3), p.Span(2, 0, 1, 1)), b"l", (LARGE, SMALL), (0.1, 0.2)),)
        ),
    ),
    "failures": (p.ToGateway, p.Failures((p.Failure(1, "overloaded", "full", 0.5),))),
    "status": (p.ToGateway, p.Status(3, {"models": {"m:1": {"rows": 1}}})),
    "worker-hello": (
        p.FromWorker,
        p.WorkerHello(
            *("w", "e", "m:1", 42, "cpu", True),
            (p.MethodState("__call__", True, True, "", ((1, 0.001),), (1, 8)),),
            *("", "a class"),
        ),
    ),
    "leave": (p.FromWorker, p.Leave("signal 15")),
    "batch-done": (
        p.FromWorker,
        p.BatchDone(5, 1, 0.1, (p.BlockFor(b"g", p.Block((p.Span(1, 0, 1, 1),), b"l", (LARGE,))),)),
    ),
    "batch-failed": (p.FromWorker, p.BatchFailed(5, 1, "model_error", "no")),
    "run-batch": (
        p.ToWorker,
        p.RunBatch(
            5,
            1,
            "__call__",
            b"l",
            3,
            (p.PartsOf(b"g", (p.Part(1, 0, 2, 2, (SMALL,)), p.Part(2, 0, 1, 1, (LARGE,)))),),
        ),
    ),
    "stop": (p.ToWorker, p.Stop()),
    "supervisor-hello": (p.FromSupervisor, p.SupervisorHello("s", "e")),
    "worker-gone": (p.FromSupervisor, p.WorkerGone("w", "signal 9")),
    "processes": (p.FromSupervisor, p.Processes(({"name": "w", "rss": 1},))),
    "model-unavailable": (p.FromSupervisor, p.ModelUnavailable("m:1", "does not load")),
    "drain": (p.FromSupervisor, p.Drain()),
    "fence": (p.ToSupervisor, p.Fence("w", "hung")),
}

DIRECTIONS = {
    "FromGateway": p.FromGateway,
    "ToGateway": p.ToGateway,
    "FromWorker": p.FromWorker,
    "ToWorker": p.ToWorker,
    "FromSupervisor": p.FromSupervisor,
    "ToSupervisor": p.ToSupervisor,
}


def as_sent(frames: list[p.Buffer]) -> list[p.Buffer]:
    """Return frames as a socket gives them: the first as bytes, the others as buffers."""
    return [bytes(frames[0]), *(memoryview(bytes(frame)) for frame in frames[1:])]


def raw(*fields: Any) -> list[p.Buffer]:
    """Return the frame of a message as somebody else might write it."""
    return [msgspec.msgpack.encode(fields)]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_comes_back_as_it_was_sent(name: str) -> None:
    """Every message, with bodies inside it and as frames."""
    accepted, message = MESSAGES[name]
    assert p.Decoder(accepted).decode(as_sent(p.encode(message))) == message


def test_every_message_has_an_example() -> None:
    """A new message must be added to the tests."""
    assert {type(message) for _, message in MESSAGES.values()} == set(p.Message.__subclasses__())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", MESSAGES)
def test_a_direction_refuses_the_messages_of_others(name: str, direction: str) -> None:
    """What a receiver accepts is its union, and nothing else."""
    _, message = MESSAGES[name]
    accepted = DIRECTIONS[direction]
    decoder = p.Decoder(accepted)
    if type(message) in accepted.__args__:
        assert decoder.decode(as_sent(p.encode(message))) == message
    else:
        with pytest.raises(ProtocolError):
            decoder.decode(as_sent(p.encode(message)))


def test_small_bodies_travel_inside_and_large_ones_are_never_copied() -> None:
    """A body of INLINE_BYTES is a frame of its own, the very object that was given."""
    request = p.Request(1, "m:1", "f", b"l", 1, 1.0, "", (SMALL, LARGE))
    frames = p.encode(p.Submit((request,)))
    assert len(frames) == 2
    assert frames[1] is LARGE


REQUEST = [1, "m:1", "f", b"l", 1, 1.0, "", [b""]]


def request_with(index: int, value: Any) -> list[Any]:
    """Return the fields of a request, one of them another."""
    return [*REQUEST[:index], value, *REQUEST[index + 1 :]]


REFUSED: dict[str, list[p.Buffer]] = {
    "nothing": [],
    "an-empty-frame": [b""],
    "a-name-nobody-knows": raw("Execute", 1),
    "a-number-as-name": raw(1, 2),
    "no-name": raw(),
    "a-map": [msgspec.msgpack.encode({"type": "Ask", "id": 1})],
    "one-field-too-many": raw("Ask", 1, 2),
    "one-field-too-few": raw("Ask"),
    "text-for-a-number": raw("Ask", "1"),
    "a-bool-for-a-number": raw("Ask", True),
    "bytes-after-the-message": [msgspec.msgpack.encode(("Ask", 1)) + b"\x00"],
    "a-message-cut-short": [msgspec.msgpack.encode(("Hello", "name"))[:-1]],
    "text-that-is-no-utf-8": [b"\x92\xa5Hello\xa1\xff"],
    "a-length-beyond-the-message": [b"\x92\xa6Cancel\xdd\xff\xff\xff\xff"],
    "too-many-request-fields": raw("Submit", [[*REQUEST, 0, 1]]),
    "too-few-request-fields": raw("Submit", [REQUEST[:-1]]),
    "a-negative-id": raw("Submit", [request_with(0, -1)]),
    "negative-rows": raw("Submit", [request_with(4, -1)]),
    "text-for-a-layout": raw("Submit", [request_with(3, "layout")]),
    "a-negative-timeout": raw("Submit", [request_with(5, -1.0)]),
    "an-infinite-timeout": raw("Submit", [request_with(5, float("inf"))]),
    "a-timeout-that-is-no-number": raw("Submit", [request_with(5, float("nan"))]),
    "text-for-a-body": raw("Submit", [request_with(7, ["text"])]),
    "a-priority-out-of-range": raw("Submit", [[*REQUEST, 9]]),
    "a-priority-that-is-no-whole-number": raw("Submit", [[*REQUEST, 0.5]]),
    "a-structure-for-a-body": raw("Submit", [request_with(7, [[b""]])]),
    "a-bool-for-a-body": [*raw("Submit", [request_with(7, [True])]), b"frame"],
    "frame-0-for-a-body": raw("Submit", [request_with(7, [0])]),
    "a-negative-frame": [*raw("Submit", [request_with(7, [-1])]), b"frame"],
    "a-frame-beyond-the-last": [*raw("Submit", [request_with(7, [2])]), b"frame"],
    "an-extension-type-for-a-body": raw(
        "Submit", [request_with(7, [msgspec.msgpack.Ext(1, b"data")])]
    ),
    "frames-of-a-message-without-bodies": [*raw("Ask", 1), b"frame"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_message_is_refused(name: str) -> None:
    """Tag, arity, every type and every range is checked."""
    with pytest.raises(ProtocolError):
        p.Decoder(p.FromGateway).decode(REFUSED[name])


def test_the_requests_of_these_tests_would_be_accepted_unchanged() -> None:
    """The refusals above are due to the one field that is wrong."""
    message = p.Decoder(p.FromGateway).decode(raw("Submit", [REQUEST]))
    assert message == p.Submit((p.Request(1, "m:1", "f", b"l", 1, 1.0, "", (b"",)),))


def test_a_nest_that_is_too_deep_is_refused() -> None:
    """It would end the process by recursion otherwise."""
    deep = b"\x93\xa6Status\x01\x81\xa1x" + b"\x91" * 100_000
    with pytest.raises(ProtocolError, match="recursion"):
        p.Decoder(p.ToGateway).decode([deep])


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_random_bytes_are_refused_or_a_message(frames: list[bytes]) -> None:
    """Decoding raises ProtocolError, and nothing else."""
    for accepted in DIRECTIONS.values():
        with contextlib.suppress(ProtocolError):
            assert isinstance(p.Decoder(accepted).decode(frames), p.Message)


@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_a_message_with_a_changed_byte_is_refused_or_a_message(
    name: str, data: st.DataObject
) -> None:
    """A flipped bit ends in ProtocolError or in another message of the same direction."""
    accepted, message = MESSAGES[name]
    frames = p.encode(message)
    head = bytearray(frames[0])
    at = data.draw(st.integers(0, min(60, len(head) - 1)))
    head[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        assert isinstance(p.Decoder(accepted).decode([bytes(head), *frames[1:]]), p.Message)
