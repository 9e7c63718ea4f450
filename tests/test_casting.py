"""Casting: what callers write becomes what the specification says, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrunner.casting import bind, call, cast, count_rows
from tfrunner.errors import InvalidInput
from tfrunner.objects import OBJECT
from tfrunner.specs import (
    Argument,
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
)
from tfrunner.tensors import DTYPES, STRING, Array, decode_layout, unpack

INTEGERS = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
NUMERIC = sorted(set(DTYPES) - {STRING, OBJECT, "bfloat16"})  # the last: no strategy makes it
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


class FakeTensor:
    """What a tensor of another library looks like: it has `.numpy()`."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def numpy(self) -> Array:
        """Return the array."""
        return self.value


class FakeFrame:
    """What a data frame looks like: it has `.to_numpy()`."""

    def __init__(self, value: Array) -> None:
        self.value = value

    def to_numpy(self) -> Array:
        """Return the array."""
        return self.value


def method(*specs: Node | tuple[str, Node], **options: Any) -> MethodSpec:
    """Return a method that takes these."""
    named = [spec if isinstance(spec, tuple) else (f"x{i}", spec) for i, spec in enumerate(specs)]
    return MethodSpec("__call__", tuple(Argument(*pair) for pair in named), **options)


def tensor(dtype: str, shape: tuple[int | None, ...] | None = None, name: str = "x") -> TensorSpec:
    """Return a tensor's specification, of any rank by default."""
    return TensorSpec(name, dtype, shape)


def bound(value: Any, dtype: str, shape: tuple[int | None, ...] | None = None) -> Array:
    """Return one value cast to a dtype."""
    (array,) = bind(method(("x", tensor(dtype, shape))), (value,), {})
    return array


def test_an_exact_array_is_returned_itself() -> None:
    """The short way neither copies nor looks at the values."""
    array = np.ones((1, 5), dtype="float32")
    assert bound(array, "float32", (None, 5)) is array


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2, 3, 4, 5]],
        ((1, 2, 3, 4, 5),),
        np.array([[1, 2, 3, 4, 5]], dtype="int64"),
        np.array([[1, 2, 3, 4, 5]], dtype=">f4"),
        np.array([[1, 9, 2, 9, 3, 9, 4, 9, 5]], dtype="float64")[:, ::2],
        [np.array([1, 2, 3, 4, 5], dtype="float32")],
        FakeTensor(np.array([[1, 2, 3, 4, 5]], dtype="int32")),
        FakeFrame(np.array([[1, 2, 3, 4, 5]], dtype="float16")),
    ],
    ids=["list", "tuple", "int64", "big-endian", "strided", "list of arrays", "tensor", "frame"],
)
def test_numbers_in_many_forms_become_the_same_tensor(value: Any) -> None:
    """Exactly the dtype, C order."""
    array = bound(value, "float64", (None, 5))
    assert array.tolist() == [[1, 2, 3, 4, 5]]
    assert array.dtype == np.dtype("float64")
    assert array.flags.c_contiguous


@given(data=st.data(), name=st.sampled_from(NUMERIC), shape=SHAPES)
def test_an_array_of_the_right_dtype_arrives_unchanged(
    data: st.DataObject, name: str, shape: tuple[int, ...]
) -> None:
    """Through the whole way to the worker: cast, layout, bodies, unpack."""
    array: Array = data.draw(arrays.arrays(DTYPES[name], shape))
    sent = cast(method(("x", tensor(name))), (array,), {})
    (back,) = unpack(decode_layout(sent.layout), sent.bodies, sent.rows)
    assert back.shape == shape
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@given(
    values=st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=4),
    target=st.sampled_from(INTEGERS),
)
def test_python_integers_are_kept_or_refused_never_wrapped(values: list[int], target: str) -> None:
    """Beyond 64 bits too, where NumPy reads floats or objects."""
    limits = np.iinfo(DTYPES[target])
    fits = all(limits.min <= value <= limits.max for value in values)
    if fits:
        assert bound(values, target).tolist() == values
    else:
        with pytest.raises(InvalidInput):
            bound(values, target)


@given(data=st.data(), source=st.sampled_from(INTEGERS), target=st.sampled_from(INTEGERS))
def test_integer_arrays_are_kept_or_refused_never_wrapped(
    data: st.DataObject, source: str, target: str
) -> None:
    """Signed to unsigned, wide to narrow: by the values, not by the dtype."""
    array: Array = data.draw(arrays.arrays(DTYPES[source], (3,)))
    limits = np.iinfo(DTYPES[target])
    if all(limits.min <= value <= limits.max for value in array.tolist()):
        assert bound(array, target).tolist() == array.tolist()
    else:
        with pytest.raises(InvalidInput, match=f"{target} holds {limits.min} to {limits.max}"):
            bound(array, target)


