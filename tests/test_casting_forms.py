"""Casting's further forms: polymorphic methods, Keras' casts, data frames, bfloat16."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pandas
import pytest

from tfrunner.casting import bind, cast
from tfrunner.errors import InvalidInput
from tfrunner.specs import Argument, DictSpec, MethodSpec, TensorSpec, Variant
from tfrunner.tensors import decode_layout, unpack


def polymorphic() -> MethodSpec:
    """Return a method that was traced with float32 rows, with text, and with two integers."""
    floats, text = TensorSpec("x", "float32", (None, 2)), TensorSpec("x", "string", (None,))
    a, b = TensorSpec("a", "int64", ()), TensorSpec("b", "int64", ())
    return MethodSpec(
        "__call__",
        (Argument("x", floats),),
        variants=(
            Variant((Argument("x", text),)),
            Variant((Argument("a", a), Argument("b", b))),
        ),
    )


@pytest.mark.parametrize(
    ("args", "dtypes"),
    [
        (([[1, 2]],), ["float32"]),
        ((np.ones((1, 2), np.int64),), ["float32"]),
        ((["a", "b"],), ["string"]),
        ((1, 2), ["int64", "int64"]),
    ],
    ids=["numbers", "integers", "text", "two"],
)
def test_the_variant_that_fits_is_called(args: tuple[Any, ...], dtypes: list[str]) -> None:
    """By structure, then by what the values may become."""
    layout = decode_layout(cast(polymorphic(), args, {}).layout)
    assert [leaf.dtype for leaf in layout.leaves] == dtypes


def test_an_exact_dtype_goes_before_a_cast() -> None:
    """Whatever was traced first."""
    forms = tuple(TensorSpec("x", name, (None,)) for name in ("float64", "int32"))
    method = MethodSpec(
        "__call__", (Argument("x", forms[0]),), variants=(Variant((Argument("x", forms[1]),)),)
    )
    layout = decode_layout(cast(method, [np.ones(2, np.int32)], {}).layout)
    assert layout.leaves[0].dtype == "int32"
    assert decode_layout(cast(method, [[1, 2]], {}).layout).leaves[0].dtype == "float64"


def test_no_variant_fits() -> None:
    """The first one's reason is given, and how many others there are."""
    with pytest.raises(InvalidInput) as caught:
        cast(polymorphic(), [{"y": 1}], {})
    assert "2 more forms" in caught.value.message


KERAS = MethodSpec("predict", (Argument("x", TensorSpec("x", "int32", (None, 1))),), lenient=True)


@pytest.mark.parametrize(
    "value",
    [[[1.7], [2.2]], [1.7, 2.2], np.array([1.7, 2.2]), np.array([[[1.7]], [[2.2]]])],
    ids=["fractions", "an axis missing", "array", "an axis too many"],
)
def test_keras_casts_any_number(value: Any) -> None:
    """To the model's dtype, and to its rank where an axis of size 1 is all that differs."""
    (array,) = bind(KERAS, [value], {})
    assert array.tolist() == [[1], [2]]
    with pytest.raises(InvalidInput):
        bind(msgspec.structs.replace(KERAS, lenient=False), [value], {})


def test_keras_casts_no_text() -> None:
    """A number is still wanted."""
    with pytest.raises(InvalidInput):
        bind(KERAS, [["a"]], {})


def test_a_data_frame_is_its_columns_in_order() -> None:
    """For one dense input."""
    frame = pandas.DataFrame({"a": [1, 2], "b": [3, 4]})
    spec = TensorSpec("x", "float32", (None, 2))
    (array,) = bind(MethodSpec("__call__", (Argument("x", spec),)), [frame], {})
    assert array.tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("is_dict", [True, False], ids=["one dict", "several arguments"])
def test_a_data_frame_gives_inputs_by_name(is_dict: bool) -> None:
    """Each column is an input; one of a single column per row gets its axis."""
    frame = pandas.DataFrame({"name": ["a", "b"], "age": [3, 4], "size": [0.5, 1.5]})
    specs = {
        "age": TensorSpec("age", "float32", (None, 1)),
        "name": TensorSpec("name", "string", (None,)),
        "size": TensorSpec("size", "float64", (None,)),
    }
    arguments = tuple(Argument(key, spec) for key, spec in specs.items())
    if is_dict:
        arguments = (Argument("inputs", DictSpec(dict(specs))),)
    age, name, size = bind(MethodSpec("__call__", arguments), [frame], {})
    assert age.tolist() == [[3.0], [4.0]]
    assert name.tolist() == [b"a", b"b"]
    assert size.tolist() == [0.5, 1.5]


def test_a_data_frame_without_a_column_is_refused() -> None:
    """With the column's name."""
    specs = (TensorSpec("a", "float32", (None,)), TensorSpec("b", "float32", (None,)))
    method = MethodSpec("__call__", tuple(Argument(spec.name, spec) for spec in specs))
    with pytest.raises(InvalidInput) as caught:
        bind(method, [pandas.DataFrame({"a": [1.0]})], {})
    assert "'b'" in caught.value.message


def test_bfloat16_is_cast_from_any_float() -> None:
    """And keeps its bits through a body."""
    spec = TensorSpec("x", "bfloat16", (None,))
    method = MethodSpec("__call__", (Argument("x", spec),))
    sent = cast(method, [[1.0, 2.5, float("inf")]], {})
    (leaf,) = decode_layout(sent.layout).leaves
    assert leaf.dtype == "bfloat16"
    (array,) = unpack(decode_layout(sent.layout), sent.bodies, 1)
    assert array.astype(np.float32).tolist() == [1.0, 2.5, float("inf")]
    assert bind(method, [array], {})[0] is not None
    with pytest.raises(InvalidInput):
        bind(method, [["a"]], {})
