"""TensorFlow Serving's JSON: what is read, what is refused, and the short way against the long."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api_world import ECHO, answer, method, model, tensor
from tfrunner.answer import Answer
from tfrunner.api.json_answer import write_answer
from tfrunner.api.json_body import JsonCall, read_json
from tfrunner.api.json_fast import fast_reader
from tfrunner.api.json_text import parse, write
from tfrunner.casting import Call
from tfrunner.errors import InvalidInput, NotFound
from tfrunner.specs import (
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    TensorSpec,
    TupleSpec,
)
from tfrunner.tensors import Array, decode_layout, unpack


def read(body: Any, *methods: MethodSpec, fast: bool = False) -> JsonCall:
    """Return what a body (a document, or its bytes) asks a model of these methods for."""
    spec = model(*methods) if methods else ECHO

    def find(name: str | None) -> MethodSpec:
        chosen = spec.default_method() if name is None else name
        if chosen not in spec.methods:
            raise NotFound(f"no method {chosen!r}")
        return spec.methods[chosen]

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader = fast_reader(spec.methods[spec.default_method()]) if fast else None
    return read_json(data, find_method=find, fast=reader)


def arrays(call: Call) -> list[Array]:
    """Return a call's tensors."""
    return unpack(decode_layout(call.layout), call.bodies, call.rows)


def only(body: Any, *methods: MethodSpec, fast: bool = False) -> Array:
    """Return the one tensor that a body holds."""
    (array,) = arrays(read(body, *methods, fast=fast).call)
    return array


def takes(dtype: str, *shape: int | None, **changes: Any) -> MethodSpec:
    """Return a method with one input `x`."""
    return method("__call__", ("x", tensor("x", dtype, *shape)), **changes)


# --- both ways --------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True], ids=["long", "short"])
@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        ([[1.5, 2.5]], "float32", (None, 2)),
        ([[1, 2], [3, 4]], "float32", (None, 2)),
        ([1, 2, 3], "float64", (None,)),
        ([-1, 2**62], "int64", (None,)),
        ([2**64 - 1, 0], "uint64", (None,)),
        ([-128, 127], "int8", (None,)),
        ([[[[1.0], [2.0]], [[3.0], [4.0]]]], "float32", (None, 2, 2, 1)),
        ([[1, 2, 3], [4, 5, 6]], "float32", (None, None)),
        ([[[1], [2]], [[3], [4]]], "float16", (None, None, None)),
        ([[1.0, 2.0]], "float32", (1, 2)),
        ([[[5.0]]], "float32", (None, 1, 1)),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_a_nest_becomes_the_array_of_the_spec(
    key: str, value: Any, dtype: str, shape: tuple[int | None, ...], fast: bool
) -> None:
    """Values, dtype and shape come out exactly, by either way and in either form."""
    spec = takes(dtype, *shape)
    if fast:
        assert fast_reader(spec).read(json.dumps({key: value}).encode()) is not None
    found = read({key: value}, spec, fast=fast)
    (array,) = arrays(found.call)
    assert array.dtype == np.dtype(dtype)
    assert array.shape == np.shape(value)
    assert array.tolist() == value
    assert found.by_rows == (key == "instances")