def shape_of(nest: Any) -> tuple[int, ...] | None:
    """Return the shape of nested lists, None if they are no rectangle; the slow, plain way."""
    if not isinstance(nest, list):
        return ()
    shapes = {shape_of(child) for child in nest}
    if len(shapes) > 1 or None in shapes:
        return None
    return (len(nest), *(shapes.pop() or () if shapes else ()))


NESTS: st.SearchStrategy[Any] = st.recursive(
    st.integers(0, 9), lambda children: st.lists(children, max_size=4), max_leaves=12
)


@given(nest=st.lists(NESTS, max_size=4), target=st.sampled_from(["int32", "float32", "float64"]))
def test_a_ragged_nest_is_never_read_as_a_rectangle(nest: list[Any], target: str) -> None:
    """Whatever its number of elements; a rectangle keeps its shape."""
    shape = shape_of(nest)
    if shape is None:
        with pytest.raises(InvalidInput, match="ragged"):
            bound(nest, target)
    else:
        array = bound(nest, target)
        assert array.shape == shape
        assert array.tolist() == nest


def test_a_ragged_nest_of_as_many_numbers_as_a_rectangle_is_refused() -> None:
    """Six numbers do not make 2 x 3 by being six."""
    with pytest.raises(InvalidInput, match=r"ragged.*float32 \[\?, 3\]"):
        bound([[1, 2], [3, 4, 5, 6]], "float32", (None, 3))
    with pytest.raises(InvalidInput, match="ragged"):
        bound([["a"], ["b", "c"]], STRING, (None, None))


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ([1.0], "int64"),
        ([0.5], "int32"),
        (np.array([1.0]), "uint8"),
        ([1], "bool"),
        ([0.0], "bool"),
        (["1"], "float32"),
        (["1"], "int64"),
        ([b"1"], "bool"),
        ([1], STRING),
        (["a", 1], STRING),
        ([None], STRING),
        ([1j], "float64"),
        ([None], "float32"),
        ([1, None], "int64"),
        ({"a": 1}, "float32"),
        ({1, 2}, "float32"),
        (object(), "float32"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "int64"),
        (np.array([1, None], dtype=object), "float32"),
        (np.array([1, 2.0], dtype=object), "int64"),
        (np.array([1, True], dtype=object), "bool"),
        (np.ma.masked_array([1.0, 2.0], mask=[True, False]), "float64"),
        ([1e300], "float32"),
        ([70000], "float16"),
        ([2**2000], "float64"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_would_change_a_value_is_refused(value: Any, target: str) -> None:
    """The message names the input."""
    with pytest.raises(InvalidInput, match="'x'"):
        bound(value, target)


@pytest.mark.parametrize(
    ("value", "target", "expected"),
    [
        ([True, False], "int32", [1, 0]),
        ([True], "float32", [1.0]),
        ([2**63, 1], "uint64", [2**63, 1]),
        ([2**64], "float64", [2.0**64]),
        ([1, 0.5], "float32", [1.0, 0.5]),
        ([1], "complex64", [1]),
        ([float("inf"), -float("inf")], "float16", [float("inf"), -float("inf")]),
        ([], "int32", []),
        ([[], []], "float32", [[], []]),
        (7, "int8", 7),
        (np.array([1, 2.5, True, np.float32(4)], dtype=object), "float32", [1, 2.5, 1, 4]),
        (np.array([1, 2], dtype=object), "int8", [1, 2]),
        (np.array([1, 2.5], dtype=object), "bfloat16", [1, 2.5]),
        (np.array([True, np.False_], dtype=object), "bool", [True, False]),
        (np.array([1, 2j], dtype=object), "complex64", [1, 2j]),
        (FakeFrame(np.array([[1, True]], dtype=object)), "int32", [[1, 1]]),
        ("ü", STRING, "ü".encode()),
        (["a", b"\0"], STRING, [b"a", b"\0"]),
        (np.array(["ab"]), STRING, [b"ab"]),
        (np.array([b"ab"]), STRING, [b"ab"]),
        ([], STRING, []),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_keeps_its_value_is_cast(value: Any, target: str, expected: Any) -> None:
    """Numbers to wider kinds, text to bytes."""
    array = bound(value, target)
    assert array.tolist() == expected
    assert array.dtype == DTYPES[target]


@pytest.mark.parametrize(
    ("value", "target", "text"),
    [
        ([2**63, -1], "uint64", "holds -1; uint64 holds 0 to"),
        ([-(2**63) - 1], "int64", "holds -9223372036854775809; int64 holds"),
        ([-9.223372036854775809e18], "int64", "holds -9.223372036854776e\\+18; int64 holds"),
        ([[2.0**64]], "uint64", "holds 1.8446744073709552e\\+19; uint64 holds 0 to"),
        ([1, 300, 2**70], "uint8", "holds 300; uint8 holds 0 to 255"),
        ([1.5, 2**70], "int64", "holds a float .* drop fractions"),
        ([1, 2**2000, 3.0], "float32", "holds an integer of 2001 bits, too large"),
        ([2**20_000], "int8", "holds an integer of 20001 bits; int8 holds"),
        (np.array([1, None], dtype=object), "float32", "holds a NoneType"),
        (np.array([np.float32(1), "a"], dtype=object), "float32", "holds a str"),
        (np.array([1, [2]], dtype=object), "float32", "is ragged"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str) else None,
)
def test_a_refusal_names_the_item_that_is_wrong(value: Any, target: str, text: str) -> None:
    """Not one beside it, and not a reason that is none."""
    with pytest.raises(InvalidInput, match=text):
        bound(value, target)


def test_nan_passes() -> None:
    """It is a number like any other here."""
    assert np.isnan(bound([float("nan")], "float32")).all()


@pytest.mark.parametrize(
    "value", [[1, 2, 3, 4, 5], [[1, 2, 3, 4]], [[[1, 2, 3, 4, 5]]], 1], ids=str
)
def test_a_wrong_shape_is_refused_with_expected_and_got(value: Any) -> None:
    """Both shapes stand in the message."""
    with pytest.raises(InvalidInput, match=r"shape \[.*expected float32 \[\?, 5\]"):
        bound(value, "float32", (None, 5))


TWO = method(("left", tensor("int32", (None,))), ("factor", tensor("float32", ())))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (([1], 2), {}),
        (([1],), {"factor": 2}),
        ((), {"factor": 2, "left": [1]}),
    ],
    ids=["positions", "both", "names"],
)
def test_arguments_are_matched_by_position_and_name(args: Any, kwargs: Any) -> None:
    """In the order of the method's definition."""
    left, factor = bind(TWO, args, kwargs)
    assert (left.tolist(), factor.tolist()) == ([1], 2.0)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([1],), {}, "was not given 'factor'"),
        (([1], 2, 3), {}, "given 3 inputs; expected 2: 'left', 'factor'"),
        (([1],), {"facto": 2}, "Did you mean 'factor'"),
        (([1], 2), {"left": [1]}, "'left' was given twice"),
        ((), {}, "was not given 'left', 'factor'"),
    ],
    ids=["missing", "too many", "misspelt", "twice", "nothing"],
)
def test_arguments_that_do_not_match_are_named(args: Any, kwargs: Any, message: str) -> None:
    """With what was expected."""
    with pytest.raises(InvalidInput, match=message):
        bind(TWO, args, kwargs)


