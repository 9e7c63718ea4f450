"""Rows put together for one call, and cut apart for the gateways: nobody gets another's rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner.errors import ModelError, ProtocolError
from tfrunner.protocol import Part, PartsOf, RunBatch
from tfrunner.specs import DictSpec, TensorSpec, TupleSpec
from tfrunner.tensors import (
    Array,
    Layout,
    Leaf,
    decode_layout,
    encode_layout,
    from_body,
    full_shape,
    rows_of,
    to_body,
    unpack,
)
from tfrunner_workers.assembly import JOIN_BELOW, assemble, disassemble
from tfrunner_workers.hosted import Output

VECTOR = Layout((Leaf("float64", (None, 5)),))
Y = TensorSpec("y", "float64", None)


def part(request: int, *arrays: Array, start: int = 0, stop: int | None = None, axis: int = 0):
    """Return rows of a request that consists of these arrays."""
    rows = arrays[0].shape[axis]
    bodies = tuple(to_body(array) for array in arrays)
    return Part(request, start, rows if stop is None else stop, rows, bodies)


def batch_of(layout: Layout, *groups: Sequence[Part]) -> RunBatch:
    """Return a batch, its groups named g0, g1, ..."""
    named = tuple(PartsOf(f"g{i}".encode(), tuple(parts)) for i, parts in enumerate(groups))
    rows = sum(p.stop - p.start for group in named for p in group.parts)
    return RunBatch(7, 0, "__call__", encode_layout(layout), rows, named)


def numbers(rows: int, first: float = 0.0) -> Array:
    """Return rows of 5 numbers that all differ."""
    return np.arange(rows * 5, dtype=np.float64).reshape(rows, 5) + first


def test_parts_of_two_gateways_are_joined_in_their_order():
    """Uneven requests and a row range make one array."""
    a, b, c = numbers(3), numbers(2, 100), numbers(4, 200)
    batch = batch_of(VECTOR, [part(1, a), part(2, b)], [part(1, c, start=1, stop=3)])
    (array,) = assemble(batch, VECTOR)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, np.concatenate([a, b, c[1:3]]))


def test_a_lone_request_is_not_copied():
    """One part is a view of its body."""
    body = to_body(numbers(1000))
    batch = batch_of(VECTOR, [Part(1, 0, 1000, 1000, (body,))])
    (array,) = assemble(batch, VECTOR)
    assert np.shares_memory(array, np.frombuffer(body, np.float64))


def test_a_row_range_is_a_view_too():
    """A range of a large request is sliced, not copied."""
    body = to_body(numbers(1000))
    batch = batch_of(VECTOR, [Part(1, 10, 20, 1000, (body,))])
    (array,) = assemble(batch, VECTOR)
    assert np.shares_memory(array, np.frombuffer(body, np.float64))
    np.testing.assert_array_equal(array, numbers(1000)[10:20])


def test_large_parts_are_gathered_where_tensorflow_needs_no_second_copy():
    """The buffer of a large batch starts at a multiple of 64 bytes."""
    rows = JOIN_BELOW // 40
    a, b = numbers(rows), numbers(rows, 9e6)
    (array,) = assemble(batch_of(VECTOR, [part(1, a), part(2, b, start=5)]), VECTOR)
    np.testing.assert_array_equal(array, np.concatenate([a, b[5:]]))
    assert array.ctypes.data % 64 == 0


def test_strings_are_joined():
    """Text elements of different lengths keep their rows."""
    layout = Layout((Leaf("string", (None, 2)),))
    a = np.array([[b"", b"one"], [b"two", b"drei"]], object)
    b = np.array([[b"x" * 300, b"y"]], object)
    (array,) = assemble(batch_of(layout, [part(1, a)], [part(1, b)]), layout)
    assert array.tolist() == [*a.tolist(), *b.tolist()]


def test_a_broadcast_parameter_comes_from_the_layout():
    """A rank-0 input has no body in the parts; several inputs keep their order."""
    factor = np.float32(2.5)
    value = Leaf("float32", (), factor.tobytes())
    layout = Layout((Leaf("float64", (None, 5)), value, Leaf("int64", (None,))))
    ids = np.array([4, 5], np.int64)
    batch = batch_of(layout, [part(1, numbers(2), ids)], [part(1, numbers(2, 50), ids + 2)])
    x, f, i = assemble(batch, layout)
    np.testing.assert_array_equal(x, np.concatenate([numbers(2), numbers(2, 50)]))
    assert f.shape == () and f == factor
    assert i.tolist() == [4, 5, 6, 7]


def test_a_request_that_is_not_batchable_passes_whole():
    """Without a batch axis the arrays go in and out as they are, rows uncounted."""
    layout = Layout((Leaf("float64", (3, 5)), Leaf("int32", ())))
    bodies = (to_body(numbers(3)), np.int32(3).tobytes())
    batch = batch_of(layout, [Part(1, 0, 1, 1, bodies)])
    x, n = assemble(batch, layout)
    np.testing.assert_array_equal(x, numbers(3))
    assert n == 3
    (block,) = disassemble(batch, Output([np.float64(7.5)], Y), axis=None)
    (answer,) = unpack(decode_layout(block.block.layout), block.block.bodies, 1)
    assert answer.shape == () and answer == 7.5


BAD = {
    "fewer bytes than rows": [Part(1, 0, 2, 2, (b"\0" * 79,))],
    "a wrong length that another part makes up for": [
        Part(1, 0, 1, 1, (b"\0" * 80,)),
        Part(2, 0, 2, 2, (b"\0" * 40,)),
    ],
    "a range beyond the request": [Part(1, 1, 3, 2, (b"\0" * 80,))],
    "a range that ends before it starts": [Part(1, 2, 1, 2, (b"\0" * 80,))],
    "too few bodies": [Part(1, 0, 1, 1, ())],
    "too many bodies": [Part(1, 0, 1, 1, (b"\0" * 40, b""))],
    "too many bodies in one of two": [
        Part(1, 0, 1, 1, (b"\0" * 40,)),
        Part(2, 0, 1, 1, (b"\0" * 40, b"\0" * 40)),
    ],
}


@pytest.mark.parametrize("parts", BAD.values(), ids=BAD)
def test_a_contradictory_batch_is_refused(parts: list[Part]):
    """Sizes are checked part by part: no row may slide into its neighbour."""
    with pytest.raises(ProtocolError):
        assemble(batch_of(VECTOR, parts), VECTOR)


def test_a_batch_with_another_number_of_rows_is_refused():
    """The header's rows and those of the parts must agree."""
    good = batch_of(VECTOR, [part(1, numbers(2))])
    with pytest.raises(ProtocolError, match="2 rows, the batch 3"):
        assemble(RunBatch(7, 0, "m", good.layout, 3, good.groups), VECTOR)
    with pytest.raises(ProtocolError):
        assemble(RunBatch(7, 0, "m", good.layout, 0, ()), VECTOR)


