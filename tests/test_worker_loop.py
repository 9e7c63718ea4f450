"""The worker's loop, with a link in memory: every batch is answered once, whatever it holds."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from tfrunner.errors import ModelError
from tfrunner.protocol import (
    BatchDone,
    BatchFailed,
    Message,
    MethodState,
    Part,
    PartsOf,
    RunBatch,
    Stop,
    Welcome,
    encode,
)
from tfrunner.tensors import Layout, Leaf, decode_layout, encode_layout, unpack
from tfrunner_workers.echo import EchoModel
from tfrunner_workers.hosted import TEXT_LIMIT
from tfrunner_workers.loop import Loop, answer, entries
from tfrunner_workers.segments import Segments
from tfrunner_workers.warmup import declared

LAYOUT = encode_layout(Layout((Leaf("float32", (None, 2)),)))


class Line:
    """A link in memory: hands over prepared deliveries, one each time, and keeps the answers."""

    def __init__(self, *deliveries: list[Message]) -> None:
        self._deliveries = list(deliveries)
        self.sent: list[Message] = []
        self.blocked: list[bool] = []

    def receive(self, *, block: bool) -> list[Message]:
        """Return the next delivery; the last one stops the loop."""
        self.blocked.append(block)
        return self._deliveries.pop(0) if self._deliveries else [Stop()]

    def send(self, message: Message) -> None:
        """Keep the message."""
        self.sent.append(message)


@pytest.fixture
def table():
    """The echo model's methods, as declared."""
    model = EchoModel()
    return entries(model, declared(model))


def batch(number: int, *rows: float, method: str = "__call__", **changes) -> RunBatch:
    """Return a batch of one-row requests of one gateway, each row a number twice."""
    parts = tuple(
        Part(i, 0, 1, 1, (np.full((1, 2), row, np.float32).tobytes(),))
        for i, row in enumerate(rows)
    )
    values = {"layout": LAYOUT, "rows": len(rows), "groups": (PartsOf(b"g", parts),)}
    return RunBatch(number, 3, method, **{**values, **changes})


def values(done: BatchDone) -> list[float]:
    """Return the first number of every row of a batch's only block."""
    (addressed,) = done.blocks
    rows = len(addressed.block.spans)
    (array,) = unpack(decode_layout(addressed.block.layout), addressed.block.bodies, rows)
    return array[:, 0].tolist()


def run(table, *deliveries: list[Message]) -> Line:
    """Run a loop over the deliveries until it stops."""
    line = Line(*deliveries)
    Loop(line, table).run()
    return line


def test_batches_are_answered_in_their_order(table):
    """A staged batch follows the running one; both name batch and attempt."""
    line = run(table, [batch(1, 10, 11), batch(2, 20)])
    assert [(m.batch, m.attempt, values(m)) for m in line.sent] == [
        (1, 3, [10, 11]),
        (2, 3, [20]),
    ]
    assert all(m.seconds >= 0 for m in line.sent)


def test_the_loop_waits_only_when_it_holds_nothing(table):
    """Between two held batches it only looks."""
    line = run(table, [batch(1, 1), batch(2, 2)], [])
    assert line.blocked == [True, False, True]


def test_what_is_held_is_answered_before_a_stop(table):
    """Stop means: finish, then leave."""
    line = run(table, [batch(1, 1), batch(2, 2), Stop()])
    assert [m.batch for m in line.sent] == [1, 2]


def test_a_new_dispatcher_s_welcome_drops_what_the_old_one_sent(table):
    """Batches of another life are unknown to this one."""
    line = run(table, [batch(1, 1), Welcome("another"), batch(2, 2)])
    assert [m.batch for m in line.sent] == [2]


def test_a_model_that_raises_fails_its_batch_and_nothing_else(table, caplog):
    """The answer has class and text; the log has the traceback, with batch and requests."""
    with caplog.at_level(logging.ERROR, "tfrunner.worker"):
        line = run(table, [batch(1, 5, -5, method="fail"), batch(2, 6, method="fail")])
    failed, done = line.sent
    assert failed == BatchFailed(1, 3, "model_error", "ValueError: an element is negative")
    assert values(done) == [6]
    assert "batch 1.3 of 'fail' (requests g/0, g/1) failed" in caplog.text
    assert "Traceback" in caplog.text


def test_a_long_error_text_is_shortened():
    """A stack of graph errors does not travel to callers."""
    model = EchoModel()

    def explode(arrays):
        raise RuntimeError("x" * 10_000)

    model.methods["__call__"] = explode
    failed = answer(entries(model, declared(model)), batch(1, 1), Segments())
    assert isinstance(failed, BatchFailed)
    assert len(failed.message) == TEXT_LIMIT
    assert failed.message.startswith("RuntimeError: xxx")