NESTED = method(
    (
        "tree",
        DictSpec(
            {
                "a": tensor("int32", ()),
                "b": ListSpec((tensor("float32", ()), TupleSpec((tensor(STRING, ()),)))),
                "c": NothingSpec(),
            }
        ),
    )
)


def test_nested_inputs_give_their_tensors_in_order() -> None:
    """Dict, list, tuple and None; lists and tuples may stand for each other."""
    found = bind(NESTED, ({"c": None, "b": (1, ["s"]), "a": 5},), {})
    assert [array.tolist() for array in found] == [5, 1.0, b"s"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 5, "b": [1, ["s"]]}, "lacks 'c'"),
        ({"a": 5, "b": [1, ["s"]], "c": None, "d": 1}, "no key 'd'"),
        ({"a": 5, "b": [1], "c": None}, r"tree\['b'\].*a list of 1; expected a list of 2"),
        ({"a": 5, "b": 3, "c": None}, r"tree\['b'\].*is a int"),
        ({"a": 5, "b": [1, ["s"]], "c": 0}, r"tree\['c'\].*expected None"),
        ({"a": "x", "b": [1, ["s"]], "c": None}, r"tree\['a'\].*text"),
        ([1], "is a list; expected a dict"),
    ],
    ids=["lacks", "extra", "short", "no list", "not None", "leaf", "no dict"],
)
def test_a_nested_input_that_does_not_fit_is_named_by_its_path(value: Any, message: str) -> None:
    """The message says where in the structure."""
    with pytest.raises(InvalidInput, match=message):
        bind(NESTED, (value,), {})


PAIR = method(
    ("inputs", ListSpec((tensor("int32", (None,), "a"), tensor("int32", (None,), "b")))),
)
KEYED = method(
    ("inputs", DictSpec({"a": tensor("int32", (None,)), "b": tensor("int32", (None,))})),
)


