"""The descriptor NumpyNdarray: JSON, .npy and raw bytes, dtypes and shapes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrunner.errors import ConfigError, InvalidInput, ModelError, UnsupportedForm
from tfrunner.io import Body, NumpyNdarray

JSON = "application/json"
NPY = "application/x-npy"
RAW = "application/octet-stream"
DTYPES = ("bool", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64")


def npy(array: Any) -> bytes:
    """Return an array as numpy.save writes it."""
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def raw(array: Any) -> Body:
    """Return an array's bytes and headers."""
    shape = ",".join(map(str, array.shape))
    return Body(array.tobytes(), RAW, {"x-tensor-dtype": str(array.dtype), "x-tensor-shape": shape})


SHAPES = arrays.array_shapes(min_dims=0, min_side=0, max_side=4)


@given(
    st.sampled_from(DTYPES).flatmap(lambda name: arrays.arrays(name, SHAPES)),
    st.sampled_from(["npy", "raw"]),
)
def test_binary_arrays_read_back_bit_for_bit(array: Any, form: str) -> None:
    """Every dtype and shape, empty ones and single values too."""
    written = NumpyNdarray(default_format=form).write(array)
    back = NumpyNdarray().read(written)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@given(st.sampled_from(DTYPES).flatmap(lambda name: arrays.arrays(name, SHAPES)))
def test_arrays_read_back_from_json(array: Any) -> None:
    """With the dtype that is declared; an axis of size 0 hides those after it."""
    back = NumpyNdarray(str(array.dtype)).read(NumpyNdarray().write(array))
    assert back.dtype == array.dtype
    if array.size or array.ndim < 2:
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (b"[1, 2]", np.int64),
        (b"[1.5, NaN, -Infinity]", np.float64),
        (b"[true]", np.bool_),
        (b"5", np.int64),
        (b"[]", np.float64),
        (b'[["a"], ["b"]]', object),
    ],
    ids=str,
)
def test_json_says_the_dtype_where_none_is_declared(data: bytes, dtype: Any) -> None:
    """And the array may be written to."""
    array = NumpyNdarray().read(Body(data, JSON))
    assert array.dtype == dtype
    array[...] = array[...]


def test_text_is_an_array_of_str() -> None:
    """Its elements take no more room than each needs: a long one among many is no bomb."""
    array = NumpyNdarray("str").read(
        Body(b'["' + b"x" * 1_000_000 + b'", ' + b'"a", ' * 9999 + b'"b"]', JSON)
    )
    assert (array.shape, array[1], len(array[0])) == ((10_001,), "a", 1_000_000)
    assert array.dtype == object
    assert NumpyNdarray("str").write(array[1:3]).data == b'["a","a"]'
    with pytest.raises(InvalidInput, match="holds a int"):
        NumpyNdarray().read(Body(b'["a", 1]', JSON))


@pytest.mark.parametrize(
    ("descriptor", "data", "message"),
    [
        (NumpyNdarray("uint8", enforce_dtype=True), b'[["2f"]]', "holds text; expected uint8"),
        (NumpyNdarray("uint8"), b"[1, 256]", "holds 256; uint8 holds 0 to 255"),
        (NumpyNdarray("int32"), b"[1.5]", "expected int32.*drop fractions"),
        (NumpyNdarray("float32"), b"[1e300]", "too large for float32"),
        (NumpyNdarray("float32"), b"[[1, 2], [3]]", "ragged"),
        (NumpyNdarray(), b"[1, [2]]", "ragged"),
        (NumpyNdarray(), b'["a", ["b"]]', "ragged"),
        (NumpyNdarray(), b"[1, null]", "holds null"),
        (NumpyNdarray(), b'{"a": 1}', "is an object"),
        (NumpyNdarray(), b"[1, 2", "JSON Parse error"),
        (NumpyNdarray(), b"", "JSON Parse error"),
    ],
    ids=[
        "text",
        "range",
        "fraction",
        "overflow",
        "rows",
        "mixed",
        "texts",
        "null",
        "object",
        "cut",
        "empty",
    ],
)
def test_json_that_does_not_fit_is_refused(
    descriptor: NumpyNdarray, data: bytes, message: str
) -> None:
    """One line that says what came and what was expected."""
    with pytest.raises(InvalidInput, match=message) as caught:
        descriptor.read(Body(data, JSON))
    assert "\n" not in caught.value.message


