"""The short way of casting gives what the general way gives, or leaves it to that one."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from msgspec.structs import replace

from tfrunner.casting import cast
from tfrunner.errors import InvalidInput
from tfrunner.shortcuts import shortcut
from tfrunner.specs import Argument, DictSpec, MethodSpec, Padding, TensorSpec


def method(shape: tuple[int | None, ...] | None, dtype: str = "float32") -> MethodSpec:
    """Return a batchable method that takes one tensor."""
    tensor = TensorSpec("x", dtype, shape)
    return MethodSpec("m", (Argument("x", tensor),), output=tensor, batchable=True)


DTYPES = ("float32", "float64", "int64", "int8", "uint16", "bool", "float16", "complex64")
VALUES = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=3, min_side=0))
)


@given(
    value=VALUES,
    dtype=st.sampled_from(DTYPES),
    inner=st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=2),
    turned=st.booleans(),
)
def test_both_ways_give_the_same_call(value, dtype, inner, turned):
    """Layout, rows and bytes; and where one refuses, so does the other, in the same words."""
    spec = method((None, *inner), dtype)
    short = shortcut(spec)
    assert short is not None
    value = value.T if turned else value
    for _ in range(2):  # the first of a shape is looked at in another way than the next
        try:
            general = cast(spec, (value,), {})
        except InvalidInput as exc:
            if value.dtype == dtype and value.ndim == len(inner) + 1 and value.flags.c_contiguous:
                with pytest.raises(InvalidInput) as caught:
                    short(value)
                assert caught.value.message == exc.message
            return
        brief = short(value)
        if brief is not None:
            assert brief == replace(general, bodies=tuple(map(bytes, general.bodies)))


@pytest.mark.parametrize(
    "value",
    [
        [[1.0, 2.0]],
        np.ones((1, 2)),
        np.ones((2, 2), "float32").T[::2],
        np.array(1, "float32"),
        None,
    ],
    ids=["a list", "another dtype", "not contiguous", "a scalar", "nothing"],
)
def test_what_is_not_exactly_right_is_left_to_the_general_way(value):
    """Nothing is cast here."""
    short = shortcut(method((None, 2)))
    assert short is not None
    assert short(value) is None


def variants() -> dict[str, MethodSpec]:
    """Return methods that have no short way."""
    plain = method((None, 2))
    tensor = plain.arguments[0].spec
    change: Any = msgspec.structs.replace
    return {
        "not batchable": change(plain, batchable=False),
        "another axis": change(plain, batch_dim=(1, 1)),
        "two arguments": change(plain, arguments=(plain.arguments[0], Argument("y", tensor))),
        "nested": change(plain, arguments=(Argument("x", DictSpec({"a": tensor})),)),
        "text": method((None,), "string"),
        "anything": method((None,), "any"),
        "any rank": method(None),
        "rows fixed": method((3, 2)),
        "padded": change(plain, padding=(Padding("x", 1),)),
    }


@pytest.mark.parametrize("spec", variants().values(), ids=variants())
def test_methods_of_another_kind_have_no_short_way(spec):
    """They keep the general one."""
    assert shortcut(spec) is None
