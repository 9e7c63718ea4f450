"""Values without a specification: how they travel, and what arrives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfrunner.casting import bind, cast
from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.objects import OBJECT, from_any, to_any
from tfrunner.specs import ANY, Argument, MethodSpec, TensorSpec
from tfrunner.tensors import decode_layout, from_body, leaf_of, to_body, unpack

SPEC = TensorSpec("x", ANY, None)


def method(*, batchable: bool) -> MethodSpec:
    """Return a method with one argument that takes anything."""
    return MethodSpec("__call__", (Argument("x", SPEC),), batchable=batchable)


def arrives(value: Any, *, batchable: bool = False) -> Any:
    """Return what the callee gets."""
    sent = cast(method(batchable=batchable), [value], {})
    (array,) = unpack(decode_layout(sent.layout), sent.bodies, sent.rows)
    return from_any(array)


@pytest.mark.parametrize("batchable", [False, True], ids=["whole", "by rows"])
@pytest.mark.parametrize(
    "value",
    [1, 2.2, "str", b"bytes", None, True, {"a": [1, {"b": None}]}, [], [1, "a", None], [[1], [2]]],
    ids=repr,
)
def test_plain_values_arrive_unchanged(value: Any, batchable: bool) -> None:
    """Type and all."""
    got = arrives(value, batchable=batchable)
    assert got == value
    assert type(got) is type(value)


def test_numbers_stay_arrays() -> None:
    """With their dtype and shape; a tensor's rows are rows."""
    for array in (np.arange(6, dtype=np.int8).reshape(2, 3), np.array([1.5, np.nan])):
        got = arrives(array, batchable=True)
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_arrays_inside_plain_values_stay_arrays() -> None:
    """As MessagePack carries them."""
    got = arrives({"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(got["x"], np.ones(3, np.float32))
    assert got["x"].dtype == np.float32


def test_a_numpy_scalar_stays_one() -> None:
    """A value of rank 0, with its dtype."""
    got = arrives(np.float32(1.5))
    assert (got, got.dtype) == (1.5, np.float32)


def test_text_arrays_arrive_as_lists() -> None:
    """Documented so: NumPy's text arrays have no form of their own on the wire."""
    assert arrives(np.array(["a", "bc"])) == ["a", "bc"]


def test_lists_are_rows_and_others_broadcast() -> None:
    """Only calls with equal broadcast values share a layout."""
    both = MethodSpec(
        "__call__",
        (Argument("x", SPEC), Argument("scale", TensorSpec("scale", ANY, None))),
        batchable=True,
    )
    first, second = cast(both, [[1, 2, 3], {"k": 1}], {}), cast(both, [["a"], {"k": 1}], {})
    other = cast(both, [[1], {"k": 2}], {})
    assert (first.rows, second.rows) == (3, 1)
    assert first.layout == second.layout != other.layout


class Opaque:
    """Something that only a pickle could carry."""


@pytest.mark.parametrize(
    "value",
    [Opaque(), [1, Opaque()], {1, 2}, 2**70, np.array(["2020-01-01"], "datetime64[D]")],
    ids=["object", "inside a list", "set", "huge integer", "dates"],
)
def test_what_cannot_travel_is_refused_at_the_caller(value: Any) -> None:
    """Locally as remotely: the same error, naming the input."""
    with pytest.raises(InvalidInput) as caught:
        bind(method(batchable=False), [value], {})
    assert "'x'" in caught.value.message


@pytest.mark.parametrize(
    ("body", "shape"),
    [(b"\x05\0\0\0ab", (1,)), (b"\x01\0\0\0\xc1", (1,)), (b"\x01\0\0\0\x01", (2,))],
    ids=["cut", "no MessagePack", "too few"],
)
def test_a_body_that_lies_is_refused(body: bytes, shape: tuple[int, ...]) -> None:
    """With a named error."""
    with pytest.raises(ProtocolError):
        from_body(body, OBJECT, shape)


def test_no_object_is_unpickled() -> None:
    """An array of objects inside a value is refused when packing: nothing could carry it."""
    array = np.array([Opaque()], dtype=object)
    leaf = leaf_of(SPEC, to_any([array]))
    with pytest.raises(InvalidInput):
        to_body(to_any([array]), leaf)
