"""Rows cut out of a body: the same bytes as if only those rows had been sent."""

from __future__ import annotations

import numpy as np
import pytest

from tfrunner import ragged
from tfrunner.errors import ProtocolError
from tfrunner.objects import OBJECT
from tfrunner.row_ranges import can_cut, index_of
from tfrunner.tensors import Array, Layout, Leaf, to_body

ROWS = 7


def rows_of_rows(*lengths: int) -> Array:
    """Return a ragged array whose rows have these lengths, all numbers different."""
    stops = np.cumsum(lengths)
    return ragged.rows_array(
        [np.arange(stop - n, stop, dtype=np.int32) for n, stop in zip(lengths, stops, strict=True)]
    )


def texts(*shape: int) -> Array:
    """Return elements of different lengths; some are empty."""
    flat = np.array(
        [b"x" * (n % 5) + bytes([n]) * (n % 3) for n in range(int(np.prod(shape)))], object
    )
    return flat.reshape(shape)


DEEP = ragged.rows_array([rows_of_rows(*n) for n in ([1, 2], [], [0], [3, 0, 1], [2], [], [5])])
CASES: dict[str, tuple[Leaf, Array]] = {
    "numbers": (Leaf("float64", (None, 3)), np.arange(ROWS * 3.0).reshape(ROWS, 3)),
    "one number each": (Leaf("int8", (None,)), np.arange(ROWS, dtype=np.int8)),
    "rows of nothing": (Leaf("float32", (None, 0)), np.zeros((ROWS, 0), np.float32)),
    "text": (Leaf("string", (None,)), texts(ROWS)),
    "text in two axes": (Leaf("string", (None, 2, 2)), texts(ROWS, 2, 2)),
    "rows of no text": (Leaf("string", (None, 0)), texts(ROWS, 0)),
    "plain values": (
        Leaf(OBJECT, (None,)),
        ragged.rows_array([1, "two", None, {"a": [3]}, b"4", 5.5, []]),
    ),
    "ragged": (Leaf("int32", (None,), None, 1), rows_of_rows(3, 0, 1, 5, 0, 2, 4)),
    "ragged twice": (Leaf("int32", (None,), None, 2), DEEP),
    "ragged text": (
        Leaf("string", (None,), None, 1),
        ragged.rows_array([texts(n) for n in (2, 0, 3, 1, 0, 4, 2)]),
    ),
}


@pytest.mark.parametrize(("leaf", "array"), CASES.values(), ids=CASES)
def test_a_range_is_what_those_rows_alone_would_be(leaf: Leaf, array: Array) -> None:
    """For every range, the empty ones too."""
    body = to_body(array, leaf)
    index = index_of(leaf, body, ROWS)
    for start in range(ROWS + 1):
        for stop in range(start, ROWS + 1):
            assert bytes(index.cut(body, start, stop)) == bytes(to_body(array[start:stop], leaf))


@pytest.mark.parametrize(
    ("leaf", "body", "rows"),
    [
        (Leaf("float32", (None, 2)), b"\0" * 15, 2),
        (Leaf("string", (None,)), b"\1\0\0\0a", 2),
        (Leaf("string", (None,)), b"\3\0\0\0a", 1),
        (Leaf("string", (None, 0)), b"\0\0\0\0", 1),
        (Leaf("int32", (None,), None, 1), b"\1" + b"\0" * 7, 1),
        (Leaf("int32", (None,), None, 1), b"\1" + b"\0" * 6, 1),
        (Leaf("int32", (None,), None, 1), b"\xff" * 8 + b"\1" + b"\0" * 7, 2),
    ],
    ids=["numbers", "fewer texts", "a text cut short", "texts where none are", "no values",
         "no lengths", "negative lengths"],
)  # fmt: skip
def test_a_body_that_contradicts_its_rows_is_refused(leaf: Leaf, body: bytes, rows: int) -> None:
    """Before anything is cut."""
    with pytest.raises(ProtocolError):
        index_of(leaf, body, rows)


def test_rows_on_another_axis_are_not_cut() -> None:
    """They do not lie one after the other."""
    assert can_cut(Layout((Leaf("int8", (None, 2)), Leaf("int8", (), b"1"))))
    assert not can_cut(Layout((Leaf("int8", (None, 2)), Leaf("int8", (2, None)))))
    assert not can_cut(Layout((Leaf("int8", (2,)),)))