FOUR = np.arange(4, dtype="float32")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Body(npy(FOUR)[:-1], NPY), "cut off"),
        (Body(npy(FOUR) + b"x", NPY), "too long"),
        (Body(npy(FOUR)[:9], NPY), "cut off|no .npy file"),
        (Body(b"[1, 2]", NPY), "no .npy file"),
        (Body(npy(np.array([{}], dtype=object)), NPY), "nothing that is pickled"),
        (raw(FOUR)._replace(headers={}), "needs the headers X-Tensor-Dtype"),
        (raw(FOUR)._replace(data=b"x" * 15), "cut off: float32 of shape .4. has 16 bytes, 15 came"),
        (
            raw(FOUR)._replace(headers={"x-tensor-dtype": "f4", "x-tensor-shape": "4"}),
            "expected one of",
        ),
        (
            raw(FOUR)._replace(headers={"x-tensor-dtype": "float32", "x-tensor-shape": "-4"}),
            "as 2,5",
        ),
    ],
    ids=["cut", "long", "head", "json", "pickle", "no headers", "cut raw", "dtype", "shape"],
)
def test_binary_bodies_that_are_broken_are_refused(body: Body, message: str) -> None:
    """Nothing is unpickled, and no byte is left over."""
    with pytest.raises(InvalidInput, match=message):
        NumpyNdarray().read(body)


def test_other_types_are_refused() -> None:
    """With what can be sent instead."""
    with pytest.raises(UnsupportedForm, match=r"'image/png'; expected an array.*application/x-npy"):
        NumpyNdarray().read(Body(b"[1]", "image/png"))


def test_a_dtype_is_cast_to_unless_a_value_would_change() -> None:
    """Enforced: not even then, if the array's own dtype is of another kind."""
    ints = np.array([1, 2], dtype="int64")
    assert NumpyNdarray("uint8").read(Body(npy(ints), NPY)).dtype == np.uint8
    with pytest.raises(InvalidInput, match="has dtype int64; expected uint8"):
        NumpyNdarray("uint8", enforce_dtype=True).read(Body(npy(ints), NPY))
    doubles = Body(npy(np.array([1.5])), NPY)
    assert NumpyNdarray("float32", enforce_dtype=True).read(doubles).dtype == np.float32
    assert NumpyNdarray("uint8", enforce_dtype=True).read(Body(b"[1, 2]", JSON)).dtype == np.uint8


def test_a_number_without_fraction_is_an_integer() -> None:
    """Exactly, also beside one that no double holds; fractions and what is too large are not."""
    whole = NumpyNdarray("int64").read(Body(b"[[9007199254740993, 2.0], [-3.0, 1e3]]", JSON))
    assert whole.tolist() == [[2**53 + 1, 2], [-3, 1000]]
    assert NumpyNdarray("uint64").read(Body(b"[18446744073709551615, 2.0]", JSON))[0] == 2**64 - 1
    doubles = Body(npy(np.array([2.0, 255.0])), NPY)
    assert NumpyNdarray("uint8").read(doubles).tolist() == [2, 255]
    large = Body(npy(np.array([2.0**63, 0])), NPY)
    assert NumpyNdarray("uint64").read(large).tolist() == [2**63, 0]
    for wrong in (b"[2.0, 1.5]", b"[256.0]", b"[-1.0]", b"[NaN]", b"[1e300]", b"[Infinity]"):
        with pytest.raises(InvalidInput, match=r"expected uint8|uint8 holds 0 to 255"):
            NumpyNdarray("uint8").read(Body(wrong, JSON))
    for number in (256.0, -1.0, 2.0**63, -(2.0**63), 2.0**64, 1e300, np.nan, 1.5):
        with pytest.raises(InvalidInput, match=r"expected uint8|uint8 holds 0 to 255"):
            NumpyNdarray("uint8").read(Body(npy(np.array([number])), NPY))


def test_an_open_axis_may_be_none() -> None:
    """As Keras and TensorFlow write it: the schema has any size there."""
    descriptor = NumpyNdarray(shape=(None, 3))
    assert descriptor.shape == (-1, 3)
    assert descriptor.read(Body(b"[1, 2, 3, 4, 5, 6]", JSON)).shape == (2, 3)
    inner = {"type": "array", "items": {}, "minItems": 3, "maxItems": 3}
    assert descriptor.schema()[JSON]["schema"] == {"type": "array", "items": inner}


