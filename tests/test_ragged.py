"""Ragged tensors: rows of different lengths, in and out of bodies, cut and put together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrunner import packing, ragged
from tfrunner.casting import bind, call, cast
from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.specs import Argument, MethodSpec, TensorSpec
from tfrunner.tensors import Leaf, decode_layout, from_body, leaf_of, rows_of, to_body, unpack

WORDS = TensorSpec("words", "float64", (None, None), ragged_rank=1)
TEXTS = TensorSpec("texts", "string", (None, None), ragged_rank=1)
PAGES = TensorSpec("pages", "int64", (None, None, None), ragged_rank=2)
POINTS = TensorSpec("points", "float32", (None, None, 2), ragged_rank=1)


def method(spec: TensorSpec, *, batchable: bool = True) -> MethodSpec:
    """Return a method with one ragged argument."""
    return MethodSpec("__call__", (Argument(spec.name, spec),), batchable=batchable)


def to_lists(array: Any) -> Any:
    """Return a ragged array as plain lists."""
    return [to_lists(row) if row.dtype == object else row.tolist() for row in array]


NUMBERS = st.lists(st.lists(st.floats(allow_nan=False), max_size=4), max_size=6)


@given(rows=NUMBERS)
def test_rows_of_numbers_come_back(rows: list[list[float]]) -> None:
    """Through casting, a body and back; empty rows and no rows too."""
    (array,) = bind(method(WORDS), [rows], {})
    assert array.shape == (len(rows),)
    leaf = leaf_of(WORDS, array)
    assert leaf == Leaf("float64", (len(rows),), None, 1)
    back = from_body(to_body(array, leaf), "float64", (len(rows),), 1)
    assert to_lists(back) == rows
    assert all(row.dtype == np.float64 for row in back)


@given(rows=st.lists(st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=3), max_size=4))
def test_two_ragged_axes_come_back(rows: list[list[list[int]]]) -> None:
    """Lists of lists of different lengths."""
    (array,) = bind(method(PAGES), [rows], {})
    back = from_body(to_body(array, leaf_of(PAGES, array)), "int64", (len(rows),), 2)
    assert to_lists(back) == rows


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (TEXTS, [["a", "bc"], [], ["d"]]),
        (POINTS, [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], []]),
    ],
    ids=["texts", "a dense axis inside"],
)
def test_other_elements_come_back(spec: TensorSpec, rows: list[Any]) -> None:
    """Text as bytes; elements that have a shape of their own."""
    sent = cast(method(spec), [rows], {})
    (array,) = unpack(decode_layout(sent.layout), sent.bodies, sent.rows)
    assert sent.rows == len(rows)
    expected = [[text.encode() for text in row] for row in rows] if spec is TEXTS else rows
    assert [row.tolist() for row in array] == expected


def test_requests_of_any_lengths_have_one_layout() -> None:
    """So the dispatcher merges them."""
    first = cast(method(WORDS), [[[1.0], [2.0, 3.0]]], {})
    second = cast(method(WORDS), [[[4.0, 5.0, 6.0]]], {})
    assert first.layout == second.layout
    assert (first.rows, second.rows) == (2, 1)


def test_a_method_that_is_not_batchable_takes_them_whole() -> None:
    """The number of rows is part of the layout then."""
    sent = call(method(WORDS, batchable=False), bind(method(WORDS), [[[1.0], []]], {}))
    (leaf,) = decode_layout(sent.layout).leaves
    assert leaf == Leaf("float64", (2,), None, 1)
    assert to_lists(unpack(decode_layout(sent.layout), sent.bodies, 1)[0]) == [[1.0], []]


def test_rows_are_cut_like_those_of_any_array() -> None:
    """As the worker cuts a request that is too large, and the gateway its answer."""
    (array,) = bind(method(WORDS), [[[1.0], [2.0, 3.0], []]], {})
    assert to_lists(rows_of(array, 0, 1, 3)) == [[2.0, 3.0], []]


@pytest.mark.parametrize(
    "value",
    [
        [np.array([1, 2]), np.array([3])],
        ragged.rows_array([np.array([1.0, 2.0]), np.array([3.0])]),
        ((1, 2), (3,)),
    ],
    ids=["list of arrays", "array of arrays", "tuples"],
)
def test_callers_write_rows_as_they_like(value: Any) -> None:
    """All of these are cast row by row."""
    (array,) = bind(method(WORDS), [value], {})
    assert to_lists(array) == [[1.0, 2.0], [3.0]]


def test_a_dense_array_is_ragged_too() -> None:
    """Its rows happen to have one length."""
    (array,) = bind(method(WORDS), [np.ones((2, 3), np.int32)], {})
    assert to_lists(array) == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "expected rows"),
        ([1.0, 2.0], "has shape []"),
        ([[1.0], ["x"]], "'words[1]' holds text"),
        ([[[1.0]]], "has shape [1, 1]"),
        ([[1.0, [2.0]]], "is ragged"),
    ],
    ids=["a number", "flat", "text", "too deep", "mixed"],
)
def test_what_is_not_nested_so_is_refused(value: Any, text: str) -> None:
    """The message says which row."""
    with pytest.raises(InvalidInput) as caught:
        bind(method(WORDS), [value], {})
    assert text in caught.value.message


BODY = to_body(ragged.rows_array([np.ones(2), np.ones(1)]), Leaf("float64", (2,), None, 1))


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (bytes(BODY)[:-1], 2),
        (bytes(BODY)[:9], 2),
        (bytes(BODY), 3),
        (bytes(BODY) + b"\0" * 8, 2),
        (np.array([-1, 4], "<i8").tobytes() + b"\0" * 24, 2),
        (np.array([2**62, 2**62], "<i8").tobytes(), 2),
    ],
    ids=["values cut", "lengths cut", "more rows", "left over", "negative", "huge"],
)
def test_a_body_that_lies_is_refused(body: bytes, rows: int) -> None:
    """Before anything is allocated from what it claims."""
    with pytest.raises(ProtocolError):
        from_body(body, "float64", (rows,), 1)


def test_ragged_arrays_travel_in_messagepack() -> None:
    """As the HTTP client sends and gets them."""
    array = ragged.rows_array([np.ones(2), np.ones(1)])
    back = packing.unpack(packing.pack({"x": array}))["x"]
    assert back.dtype == object
    assert to_lists(back) == [[1.0, 1.0], [1.0]]