BAD = {
    "ragged": ([[1, 2, 3], [4, 5]], "float32", (None, 2)),
    "ragged whose count fits": ([[1, 2, 3], [4]], "float32", (None, 2)),
    "ragged whose count fits, deep": ([[[1], [2, 3]], [[4, 5], [6]]], "float32", (None, 2, None)),
    "row of lists and numbers": ([[1, [2]]], "float32", (None, 2)),
    "too deep": ([[[1, 2]]], "float32", (None, 2)),
    "too flat": ([1, 2], "float32", (None, 2)),
    "wrong size": ([[1, 2, 3]], "float32", (None, 2)),
    "wrong size beside an open one": ([[[1, 2, 3]]], "float32", (None, None, 2)),
    "empty row": ([[]], "float32", (None, 1)),
    "empty row among others": ([[1], []], "float32", (None, 1)),
    "fixed rows": ([[1, 2], [3, 4]], "float32", (1, 2)),
    "no rows": ([], "float32", (None, 2)),
    "fraction for int": ([1.5], "int32", (None,)),
    "whole float for int": ([1.0], "int32", (None,)),
    "exponent for int": (b"[1e3]", "int64", (None,)),
    "int32 overflow": ([2**40], "int32", (None,)),
    "int64 overflow": ([2**63], "int64", (None,)),
    "int64 overflow beside a negative": ([2**63, -1], "int64", (None,)),
    "uint64 overflow": ([2**64], "uint64", (None,)),
    "negative for uint8": ([-1], "uint8", (None,)),
    "float32 overflow": ([1e39], "float32", (None,)),
    "text for number": (["1"], "float32", (None,)),
    "null": ([None], "float32", (None,)),
    "null in a row": ([[1, None]], "float32", (None, 2)),
    "number for bool": ([1], "bool", (None,)),
    "number for string": ([1], "string", (None,)),
    "NaN for int": (b"[NaN]", "int32", (None,)),
}


@pytest.mark.parametrize("fast", [False, True], ids=["long", "short"])
@pytest.mark.parametrize("name", list(BAD))
def test_what_does_not_fit_is_refused(name: str, fast: bool) -> None:
    """Nothing is flattened, rounded, wrapped or guessed."""
    value, dtype, shape = BAD[name]
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(InvalidInput):
        read(b'{"instances": ' + text + b"}", takes(dtype, *shape), fast=fast)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"nonsense",
        b'{"instances": [[1, 2],]}',
        b'{"instances": [[1 2]]}',
        b'{"instances": [[01, 2]]}',
        b'{"instances": [[1, 2]]} x',
        b'{"instances": [[1, 2]]}]',
        b'{"instances": [[+1, 2]]}',
        b'{"instances": [[1, -]]}',
        b'{"instances": [[1, 2]]}\xff',
        b"\xff\xfe",
        b"[1, 2]",
        b"5",
        b"{}",
        b'{"instances": 5}',
        b'{"instances": "text"}',
        b'{"inst1ances": [[1, 2]]}',
        b'{"instanceses": [[1, 2]]}',
        b'{"instances": [[1, 2]], "inputs": [[1, 2]]}',
        b'{"instances": [[1, 2]], "signature_name": 5}',
        b'{"instances": [{"x": [1, 2]}, [1, 2]]}',
        b'{"instances": [{"z": [1, 2]}]}',
        b'{"inputs": {"z": [[1, 2]]}}',
        b'{"inputs": {}}',
        b'{"instances": [[NaN, 2}',
        b"[" * 100_000,
        b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"instances": [NaN, ' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        b'{"instances": [[' + b"1" * 5000 + b", NaN]]}",
    ],
    ids=lambda body: body[:34].decode("latin-1"),
)
@pytest.mark.parametrize("fast", [False, True], ids=["long", "short"])
def test_a_body_that_is_no_request_is_refused(body: bytes, fast: bool) -> None:
    """Whatever the bytes are: InvalidInput, and no other exception."""
    with pytest.raises(InvalidInput):
        read(body, takes("float32", None, 2), fast=fast)


def test_the_texts_that_clients_match_on_are_kept() -> None:
    """TensorFlow Serving's words for an empty document and a missing key."""
    with pytest.raises(InvalidInput, match="JSON Parse error: The document is empty"):
        read(b"")
    with pytest.raises(InvalidInput, match=r"JSON Parse error: .* at offset: 1"):
        read(b"{")
    with pytest.raises(InvalidInput, match="Missing 'inputs' or 'instances' key"):
        read(b"{}")


@pytest.mark.parametrize("fast", [False, True], ids=["long", "short"])
def test_tokens_that_are_no_json_are_numbers(fast: bool) -> None:
    """NaN, Infinity and -Infinity come in, beside ordinary numbers."""
    array = only(
        b'{"instances": [[NaN, Infinity], [-Infinity, 1.5]]}',
        takes("float32", None, 2),
        fast=fast,
    )
    assert np.array_equal(
        array, np.array([[np.nan, np.inf], [-np.inf, 1.5]], "float32"), equal_nan=True
    )


@pytest.mark.parametrize("fast", [False, True], ids=["long", "short"])
@pytest.mark.parametrize(
    "text", ["1e400", "-1e309", "NaN, 1e400", "Infinity, -1" + "0" * 400 + ".0"]
)
def test_a_number_beyond_a_double_is_refused(text: str, fast: bool) -> None:
    """As one beyond the dtype is; whoever means infinity writes the token."""
    body = f'{{"instances": [{text}]}}'.encode()
    with pytest.raises(InvalidInput, match="beyond a double"):
        only(body, takes("float64", None), fast=fast)
    assert only(b'{"instances": [NaN, 1e308]}', takes("float64", None)).tolist()[1] == 1e308


# --- the short way -----------------------------------------------------------------------------

SHAPES = st.lists(st.one_of(st.none(), st.integers(1, 3)), min_size=1, max_size=4).map(tuple)
NUMBERS = st.one_of(
    st.integers(-5, 300),
    st.integers(-(2**66), 2**66),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.5, -0.0, 1e39, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), True, None, "1"]),
)