class Wordless(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


RAISED = {
    "exit": (SystemExit(3), "SystemExit: 3"),
    "cancelled": (asyncio.CancelledError(), "CancelledError:"),
    "interrupt": (KeyboardInterrupt(), "KeyboardInterrupt:"),
    "generator": (GeneratorExit("gone"), "GeneratorExit: gone"),
    "no character": (ValueError("caf\udce9"), "ValueError: caf\\udce9"),
    "no character, our own": (ModelError("caf\udce9"), "caf\\udce9"),
    "no words": (Wordless(), "Wordless: its text cannot be had: RuntimeError"),
}


@pytest.mark.parametrize(("error", "text"), RAISED.values(), ids=RAISED)
def test_whatever_a_method_raises_fails_its_batch_alone(error: BaseException, text: str):
    """The worker lives on, and the answer can be sent."""
    model = EchoModel()
    whole = model.methods["__call__"]

    def explode(arrays):
        if arrays[0][0, 0] == 1:
            raise error
        return whole(arrays)

    model.methods["__call__"] = explode
    line = run(entries(model, declared(model)), [batch(1, 1), batch(2, 2)])
    failed, done = line.sent
    assert failed == BatchFailed(1, 3, "model_error", text)
    assert encode(failed)
    assert values(done) == [2]


def test_a_dropped_row_fails_the_batch(table):
    """Nobody gets another's row."""
    failed = answer(table, batch(1, 1, 2, method="drop"), Segments())
    assert isinstance(failed, BatchFailed)
    assert failed.code == "model_error"
    assert "expected 2 rows" in failed.message


def test_a_method_whose_batching_is_off_answers_a_lone_request_whole():
    """Rows are not counted where they cannot go to the wrong caller."""
    model = EchoModel()
    states = tuple(MethodState(name, False, True, "why") for name in model.methods)
    done = answer(entries(model, states), batch(1, 1, method="drop"), Segments())
    assert isinstance(done, BatchDone)
    (addressed,) = done.blocks
    (leaf,) = decode_layout(addressed.block.layout).leaves
    assert leaf.shape == (0, 2)


INT32 = encode_layout(Layout((Leaf("int32", (None, 2)),)))
TWO = encode_layout(Layout((Leaf("float32", (None, 2)), Leaf("float32", (None, 2)))))
MALFORMED = {
    "unknown method": {"method": "nope"},
    "layout that is none": {"layout": b"\xc1"},
    "empty layout": {"layout": b""},
    "unknown dtype": {"layout": encode_layout(Layout((Leaf("float31", (None, 2)),)))},
    "another dtype of the same size": {"layout": INT32},
    "too many tensors": {"layout": TWO},
    "another shape": {"layout": encode_layout(Layout((Leaf("float32", (None, 3)),)))},
    "huge shape": {"layout": encode_layout(Layout((Leaf("float32", (None, 2**62, 2**62)),)))},
    "two batch axes": {"layout": encode_layout(Layout((Leaf("float32", (None, None)),)))},
    "other rows": {"rows": 9},
    "negative rows": {"rows": -1},
    "no groups": {"groups": ()},
    "empty group": {"groups": (PartsOf(b"g", ()),)},
    "no bodies": {"groups": (PartsOf(b"g", (Part(1, 0, 1, 1, ()),)),)},
    "a short body": {"groups": (PartsOf(b"g", (Part(1, 0, 1, 1, (b"123",)),)),)},
    "a body that is no bytes": {"groups": (PartsOf(b"g", (Part(1, 0, 1, 1, (1,)),)),)},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_batch_is_answered_not_suffered(table, changes: dict):
    """The next batch is served as if nothing had been."""
    method = changes.get("method", "__call__")
    rest = {key: value for key, value in changes.items() if key != "method"}
    line = run(table, [batch(1, 1, 2, method=method, **rest), batch(2, 2)])
    failed, done = line.sent
    assert isinstance(failed, BatchFailed)
    assert (failed.batch, failed.attempt, failed.code) == (1, 3, "protocol_error")
    assert values(done) == [2]


def test_the_loop_shows_what_it_holds(table):
    """Repr is a window."""
    loop = Loop(Line(), table)
    assert repr(loop) == "<Loop [0 held]>"
    loop.stop()
    assert repr(loop) == "<Loop [0 held | stopping]>"