def test_tensors_without_a_batch_axis_are_not_merged():
    """Two requests of a method that is not batchable never share a call."""
    layout = Layout((Leaf("float64", (5,)),))
    whole = Part(1, 0, 1, 1, (numbers(1).tobytes(),))
    with pytest.raises(ProtocolError, match="no batch axis"):
        assemble(batch_of(layout, [whole], [whole]), layout)


def test_each_gateway_gets_its_rows_of_every_output():
    """Blocks carry the spans in order, and the outputs' structure."""
    batch = batch_of(
        VECTOR,
        [part(1, numbers(1)), part(5, numbers(4), start=2)],
        [part(1, numbers(2))],
    )
    label = np.array([b"a", b"b", b"c", b"d", b"e"], object)
    structure = TupleSpec((DictSpec({"scores": Y}), TensorSpec("label", "string", None)))
    scores = numbers(5)
    first, second = disassemble(batch, Output([scores, label], structure), axis=0)
    assert (first.gateway, second.gateway) == (b"g0", b"g1")
    assert [(s.request, s.start, s.stop, s.rows) for s in first.block.spans] == [
        (1, 0, 1, 1),
        (5, 2, 4, 4),
    ]
    layout = decode_layout(second.block.layout)
    assert layout.structure == structure
    assert [leaf.shape for leaf in layout.leaves] == [(None, 5), (None,)]
    got_scores, got_label = unpack(layout, second.block.bodies, 2)
    np.testing.assert_array_equal(got_scores, scores[3:])
    assert got_label.tolist() == [b"d", b"e"]