@st.composite
def regular_nests(draw: st.DrawFn, shape: tuple[int | None, ...]) -> Any:
    """Return a nest that fits a shape."""
    sizes = [draw(st.integers(1, 3)) if size is None else size for size in shape]
    numbers = draw(st.sampled_from([st.integers(-9, 9), NUMBERS]))

    def nest(level: int) -> Any:
        if level == len(sizes):
            return draw(numbers)
        return [nest(level + 1) for _ in range(sizes[level])]

    return nest(0)


def spoil(nest: Any, draw: st.DrawFn) -> Any:
    """Return the nest with one thing moved, dropped, wrapped or added, somewhere."""
    if not isinstance(nest, list) or (nest and draw(st.booleans())):
        if not isinstance(nest, list):
            return draw(st.sampled_from([[nest], [], [nest, nest]]))
        index = draw(st.integers(0, len(nest) - 1))
        return [*nest[:index], spoil(nest[index], draw), *nest[index + 1 :]]
    change = draw(st.sampled_from(["drop", "add", "wrap", "empty", "move"]))
    if change == "drop":
        return nest[1:]
    if change == "add":
        return [*nest, nest[0] if nest else 1]
    if change == "move" and len(nest) > 1 and all(isinstance(each, list) for each in nest):
        return [nest[0] + nest[1][:1], nest[1][1:], *nest[2:]]
    return [nest] if change == "wrap" else [[]]


def outcome(body: bytes, spec: MethodSpec) -> Any:
    """Return what the long way makes of a body: the array, or that it is refused."""
    try:
        return only(body, spec)
    except InvalidInput:
        return None


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_the_short_way_equals_the_long_way_or_leaves_it_to_it(data: st.DataObject) -> None:
    """Whatever the nest is, also spoiled ones whose count of numbers fits."""
    shape = data.draw(SHAPES)
    dtypes = ["float32", "float64", "float16", "int64", "int32", "uint8", "uint64"]
    spec = takes(data.draw(st.sampled_from(dtypes)), *shape)
    nest = data.draw(regular_nests(shape))
    for _ in range(data.draw(st.integers(0, 2))):
        nest = spoil(nest, data.draw)
    key = data.draw(st.sampled_from(["instances", "inputs"]))
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
    body = json.dumps({key: nest}, separators=separators).encode()
    found = fast_reader(spec).read(body)
    if found is None:
        return
    expected = outcome(body, spec)
    assert expected is not None, "the short way took what the long way refuses"
    assert found[0] == key
    assert found[1].dtype == expected.dtype
    assert found[1].shape == expected.shape
    assert np.array_equal(found[1], expected)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_short_way_refuses_or_equals_for_any_bytes(data: st.DataObject) -> None:
    """A body whose skeleton is right but whose text is not never gets through."""
    piece = st.sampled_from([b"[", b"]", b",", b"1", b"2.5", b"-", b"e", b"E5", b"+", b" ", b'"'])
    inside = b"".join(data.draw(st.lists(piece, max_size=14)))
    head = data.draw(st.sampled_from([b'{"instances":', b'{"instanc1es":', b'{"inpu.ts" :']))
    body = head + b"[" + inside + b"]}"
    spec = takes("float32", None, data.draw(st.sampled_from([1, 2, None])))
    found = fast_reader(spec).read(body)
    if found is not None:
        expected = outcome(body, spec)
        assert expected is not None
        assert np.array_equal(found[1], expected)


