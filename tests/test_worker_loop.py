"""The worker's loop, with a link in memory: every batch is answered once, whatever it holds."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from tests.waiting import wait_for
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
from tfrunner.tensors import Array, Layout, Leaf, decode_layout, encode_layout, unpack
from tfrunner_workers.answering import Entry, answer, entries
from tfrunner_workers.echo import EchoModel
from tfrunner_workers.hosted import TEXT_LIMIT, Output
from tfrunner_workers.loop import Loop
from tfrunner_workers.segments import Segments
from tfrunner_workers.splitting import Split
from tfrunner_workers.warmup import declared

LAYOUT = encode_layout(Layout((Leaf("float32", (None, 2)),)))


class Line:
    """A link in memory: hands over prepared deliveries, one each time, and keeps the answers."""

    def __init__(self, *deliveries: list[Message]) -> None:
        self._deliveries = list(deliveries)
        self.sent: list[Message] = []
        self.blocked: list[bool] = []

    def receive(self, *, block: bool, wakers: Sequence[int] = ()) -> list[Message]:
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


# --- methods that split their batches -------------------------------------------------------------


class Threads:
    """The echo model in two threads; rows of a negative number wait until they are let go."""

    def __init__(self) -> None:
        self.model = EchoModel()
        self.echo = self.model.methods["__call__"]
        self.method = self.model.spec.methods["__call__"]
        self.gate = threading.Event()
        self.sizes: list[int] = []

    def part(self, arrays: list[Array]) -> Output:
        """Echo rows."""
        self.sizes.append(len(arrays[0]))
        if arrays[0].min() < 0:
            assert self.gate.wait(20)
        if arrays[0].max() == 13:
            raise ValueError("thirteen")
        return self.echo(arrays)

    def table(self) -> dict[str, Entry]:
        """Return the methods."""
        self.split = Split(self.method, self.part, self.part, 2)
        self.model.methods["__call__"] = self.split
        return entries(self.model, declared(self.model))


@pytest.fixture
def threads() -> Iterator[Threads]:
    """A model whose batches are split."""
    made = Threads()
    yield made
    made.gate.set()
    made.split.close()


class Patient(Line):
    """A link that says stop only after so many answers, and calls back when it would wait."""

    def __init__(self, answers: int, *deliveries: list[Message], then: Callable[[], None]) -> None:
        super().__init__(*deliveries)
        self._answers = answers
        self._then = then

    def receive(self, *, block: bool, wakers: Sequence[int] = ()) -> list[Message]:
        """Return the next delivery; wait for the bell when there is none."""
        self.blocked.append(block)
        if self._deliveries:
            return self._deliveries.pop(0)
        if len(self.sent) == self._answers:
            return [Stop()]
        if block:
            self._then()
            assert select.select(list(wakers), [], [], 20)[0], "nobody rang"
        return []


def test_a_split_batch_is_answered_like_any_other(threads):
    """Its rows in their order; what it cost is said beside what it took."""
    line = Patient(1, [batch(1, 10, 11, 12)], then=lambda: None)
    Loop(line, threads.table()).run()
    (done,) = line.sent
    assert values(done) == [10, 11, 12]
    assert sorted(threads.sizes) == [1, 2]
    assert done.cost is not None and done.cost > 0 and done.seconds > 0
    (addressed,) = done.blocks
    assert addressed.block.timing[1] == done.seconds


def test_the_next_batch_is_begun_while_one_runs_and_answered_after_it(threads):
    """Although it is done before; no third one is begun meanwhile."""
    table = threads.table()
    waits: list[list[int]] = []

    def let_go() -> None:
        wait_for(lambda: len(threads.sizes) >= 3)  # else nobody rings: the gate is shut
        waits.append(sorted(threads.sizes))
        threads.gate.set()

    numbers = [batch(1, -1, 5), batch(2, 20), batch(3, 30, 31)]
    line = Patient(3, numbers, then=let_go)
    Loop(line, table).run()
    assert [(m.batch, values(m)) for m in line.sent] == [
        *[(1, [-1, 5]), (2, [20]), (3, [30, 31])],
    ]
    assert len(threads.sizes) == 5
    assert [1, 1, 1] in waits


def test_what_cannot_be_split_waits_for_what_runs(threads):
    """Another method of the model, and a batch that is malformed, are answered in their turn."""
    table = threads.table()
    other = batch(2, 6, method="fail")
    malformed = batch(4, 1, layout=b"\xc1")
    line = Patient(
        *(5, [batch(1, -1, 5), other, batch(3, 7, 8), malformed, batch(5, 9)]),
        then=threads.gate.set,
    )
    Loop(line, table).run()
    assert [m.batch for m in line.sent] == [1, 2, 3, 4, 5]
    assert [type(m) is BatchFailed for m in line.sent] == [False, False, False, True, False]
    assert values(line.sent[4]) == [9]


def test_a_part_that_raises_fails_its_batch_and_nothing_else(threads, caplog):
    """Not the one that ran beside it."""
    with caplog.at_level(logging.ERROR, "tfrunner.worker"):
        line = Patient(2, [batch(1, 1, 13), batch(2, 2, 3)], then=lambda: None)
        Loop(line, threads.table()).run()
    failed, done = line.sent
    assert failed == BatchFailed(1, 3, "model_error", "ValueError: thirteen")
    assert values(done) == [2, 3]


def test_a_stop_waits_for_what_runs(threads):
    """And for what was begun behind it."""
    line = Patient(2, [batch(1, -1, 5), batch(2, 7), Stop()], then=threads.gate.set)
    Loop(line, threads.table()).run()
    assert [m.batch for m in line.sent] == [1, 2]


def test_a_new_dispatcher_s_welcome_drops_what_runs(threads):
    """When nobody reads its rows any more; the next batch is answered."""
    table = threads.table()
    threading.Timer(0.1, threads.gate.set).start()
    line = Patient(1, [batch(1, -1, 5)], [Welcome("another"), batch(2, 2)], then=lambda: None)
    Loop(line, table).run()
    assert threads.gate.is_set()
    assert [m.batch for m in line.sent] == [2]


def test_a_batch_that_cannot_be_begun_fails_in_its_turn(threads, monkeypatch):
    """A machine without threads, say."""
    table, start = threads.table(), threads.split.start

    def refuse(arrays, **options):
        if arrays[0][0, 0] == 2:
            raise RuntimeError("can't start new thread")
        return start(arrays, **options)

    monkeypatch.setattr(threads.split, "start", refuse)
    line = Patient(3, [batch(1, -1, 5), batch(2, 2), batch(3, 3)], then=threads.gate.set)
    Loop(line, table).run()
    assert [m.batch for m in line.sent] == [1, 2, 3]
    assert line.sent[1].message == "RuntimeError: can't start new thread"
    assert values(line.sent[2]) == [3]
