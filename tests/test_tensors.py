"""Tensors on the wire: bodies, layouts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrunner.errors import InvalidInput, ModelError, ProtocolError
from tfrunner.objects import OBJECT
from tfrunner.protocol import INLINE_BYTES
from tfrunner.specs import DictSpec, TensorSpec
from tfrunner.tensors import (
    DTYPES,
    STRING,
    Array,
    Layout,
    Leaf,
    batch_axis,
    check_rows,
    decode_layout,
    dtype_name,
    encode_layout,
    from_body,
    full_shape,
    rows_of,
    to_body,
    unpack,
)

NUMERIC = sorted(set(DTYPES) - {STRING, OBJECT, "bfloat16"})  # the last: no strategy makes it
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def strings(items: list[bytes], shape: tuple[int, ...]) -> Array:
    """Return an array of bytes objects."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


@given(data=st.data(), name=st.sampled_from(NUMERIC), shape=SHAPES)
def test_a_numeric_array_comes_back_bit_by_bit(
    data: st.DataObject, name: str, shape: tuple[int, ...]
) -> None:
    """Every dtype, any rank, empty ones too; NaN's bits as well."""
    array: Array = data.draw(arrays.arrays(DTYPES[name], shape))
    back = from_body(to_body(array), name, shape)
    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()


@given(items=st.lists(st.binary(max_size=20), max_size=12))
def test_strings_come_back_with_every_byte(items: list[bytes]) -> None:
    """Trailing zero bytes and empty strings are kept."""
    back = from_body(to_body(strings(items, (len(items),))), STRING, (len(items),))
    assert back.tolist() == items


def test_text_travels_as_utf8() -> None:
    """NumPy's text dtypes are strings too."""
    assert from_body(to_body(np.array([["ü", "ab"]])), STRING, (1, 2)).tolist() == [
        ["ü".encode(), b"ab"]
    ]
    assert dtype_name(np.array(["a"])) == dtype_name(np.array([b"a"])) == STRING


@pytest.mark.parametrize("rows", [2, INLINE_BYTES], ids=["small", "large"])
@pytest.mark.parametrize(
    "view",
    [lambda a: a.astype(">f4"), lambda a: a[:, ::2], lambda a: a.T, lambda a: a[::-1]],
    ids=["big-endian", "strided", "transposed", "reversed"],
)
def test_any_memory_layout_travels_as_little_endian_c_order(view: object, rows: int) -> None:
    """What the array holds counts, not how it lies in memory."""
    array = view(np.arange(rows * 4, dtype="float32").reshape(rows, 4))  # type: ignore[operator]
    back = from_body(to_body(array), "float32", array.shape)
    assert np.array_equal(back, array)


def test_a_large_array_is_not_copied() -> None:
    """Its body is a view of its own memory."""
    array = np.zeros(INLINE_BYTES, dtype="uint8")
    body = to_body(array)
    array[7] = 9
    assert body[7] == 9


def test_an_object_that_is_no_text_has_no_body() -> None:
    """Objects never travel."""
    with pytest.raises(InvalidInput, match="NoneType"):
        to_body(np.array([b"a", None], dtype=object))


@pytest.mark.parametrize(
    ("body", "dtype", "shape"),
    [
        (b"\0" * 7, "float32", (2,)),
        (b"\0" * 8, "float32", (3,)),
        (b"\0" * 12, "float32", (2,)),
        (b"\0" * 8, "object", (1,)),
        (b"\2\0\0\0a", STRING, (1,)),
        (b"\1\0\0", STRING, (1,)),
        (b"\1\0\0\0a", STRING, (2,)),
    ],
    ids=["torn", "short", "long", "objects", "cut string", "cut length", "too few strings"],
)
def test_a_body_that_does_not_fit_is_refused(
    body: bytes, dtype: str, shape: tuple[int, ...]
) -> None:
    """Never a wrong array, never another exception."""
    with pytest.raises(ProtocolError):
        from_body(body, dtype, shape)


def test_a_layout_comes_back_and_equal_ones_give_equal_bytes() -> None:
    """Also with the structure of a result that is a dict."""
    layout = Layout(
        (Leaf("float32", (None, 3)), Leaf("int64", (), b"12345678")),
        DictSpec({"a": TensorSpec("a", "float32", None), "b": TensorSpec("b", "int64", ())}),
    )
    data = encode_layout(layout)
    assert decode_layout(data) == layout
    again = DictSpec({"a": TensorSpec("a", "float32", None), "b": TensorSpec("b", "int64", ())})
    assert hash(again) == hash(layout.structure)
    assert encode_layout(Layout(layout.leaves, again)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_layout(Layout((Leaf("float128", (1,)),))),
        encode_layout(Layout((Leaf("float32", (-1,)),))),
    ],
    ids=["empty", "no msgpack", "dtype", "negative size"],
)
def test_a_layout_that_stands_for_none_is_refused(data: bytes) -> None:
    """Unknown dtypes and impossible shapes too."""
    with pytest.raises(ProtocolError):
        decode_layout(data)


def test_unpack_gives_every_tensor_broadcast_ones_too() -> None:
    """The batch axis takes the number of rows; a value in the layout needs no body."""
    layout = Layout((Leaf("float32", (None, 2)), Leaf("int32", (), b"\5\0\0\0")))
    x, factor = unpack(layout, [np.arange(6, dtype="float32").tobytes()], 3)
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert factor.shape == ()
    assert int(factor) == 5  # type: ignore[call-overload]


@pytest.mark.parametrize("bodies", [[], [b"\0" * 4] * 2], ids=["fewer", "more"])
def test_unpack_refuses_another_number_of_bodies(bodies: list[bytes]) -> None:
    """Bodies and layout must tell the same story."""
    with pytest.raises(ProtocolError):
        unpack(Layout((Leaf("float32", (None,)),)), bodies, 1)


def test_rows_are_counted_and_cut_along_the_batch_axis() -> None:
    """On whichever axis the layout leaves open."""
    leaf = Leaf("float32", (2, None))
    assert batch_axis(leaf) == 1
    assert batch_axis(Leaf("float32", (2, 3))) is None
    assert full_shape(leaf, 7) == (2, 7)
    array = np.arange(6).reshape(2, 3)
    assert rows_of(array, 1, 1, 3).tolist() == [[1, 2], [4, 5]]
    assert rows_of(array, 0, 1, 2).tolist() == [[3, 4, 5]]


@pytest.mark.parametrize("shape", [(2, 1), (), (4,)], ids=["fewer", "scalar", "more"])
def test_a_model_that_returns_other_rows_is_found_out(shape: tuple[int, ...]) -> None:
    """The message names the output and both numbers."""
    check_rows(np.zeros((3, 2)), 0, 3, output="y")
    with pytest.raises(ModelError, match=r"'y'.*expected 3 rows"):
        check_rows(np.zeros(shape), 0, 3, output="y")