def test_an_integer_is_rounded_once() -> None:
    """Through a double this one would become another float32 than NumPy makes of it."""
    number = 2**62 + 2**38 + 1
    body = json.dumps({"instances": [number]}).encode()
    expected = np.array([number], "int64").astype("float32")
    assert np.array_equal(only(body, takes("float32", None), fast=True), expected)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [[1, 2]], "signature_name": "serving_default"},
        {"instances": [{"x": [1, 2]}]},
        {"inputs": {"x": [[1, 2]]}},
        {"instances": [[True, 2]]},
    ],
    ids=str,
)
def test_what_is_more_than_a_nest_of_numbers_takes_the_long_way(body: Any) -> None:
    """The short way leaves it, the long way reads it."""
    spec = takes("float32", None, 2)
    assert fast_reader(spec).read(json.dumps(body).encode()) is None
    assert only(body, spec, fast=True).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    "spec",
    [
        takes("string", None),
        takes("bool", None),
        takes("complex64", None),
        takes("float32"),
        takes("float32", None, 0),
        takes("float32", 2, None, batch_dim=(1, 1)),
        method("__call__", ("x", TensorSpec("x", "float32", None))),
        method("__call__", ("a", tensor("a", "float32", None)), ("b", tensor("b", "int8", None))),
    ],
    ids=lambda spec: str([a.spec for a in spec.arguments])[:50],
)
def test_methods_that_the_short_way_cannot_read_have_none(spec: MethodSpec) -> None:
    """Only one dense numeric input whose rows are on axis 0 has it."""
    assert fast_reader(spec) is None


# --- the long way --------------------------------------------------------------------------


def test_named_methods_and_the_default_signature() -> None:
    """`signature_name` is a method's name; serving_default and none mean the default one."""
    for name in ({}, {"signature_name": "serving_default"}, {"signature_name": ""}):
        assert read({"instances": [[1, 2]], **name}).method.name == "__call__"
    assert read({"instances": ["a"], "signature_name": "words"}).method.name == "words"
    with pytest.raises(NotFound, match="nothing"):
        read({"instances": [[1, 2]], "signature_name": "nothing"})


def test_rows_as_objects_become_columns() -> None:
    """Row form with several inputs: each row an object with all of them."""
    rows = [{"a": [1, 2], "b": "x"}, {"a": [3, 4], "b": "y"}]
    found = read({"instances": rows, "signature_name": "pair"})
    first, second = arrays(found.call)
    assert (first.tolist(), second.tolist()) == ([[1, 2], [3, 4]], [b"x", b"y"])
    with pytest.raises(InvalidInput, match=r"element: 1 .* keys must be equal to: a,b"):
        read({"instances": [rows[0], {"a": [1, 2]}], "signature_name": "pair"})
    with pytest.raises(InvalidInput, match="expecting list of objects"):
        read({"instances": [[1, 2]], "signature_name": "pair"})
    with pytest.raises(InvalidInput, match="expecting an object"):
        read({"inputs": [[1, 2]], "signature_name": "pair"})