def test_a_charset_is_honoured() -> None:
    """As in text: what is not read is said."""
    data = '["é"]'.encode("utf-16")
    assert NumpyNdarray().read(Body(data, JSON + "; charset=utf-16")).tolist() == ["é"]
    with pytest.raises(UnsupportedForm, match="charset 'nonsense' is not read"):
        NumpyNdarray().read(Body(b"[1]", JSON + "; charset=nonsense"))


def test_a_shape_is_made_unless_it_is_enforced() -> None:
    """As BentoML's users know it: four numbers are a square of two, or are not."""
    flat, square = Body(b"[1, 2, 3, 4]", JSON), Body(b"[[1, 2], [3, 4]]", JSON)
    free = NumpyNdarray(shape=(2, 2))
    strict = NumpyNdarray(shape=(2, 2), enforce_shape=True)
    np.testing.assert_array_equal(free.read(flat), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(strict.read(square), [[1, 2], [3, 4]])
    with pytest.raises(InvalidInput, match=r"has shape \[4\]; expected \[2, 2\]"):
        strict.read(flat)
    for shape in ((3, -1), (-1, -1)):
        with pytest.raises(InvalidInput, match="-1 for any size"):
            NumpyNdarray(shape=shape).read(flat)
    assert NumpyNdarray(shape=(-1, -1)).read(square).shape == (2, 2)


@pytest.mark.parametrize(
    ("descriptor", "value", "message"),
    [
        (NumpyNdarray(), object(), "it is a object; expected an array"),
        (NumpyNdarray(), {"a": 1}, "it is a dict; expected an array"),
        (NumpyNdarray(), None, "it is a NoneType; expected an array"),
        (NumpyNdarray("str"), "hello", "it is a str; expected an array"),
        (NumpyNdarray(), [object()], "type object has no form in JSON"),
        (NumpyNdarray(), [[1], [2, 3]], "inhomogeneous"),
        (NumpyNdarray(), np.array([1 + 2j]), "complex"),
        (NumpyNdarray("uint8"), [1.5], "expected uint8"),
        (NumpyNdarray(shape=(2, 2), enforce_shape=True), [1, 2], "expected .2, 2."),
        (NumpyNdarray(default_format="npy"), ["a"], "holds numbers, not text"),
        (NumpyNdarray(default_format="raw"), [{}], "holds numbers"),
    ],
    ids=[
        "object",
        "dict",
        "none",
        "text",
        "objects",
        "ragged",
        "complex",
        "dtype",
        "shape",
        "npy text",
        "raw object",
    ],
)
def test_results_that_cannot_be_written(descriptor: NumpyNdarray, value: Any, message: str) -> None:
    """The endpoint's error, not the caller's."""
    with pytest.raises(ModelError, match=message):
        descriptor.write(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "flaot32"}, "no such dtype"),
        ({"dtype": "datetime64[s]"}, "arrays hold one of"),
        ({"enforce_dtype": True}, "needs a dtype"),
        ({"enforce_shape": True}, "needs a shape"),
        ({"default_format": "npz"}, "expected json, npy, raw"),
        *(
            ({"shape": shape}, "expected sizes, as .-1, 5.; -1 or None for any")
            for shape in (3, (-2, 3), ("2", 3), (2.5,), "ab")
        ),
    ],
    ids=str,
)
def test_declarations_that_cannot_be(options: Any, message: str) -> None:
    """Found when the Service is declared."""
    with pytest.raises(ConfigError, match=message):
        NumpyNdarray(**options)


def test_a_sample_gives_dtype_shape_and_example() -> None:
    """The first axis counts rows, and is left open."""
    descriptor = NumpyNdarray.from_sample(np.ones((2, 3), "float32"), enforce_shape=True)
    assert (descriptor.dtype, descriptor.shape) == ("float32", (-1, 3))
    row = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    assert descriptor.schema()[JSON] == {
        "schema": {"type": "array", "items": row},
        "example": [[1.0] * 3] * 2,
    }
    assert list(descriptor.schema()) == [JSON, NPY, RAW]
    assert list(NumpyNdarray(default_format="npy").schema()) == [NPY, JSON, RAW]
    assert NumpyNdarray.from_sample(["a"]).schema()[JSON]["schema"]["items"] == {"type": "string"}
    with pytest.raises(ConfigError, match="the sample is no array"):
        NumpyNdarray.from_sample([[1], [2, 3]])