@pytest.mark.parametrize(
    "array",
    [numbers(1), numbers(3), np.float64(1.0), np.zeros(0)],
    ids=["one row short", "one row more", "no axis", "no rows"],
)
def test_an_output_with_other_rows_is_a_model_error(array: Array):
    """Rows out must equal rows in, or somebody would get another's."""
    batch = batch_of(VECTOR, [part(1, numbers(1))], [part(1, numbers(1))])
    with pytest.raises(ModelError, match="expected 2 rows"):
        disassemble(batch, Output([numbers(2), array], TupleSpec((Y, Y))), axis=0)


@pytest.mark.parametrize(
    "array",
    [np.array(["2020-01-01"], "M8[D]"), np.array([object()]), np.zeros(1, "V4")],
    ids=["dates", "objects", "records"],
)
def test_an_output_that_cannot_be_sent_is_a_model_error(array: Array):
    """The message says which output."""
    batch = batch_of(VECTOR, [part(1, numbers(1))])
    with pytest.raises(ModelError):
        disassemble(batch, Output([array], Y), axis=0)


def test_tensors_and_structure_must_have_the_same_count():
    """A model that returns more tensors than it names is not answered with."""
    batch = batch_of(VECTOR, [part(1, numbers(1))])
    with pytest.raises(ModelError, match="2 tensors in a structure of 1"):
        disassemble(batch, Output([numbers(1), numbers(1)], Y), axis=0)


@st.composite
def splits(draw: st.DrawFn):
    """Draw a dtype, input and output axis, and groups of (rows, start, stop)."""
    dtype = draw(st.sampled_from(["float32", "int64", "bool", "string"]))
    axes = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    ranges = st.integers(0, 5).flatmap(
        lambda rows: st.tuples(st.just(rows), st.integers(0, rows), st.integers(0, rows))
    )
    groups = draw(st.lists(st.lists(ranges, min_size=1, max_size=4), min_size=1, max_size=3))
    return dtype, axes, [[(n, min(a, b), max(a, b)) for n, a, b in group] for group in groups]


@given(splits())
def test_every_row_comes_back_to_its_request(drawn):
    """For any dtype, axes, ranges and gateways (a model that moves the batch axis included)."""
    dtype, (axis, out_axis), groups = drawn
    shape = tuple(None if i == axis else size for i, size in enumerate((2, 3, 2)))
    leaf = Leaf(dtype, shape)
    random = np.random.default_rng(1)
    requests: dict[tuple[int, int], Array] = {}
    parts: list[list[Part]] = []
    for g, group in enumerate(groups):
        parts.append([])
        for r, (rows, start, stop) in enumerate(group):
            made = random.integers(0, 100, full_shape(leaf, rows))
            array = made.astype(str).astype(object) if dtype == "string" else made.astype(dtype)
            requests[g, r] = from_body(to_body(array), dtype, array.shape)
            parts[g].append(part(r, array, start=start, stop=stop, axis=axis))
    layout = Layout((leaf,))
    batch = batch_of(layout, *parts)
    (x,) = assemble(batch, layout)
    blocks = disassemble(batch, Output([np.moveaxis(x, axis, out_axis)], Y), axis=out_axis)
    for g, addressed in enumerate(blocks):
        spans = addressed.block.spans
        rows = sum(span.stop - span.start for span in spans)
        (y,) = unpack(decode_layout(addressed.block.layout), addressed.block.bodies, rows)
        at = 0
        for span in spans:
            stop = at + span.stop - span.start
            sent = rows_of(requests[g, span.request], axis, span.start, span.stop)
            np.testing.assert_array_equal(
                rows_of(y, out_axis, at, stop), np.moveaxis(sent, axis, out_axis)
            )
            at = stop