def test_a_model_of_one_structure_takes_its_parts_by_name() -> None:
    """Rows name the parts of the only argument, or the argument itself."""
    rows = [{"a": [1, 2], "b": "x"}, {"a": [3, 4], "b": "y"}]
    for instances in (rows, [{"features": row} for row in rows]):
        found = read({"instances": instances, "signature_name": "nested"})
        first, second = arrays(found.call)
        assert (first.tolist(), second.tolist()) == ([[1, 2], [3, 4]], [b"x", b"y"])
    columns = {"a": [[1, 2]], "b": ["x"]}
    for inputs in (columns, {"features": columns}):
        first, second = arrays(read({"inputs": inputs, "signature_name": "nested"}).call)
        assert (first.tolist(), second.tolist()) == ([[1, 2]], [b"x"])


def test_a_value_for_the_whole_request_is_the_same_in_every_row() -> None:
    """A tensor of rank 0 is no column."""
    rows = [{"x": [1, 2], "scale": 3}, {"x": [3, 4], "scale": 3}]
    first, second = arrays(read({"instances": rows, "signature_name": "scaled"}).call)
    assert (first.tolist(), second.tolist()) == ([[1, 2], [3, 4]], 3.0)
    rows[1]["scale"] = 4
    with pytest.raises(InvalidInput, match="one value for the whole request"):
        read({"instances": rows, "signature_name": "scaled"})


def test_base64_objects_are_bytes_of_string_inputs() -> None:
    """{"b64": ...} anywhere in a string tensor, in both forms; text is UTF-8."""
    spec = takes("string", None)
    assert only({"instances": [{"b64": "AP8="}, "\u00e9"]}, spec).tolist() == [
        b"\0\xff",
        b"\xc3\xa9",
    ]
    assert only({"inputs": {"x": [{"b64": "AP8="}]}}, spec).tolist() == [b"\0\xff"]
    assert only({"instances": [{"x": {"b64": "AP8="}}]}, spec).tolist() == [b"\0\xff"]
    deep = takes("string", None, 2)
    assert only({"instances": [["a", {"b64": "AP8="}]]}, deep).tolist() == [[b"a", b"\0\xff"]]
    assert only({"inputs": {"b64": "AP8="}}, takes("string", batchable=False)).item() == b"\0\xff"
    with pytest.raises(InvalidInput, match="Unable to base64 decode"):
        read({"instances": [{"b64": "AP8"}]}, spec)
    with pytest.raises(InvalidInput, match="not formatted correctly for base64"):
        read({"instances": [{"b64": 5}]}, spec)
    with pytest.raises(InvalidInput):
        read({"instances": [{"b64": "AP8="}]}, takes("float32", None))


def test_rows_on_another_axis_need_the_columnar_form() -> None:
    """A row of `instances` would be ambiguous where rows are not on axis 0."""
    spec = takes("float32", 2, None, batch_dim=(1, 1))
    with pytest.raises(InvalidInput, match="'inputs'"):
        read({"instances": [[1, 2]]}, spec)
    assert read({"inputs": [[1, 2, 3], [4, 5, 6]]}, spec).call.rows == 3


# --- answers -----------------------------------------------------------------------------------


def written(value: Any, structure: Node, *, by_rows: bool) -> Any:
    """Return the document that an answer is written as."""
    got = answer(value, structure)(ECHO.methods["__call__"], [])
    data = write_answer(got, by_rows=by_rows)
    return json.loads(data)


def out(name: str, dtype: str = "float32") -> TensorSpec:
    """Return the spec of an output."""
    return TensorSpec(name, dtype, None)


def test_one_output_is_written_plainly() -> None:
    """In both forms, also where it is the only item of a dict."""
    rows = [[1.5, 2.0], [3.0, 0.1]]
    array = np.array(rows, "float32")
    assert written([array], out("y"), by_rows=True) == {"predictions": rows}
    assert written([array], out("y"), by_rows=False) == {"outputs": rows}
    assert written([array], DictSpec({"y": out("y")}), by_rows=True) == {"predictions": rows}
    assert written([np.array(2.5)], out("y"), by_rows=False) == {"outputs": 2.5}