@pytest.mark.parametrize("spec", [PAIR, KEYED], ids=["list", "dict"])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(([1], [2]), {}), ((), {"b": [2], "a": [1]})],
    ids=["positions", "names"],
)
def test_the_parts_of_an_only_argument_may_be_given_one_by_one(
    spec: MethodSpec, args: Any, kwargs: Any
) -> None:
    """As Keras models of several inputs are called."""
    assert [array.tolist() for array in bind(spec, args, kwargs)] == [[1], [2]]
    whole = {"a": [1], "b": [2]} if spec is KEYED else [[1], [2]]
    assert [array.tolist() for array in bind(spec, (whole,), {})] == [[1], [2]]
    assert [array.tolist() for array in bind(spec, (), {"inputs": whole})] == [[1], [2]]


def test_a_list_of_named_tensors_may_be_given_as_a_dict() -> None:
    """As Keras takes it, in any order; a wrong name is named."""
    assert [array.tolist() for array in bind(PAIR, ({"b": [2], "a": [1]},), {})] == [[1], [2]]
    with pytest.raises(InvalidInput, match=r"no key 'c'.*'a', 'b'"):
        bind(PAIR, ({"a": [1], "c": [2]},), {})
    with pytest.raises(InvalidInput, match="lacks 'b'"):
        bind(PAIR, ({"a": [1]},), {})


BATCHABLE = method(
    ("x", tensor("float32", (None, 2))), ("factor", tensor("int32", ())), batchable=True
)


def test_a_batchable_call_leaves_its_batch_axis_open() -> None:
    """So that calls of different rows can be merged."""
    one = cast(BATCHABLE, ([[1, 2]], 3), {})
    three = cast(BATCHABLE, ([[1, 2]] * 3, 3), {})
    assert (one.rows, three.rows) == (1, 3)
    assert one.layout == three.layout
    assert len(one.bodies) == 1
    x, factor = unpack(decode_layout(three.layout), three.bodies, 3)
    assert (x.shape, factor.tolist()) == ((3, 2), 3)


def test_another_broadcast_value_or_dtype_makes_another_layout() -> None:
    """Calls are merged only where these are equal."""
    open_dtype = method(("x", tensor("float32", None)), batchable=True)
    assert cast(BATCHABLE, ([[1, 2]], 3), {}).layout != cast(BATCHABLE, ([[1, 2]], 4), {}).layout
    assert cast(open_dtype, ([[1]],), {}).layout != cast(open_dtype, ([[1, 2]],), {}).layout


def test_rows_are_counted_on_the_input_axis() -> None:
    """`batch_dim` says which."""
    sideways = method(("x", tensor("float32", (2, None))), batchable=True, batch_dim=(1, 0))
    sent = cast(sideways, ([[1, 2, 3], [4, 5, 6]],), {})
    assert sent.rows == 3
    (leaf,) = decode_layout(sent.layout).leaves
    assert leaf.shape == (2, None)


def test_rows_without_values_are_bounded() -> None:
    """No byte stands for them: a body of nothing could claim any number."""
    spec = method(tensor("float32", (None, None)), tensor("float32", (None,)), batchable=True)
    most = np.zeros((65536, 0), "float32")
    assert count_rows(spec, [most, np.float32(1)]) == 65536
    more = np.zeros((65537, 0), "float32")
    assert count_rows(spec, [more, np.zeros(65537, "float32")]) == 65537
    with pytest.raises(InvalidInput, match="65537 rows without a single value"):
        count_rows(spec, [more, np.float32(1)])
    with pytest.raises(InvalidInput, match="999999999999 rows"):
        cast(
            method(tensor("float32", (None, None)), batchable=True),
            (np.empty((10**12 - 1, 0)),),
            {},
        )


def test_inputs_of_different_rows_are_refused() -> None:
    """A batchable method's inputs all have the same number of rows."""
    two = method(
        ("a", tensor("int32", (None,), "a")), ("b", tensor("int32", (None,), "b")), batchable=True
    )
    with pytest.raises(InvalidInput, match=r"'b' has 3 rows.*expected 2"):
        cast(two, ([1, 2], [1, 2, 3]), {})
    assert count_rows(two, bind(two, ([1, 2], [3, 4]), {})) == 2


def test_a_rank_without_the_batch_axis_is_refused() -> None:
    """An input of open rank may lack it."""
    deep = method(("x", tensor("int32", None)), batchable=True, batch_dim=(1, 1))
    with pytest.raises(InvalidInput, match="expected rows on axis 1"):
        cast(deep, ([1, 2],), {})


def test_a_call_that_is_not_batchable_is_one_row_with_its_full_shapes() -> None:
    """Scalars are bodies like the others."""
    single = method(("x", tensor("float32", (None, 2))), ("factor", tensor("int32", ())))
    sent = call(single, bind(single, ([[1, 2]] * 3, 3), {}))
    assert sent.rows == 1
    assert [leaf.shape for leaf in decode_layout(sent.layout).leaves] == [(3, 2), ()]
    assert len(sent.bodies) == 2
