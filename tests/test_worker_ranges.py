"""A request that is larger than the bound: of each part a worker reads only its own rows."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tfrunner.casting import Call, cast
from tfrunner.protocol import BatchDone, BatchFailed, Part, PartsOf, Place, RunBatch
from tfrunner.shared_memory import Memory, create
from tfrunner.specs import ANY, Argument, MethodSpec, TensorSpec
from tfrunner.tensors import Array, decode_layout, unpack
from tfrunner_workers.answering import Entry, answer
from tfrunner_workers.hosted import Output
from tfrunner_workers.ranges import KEPT, Ranges
from tfrunner_workers.segments import Segments

ROWS = 20_000
PART = 16
"""Rows of a large request, and of each of its parts."""

SEGMENT = 64 * 2**20
LEAST = 400_000
"""Bytes, or more, that each of the large requests here has."""

VALUES: dict[str, tuple[str, Any]] = {
    "numbers": ("float32", np.arange(ROWS * 20, dtype=np.float32).reshape(ROWS, 20)),
    "text": ("string", np.array([b"%09d of many" % n for n in range(ROWS)], object)),
    "plain values": (ANY, [{"row": n, "of": "many rows " * 20} for n in range(ROWS)]),
}


class Keeping:
    """A model that gives its rows back, and keeps them.

    Args:
        dtype: Of its input.
    """

    def __init__(self, dtype: str) -> None:
        self.spec = TensorSpec("x", dtype, (None,) if dtype == "string" else None)
        self.method = MethodSpec("same", (Argument("x", self.spec),), batchable=True)
        self.kept: list[Array] = []

    def run(self, arrays: list[Array]) -> Output:
        """Keep the rows, and give them back."""
        self.kept += arrays
        return Output(arrays, self.spec)

    def table(self) -> dict[str, Entry]:
        """Return its method as the loop runs it."""
        return {"same": Entry(self.run, (((self.spec.dtype, 0),),), 0, batchable=True)}

    def call(self, value: Any) -> Call:
        """Return a call as it travels."""
        return cast(self.method, (value,), {})


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A segment of the gateway `g`."""
    made = create("tfrunner:g:1", SEGMENT)
    assert made is not None
    yield made
    made.close()


def part_of(call: Call, start: int, *, bodies: tuple[Any, ...], memory: Memory | None) -> RunBatch:
    """Return the batch of the rows that begin at `start`."""
    stop = min(call.rows, start + PART)
    groups = (PartsOf(b"g", (Part(1, start, stop, call.rows, bodies),), memory and memory.segment),)
    return RunBatch(1, 1, "same", call.layout, stop - start, groups)


def rows_of(done: BatchDone | BatchFailed, count: int) -> list[Any]:
    """Return the rows that a batch was answered with."""
    assert isinstance(done, BatchDone), done
    (addressed,) = done.blocks
    (array,) = unpack(decode_layout(addressed.block.layout), addressed.block.bodies, count)
    return list(array.tolist())


@pytest.mark.parametrize("is_lent", [True, False], ids=["shared memory", "frames"])
@pytest.mark.parametrize(("dtype", "value"), VALUES.values(), ids=VALUES)
def test_a_part_costs_what_its_own_rows_cost(
    memory: Memory, dtype: str, value: Any, is_lent: bool
) -> None:
    """Of the second part on, no more memory is taken than a small share of the whole request.

    Before, each part copied, or decoded, all of it: 100 000 rows took half a minute.
    """
    model, segments, ranges = Keeping(dtype), Segments(), Ranges()
    call = model.call(value)
    (body,) = call.bodies
    assert len(body) >= LEAST
    bodies = (memory.put(body),) if is_lent else (memoryview(body),)
    peaks = []
    for start in (0, PART, ROWS // 2, ROWS - PART // 2):
        batch = part_of(call, start, bodies=bodies, memory=memory if is_lent else None)
        tracemalloc.start()
        done = answer(model.table(), batch, segments, ranges)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (
            rows_of(done, batch.rows)
            == list(value.tolist() if isinstance(value, np.ndarray) else value)[
                start : start + PART
            ]
        )
    assert max(peaks[1:]) < len(body) / 10
    assert repr(ranges) == "<Ranges [0 requests]>"  # the last rows were among them


@pytest.mark.parametrize(("dtype", "value"), VALUES.values(), ids=VALUES)
def test_rows_that_a_model_keeps_do_not_change_with_the_slot(
    memory: Memory, dtype: str, value: Any
) -> None:
    """They are its own, and read-only as all inputs of it are."""
    model = Keeping(dtype)
    call = model.call(value)
    place = memory.put(call.bodies[0])
    assert place is not None
    answer(model.table(), part_of(call, 5, bodies=(place,), memory=memory), Segments())
    before = model.kept[0].tolist()
    memory.mapping[place.offset : place.offset + place.length] = bytes(place.length)
    assert model.kept[0].tolist() == before
    assert dtype != "float32" or not model.kept[0].flags.writeable


def test_the_same_number_of_two_gateways_is_two_requests() -> None:
    """Nobody is given rows by the index of another's request, though it is as large."""
    model, ranges = Keeping("string"), Ranges()
    texts = [b"short"] * 40 + [b"as long as this"] * 40
    requests = {b"one": texts, b"two": texts[::-1]}
    for start in range(0, len(texts), PART):
        for gateway, elements in requests.items():
            call = model.call(np.array(elements, object))
            batch = part_of(call, start, bodies=call.bodies, memory=None)
            group = PartsOf(gateway, batch.groups[0].parts)
            given = RunBatch(1, 1, "same", call.layout, batch.rows, (group,))
            found = rows_of(answer(model.table(), given, Segments(), ranges), PART)
            assert found == elements[start : start + PART]


def test_few_requests_are_remembered() -> None:
    """Those that ended elsewhere, or were given up, are forgotten for others."""
    model, ranges = Keeping("string"), Ranges()
    call = model.call(np.array([b"x"] * 99, object))
    for number in range(3 * KEPT):
        group = PartsOf(b"g", (Part(number, 0, PART, 99, call.bodies),))
        answer(
            model.table(), RunBatch(1, 1, "same", call.layout, PART, (group,)), Segments(), ranges
        )
    assert repr(ranges) == f"<Ranges [{KEPT} requests]>"


@pytest.mark.parametrize(
    "bodies",
    [(b"\1\0\0\0x",), (), (b"\1\0\0\0x" * 99, b""), (Place(0, 9),)],
    ids=["fewer rows", "no body", "two", "a place without a segment"],
)
def test_a_part_whose_request_contradicts_itself_is_refused(bodies: tuple[Any, ...]) -> None:
    """With an answer; the worker lives on."""
    model = Keeping("string")
    call = model.call(np.array([b"x"] * 99, object))
    failed = answer(
        model.table(), part_of(call, PART, bodies=bodies, memory=None), Segments(), Ranges()
    )
    assert isinstance(failed, BatchFailed)
    assert failed.code == "protocol_error"