def test_several_outputs_have_names() -> None:
    """Objects for each row; whole tensors by name; output_0, ... where names are missing."""
    values = [np.array([[1], [2]]), np.array([3.5, 4.5], "float32")]
    pair = TupleSpec((out("a"), out("b")))
    assert written(values, pair, by_rows=True) == {
        "predictions": [{"a": [1], "b": 3.5}, {"a": [2], "b": 4.5}]
    }
    assert written(values, pair, by_rows=False) == {"outputs": {"a": [[1], [2]], "b": [3.5, 4.5]}}
    unnamed = ListSpec((out(""), out("")))
    assert list(written(values, unnamed, by_rows=False)["outputs"]) == ["output_0", "output_1"]
    nested = DictSpec({"k": out("a"), "l": DictSpec({"m": out("b")})})
    assert written(values, nested, by_rows=True)["predictions"][1] == {"k": [2], "l": {"m": 4.5}}


@pytest.mark.parametrize("by_rows", [True, False], ids=["rows", "whole"])
def test_what_is_not_finite_is_written_as_tokens(by_rows: bool) -> None:
    """NaN, Infinity and -Infinity come out in their places; the rest as ever."""
    array = np.array([[np.nan, 0.1], [np.inf, -np.inf]], "float32")
    data = write_answer(Answer([array], out("y")), by_rows=by_rows)
    assert data.split(b":", 1)[1] == b"[[NaN,0.1],[Infinity,-Infinity]]}"
    pair = Answer([array, array[:, 0].copy()], TupleSpec((out("a"), out("null"))))
    document = json.loads(write_answer(pair, by_rows=by_rows))
    if by_rows:
        assert document["predictions"][1] == {"a": [math.inf, -math.inf], "null": math.inf}
    else:
        assert document["outputs"]["null"][1] == math.inf


def test_text_comes_out_as_text_and_bytes_as_base64() -> None:
    """Also bytes that are no UTF-8, and everything of an output called ..._bytes."""
    array = np.array([b"abc", b"\xff"], dtype=object)
    assert written([array], out("y", "string"), by_rows=True) == {
        "predictions": ["abc", {"b64": "/w=="}]
    }
    assert written([array], out("raw_bytes", "string"), by_rows=True) == {
        "predictions": [{"b64": "YWJj"}, {"b64": "/w=="}]
    }


def test_answers_that_have_no_rows_name_the_other_form() -> None:
    """Outputs of different row counts, without rows, or of a dtype that JSON lacks."""
    pair = TupleSpec((out("a"), out("b")))
    with pytest.raises(InvalidInput, match="b has inconsistent batch size: 1 expecting: 2"):
        written([np.zeros((2, 1)), np.zeros(1)], pair, by_rows=True)
    with pytest.raises(InvalidInput, match="'inputs'"):
        written([np.array(1.0)], out("y"), by_rows=True)
    with pytest.raises(InvalidInput, match="application/x-msgpack"):
        written([np.zeros(2, "complex64")], out("y"), by_rows=True)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), "float32"), np.zeros((2, 0)), np.array([True, False]), np.eye(2).T[::-1]],
    ids=["no rows", "no columns", "bool", "not contiguous"],
)
def test_odd_arrays_are_written_as_their_lists(array: Array) -> None:
    """What orjson refuses or could get wrong."""
    assert written([array], out("y"), by_rows=True) == {"predictions": array.tolist()}


def test_plain_values_are_written_with_arrays_and_numbers_of_numpy() -> None:
    """What Services return."""
    value = {"a": np.arange(2), "b": np.float32(0.5), "c": [np.bool_(True)], 1: b"x", "n": None}
    assert json.loads(write(value)) == {"a": [0, 1], "b": 0.5, "c": [True], "1": "x", "n": None}
    odd = {"a": np.array([np.nan, 1]), "b": math.inf, "n": None, "c": [np.float32("nan")]}
    assert write(odd) == b'{"a":[NaN,1.0],"b":Infinity,"n":null,"c":[NaN]}'
    assert parse(write(odd))["b"] == math.inf
    with pytest.raises(TypeError):
        write(object())
