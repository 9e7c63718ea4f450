"""Runnables: what may be declared, and how one answers in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.runnables import PARAMETERS, Doubler
from tfrunner import Runnable, Runner, Service
from tfrunner.casting import cast
from tfrunner.errors import ConfigError, InvalidInput, ModelError, StateError
from tfrunner.runnable import describe_runnable, pack_parameters, source_of, unpack_parameters
from tfrunner.specs import ANY, DictSpec, ListSpec, TensorSpec
from tfrunner.tensors import decode_layout

X = TensorSpec("x", "float32", (None, 2))


def method_of(function: Callable[..., Any], **options: Any) -> Any:
    """Return the specification of a function as a method of a Runnable."""
    made = type("Made", (Runnable,), {"m": Runnable.method(**options)(function)})
    return describe_runnable(made, "made").methods["m"]


# --- declarations -----------------------------------------------------------------------------


def test_arguments_are_those_of_the_python_function() -> None:
    """Names, defaults and order; any value unless `input_spec` says more."""

    def m(self: Any, first: Any, /, second: Any = 2, *, third: Any = None) -> None: ...

    spec = method_of(m, input_spec={"second": X})
    assert [argument.name for argument in spec.arguments] == ["first", "second", "third"]
    assert [leaf.dtype for leaf in spec.inputs] == [ANY, "float32", ANY]
    assert [argument.default is None for argument in spec.arguments] == [True, False, False]
    assert (spec.batchable, spec.batch_dim, spec.repeatable) == (False, (0, 0), True)


def test_a_mark_needs_no_parentheses() -> None:
    """As without options."""

    class Made(Runnable):
        @Runnable.method
        def plain(self, x: Any) -> Any:
            return x

        @Runnable.method(batchable=True, batch_dim=1, repeatable=False)
        def marked(self, x: Any) -> Any:
            return x

        def helper(self, *anything: Any) -> None:
            """No method for callers."""

    methods = describe_runnable(Made, "made").methods
    assert list(methods) == ["plain", "marked"]
    assert not methods["plain"].batchable
    assert methods["marked"].batch_dim == (1, 1)
    assert not methods["marked"].repeatable


def test_input_specs_may_be_nested_and_are_named_after_their_argument() -> None:
    """One spec, a list by position, a dict by argument; dicts and lists within."""
    unnamed = TensorSpec("", "int64", (None,))

    def two(self: Any, a: Any, b: Any) -> None: ...

    def one(self: Any, a: Any) -> None: ...

    assert method_of(one, input_spec=unnamed).arguments[0].spec.name == "a"
    by_position = method_of(two, input_spec=[unnamed, {"left": unnamed, "right": [X, unnamed]}])
    assert by_position.arguments[0].spec.name == "a"
    nested = by_position.arguments[1].spec
    assert isinstance(nested, DictSpec) and isinstance(nested.items["right"], ListSpec)
    assert [leaf.name for leaf in by_position.inputs] == ["a", "left", "x", "right_1"]
    assert method_of(one, output_spec=(X, unnamed)).output.items[0] == X


def stream(self: Any, x: Any) -> Iterator[Any]:
    """Yield."""
    yield x


async def stream_async(self: Any, x: Any) -> Any:
    """Yield, in an event loop."""
    yield x


async def later(self: Any, x: Any) -> Any:
    """Return, in an event loop."""


def many(self: Any, *xs: Any) -> None:
    """Take any number."""


def named(self: Any, **xs: Any) -> None:
    """Take any names."""


def none(self: Any) -> None:
    """Take nothing."""


def one(self: Any, x: Any) -> Any:
    """Take one argument."""
    return x


def odd_default(self: Any, x: Any = Runnable) -> None:
    """Have a default that cannot be sent."""


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (stream, {}, "streaming is not served"),
        (stream_async, {}, "streaming is not served"),
        (later, {}, "plain `def`"),
        (many, {}, r"takes \*xs.*Name each one"),
        (named, {}, r"takes \*\*xs.*Name each one"),
        (none, {"batchable": True}, "no argument that could have rows"),
        (odd_default, {}, "default of 'x'"),
        (one, {"batch_dim": "0"}, "batch_dim is '0'"),
        (one, {"batch_dim": (0, 1, 2)}, "batch_dim"),
        (one, {"batch_dim": -1}, "batch_dim is -1"),
        (one, {"input_spec": {"y": X}}, "no argument 'y'.*There are: x"),
        (one, {"input_spec": [X, X]}, "2 specifications; it takes 1"),
        (one, {"input_spec": 5}, "expected TensorSpecs"),
        (one, {"input_spec": {"x": "float32"}}, "holds 'float32'"),
        (one, {"output_spec": "float32"}, "output_spec of one holds 'float32'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value)[:30],
)
def test_what_cannot_be_a_method(
    function: Callable[..., Any], options: dict[str, Any], expected: str
) -> None:
    """Refused where it is declared, with what to do."""
    with pytest.raises(ConfigError, match=expected):
        method_of(function, **options)


def test_methods_are_inherited_and_may_be_added() -> None:
    """An overriding method keeps what was said of it; a name is used once."""

    class Base(Runnable):
        @Runnable.method(batchable=True)
        def m(self, x: Any) -> Any:
            return x

    class Child(Base):
        def m(self, x: Any) -> Any:
            return [each * 2 for each in x]

    Child.add_method(lambda self, x, y=1: [x, y], "pair")
    spec = describe_runnable(Child, "child")
    assert spec.methods["m"].batchable
    assert [argument.name for argument in spec.methods["pair"].arguments] == ["x", "y"]
    assert "pair" not in describe_runnable(Base, "base").methods
    with pytest.raises(ConfigError, match="has 'pair' already"):
        Child.add_method(one, "pair")
    with pytest.raises(ConfigError, match="streaming"):
        Child.add_method(stream)
    with Runner(Child) as runner:
        runner.init_local(quiet=True)
        assert runner.name == "child"
        assert runner.m.run([1, 2]) == [2, 4]
        assert runner.pair.run("a") == ["a", 1]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [(("gpu",), "names 'gpu'"), ("cpu", "expected a tuple"), ((), "expected a tuple")],
)
def test_resources_that_are_not_known(resources: Any, expected: str) -> None:
    """With those that are."""
    made = type("Made", (Runnable,), {"SUPPORTED_RESOURCES": resources, "m": Runnable.method(one)})
    with pytest.raises(ConfigError, match=expected):
        describe_runnable(made, "made")


def test_a_class_without_methods_is_refused() -> None:
    """Nobody could call it."""
    with pytest.raises(ConfigError, match=r"mark one with @tfrunner\.Runnable\.method"):
        Runner(type("Nothing", (Runnable,), {}))


@pytest.mark.parametrize("wrong", [5, int, "model:1", None], ids=str)
def test_what_no_runner_can_be_made_of(wrong: Any) -> None:
    """A saved model or a Runnable is expected."""
    with pytest.raises(ConfigError, match="expected a saved model"):
        Runner(wrong)


# --- parameters and places --------------------------------------------------------------------


def test_parameters_arrive_as_plain_data_and_arrays() -> None:
    """Tuples as lists, text arrays as bytes, dtypes kept."""
    given = {"a": np.arange(3, dtype="int16"), "b": {"c": [1, (2.5, None)]}, "d": b"x"}
    got = unpack_parameters(pack_parameters(given, at="here"))
    assert got["a"].dtype == np.dtype("int16") and got["a"].tolist() == [0, 1, 2]
    assert (got["b"], got["d"]) == ({"c": [1, [2.5, None]]}, b"x")
    assert unpack_parameters(b"") == {}


@pytest.mark.parametrize(
    "value",
    [object(), {(1, 2): 3}, Doubler, 2**70, np.array([{}], dtype=object)],
    ids=["object", "keys that are tuples", "class", "huge number", "array of objects"],
)
def test_parameters_that_no_worker_can_be_given_are_named(value: Any) -> None:
    """The key, and what to do instead."""
    with pytest.raises(ConfigError, match=r"runnable_init_params\['table'\].*load anything else"):
        Runner(Doubler, runnable_init_params={"table": value})


def test_a_worker_finds_a_class_by_module_and_name() -> None:
    """The module's file too, so that no other is taken for it."""
    source = source_of(Doubler, b"p")
    assert (source.module, source.name, source.parameters) == ("tests.runnables", "Doubler", b"p")
    assert source.file.endswith("tests/runnables.py")
    assert f"{source.folder}/tests/runnables.py" == source.file


def test_classes_that_workers_cannot_import_are_refused_with_advice() -> None:
    """Those of `__main__`, and those inside a function; locally they run."""

    class Inner(Runnable):
        @Runnable.method
        def m(self, x: Any) -> Any:
            return x

    with pytest.raises(ConfigError, match="inside a function"):
        Runner(Inner).needs()
    main = type("Main", (Inner,), {"__module__": "__main__", "__qualname__": "Main"})
    with pytest.raises(ConfigError, match="move the class into a module"):
        Runner(main).needs()
    with Runner(Inner) as runner:
        runner.init_local(quiet=True)
        assert runner.run(1) == 1


# --- called in this process -------------------------------------------------------------------


@pytest.fixture
def runner() -> Iterator[Runner]:
    """Return a runner of the test Runnable, in this process."""
    made = Runner(Doubler, runnable_init_params=PARAMETERS)
    made.init_local(quiet=True)
    yield made
    made.destroy()


def test_a_local_runnable_answers(runner: Runner) -> None:
    """Every form of value; `async_run` as well."""
    assert runner.predict.run(np.arange(3)).tolist() == [0, 3, 6]
    assert runner.predict.run([1, "a"], plus=2)[1] == {"row": "a", "type": "str", "plus": 2}
    first, second = runner.typed.run([[1, 2]])
    assert (first.tolist(), second["sum"].tolist()) == ([[2, 3]], [3])
    assert second["dtype"] == ["float32"]
    assert runner.turned.run(np.ones((3, 2))).shape == (2, 3)
    assert runner.take.run(7, name=1) == (7, "b", None)
    assert runner.describe.run((1, 2))["type"] == "list"
    assert asyncio.run(runner.predict.async_run(np.arange(2))).tolist() == [0, 3]
    assert runner.spec.metadata == {"runnable": "tests.runnables:Doubler"}


def test_specifications_are_checked_before_the_method_is_called(runner: Runner) -> None:
    """Cast where that is safe, refused where not."""
    assert runner.typed.run(np.ones((1, 2), "int32"))[1]["dtype"] == ["float32"]
    with pytest.raises(InvalidInput, match=r"expected float32 \[\?, 2\]"):
        runner.typed.run([[1, 2, 3]])
    with pytest.raises(InvalidInput, match="was not given 'rows'"):
        runner.predict.run(plus=1)


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("drop", ([1, 2],), "given 2 rows and returned a list with 1 rows"),
        ("total", ([1, 2],), "given 2 rows and returned a float with no rows"),
        ("fail", ("x",), "KeyError: 'x'"),
        ("strange", (), "cannot be sent"),
        ("dates", (), "dtype datetime64"),
    ],
)
def test_what_a_method_raises_or_must_not_return_is_a_model_error(
    runner: Runner, method: str, args: Any, expected: str
) -> None:
    """With what was expected."""
    with pytest.raises(ModelError, match=expected):
        runner.method(method).run(*args)


def test_a_runnable_keeps_its_state_and_loses_it_with_destroy(runner: Runner) -> None:
    """As any runner."""
    assert not hasattr(runner, "predikt")
    with pytest.raises(AttributeError, match="Did you mean 'predict'"):
        runner.predikt  # noqa: B018
    assert runner.run([1]) == runner.predict.run([1])
    runner.destroy()
    with pytest.raises(StateError, match="not initialized"):
        runner.predict.run([1])


def test_two_runnables_of_one_class_need_two_names() -> None:
    """The default name is the class's, in lower case."""
    with pytest.raises(ConfigError, match="two runners called 'doubler'"):
        Service("s", runners=[Runner(Doubler), Runner(Doubler)])
    assert Runner(Doubler, name="other").tag == "other:1"


def test_values_without_a_specification_are_merged_only_with_their_like() -> None:
    """Lists with lists, arrays with arrays of the same rows, equal parameters."""
    method = describe_runnable(Doubler, "d").methods["predict"]

    def layout(*args: Any) -> bytes:
        return cast(method, args, {}).layout

    assert layout([1]) == layout(["a", None])
    assert layout(np.ones((1, 2))) == layout(np.ones((3, 2))) != layout(np.ones((3, 3)))
    assert layout([1]) != layout(np.ones(1))
    assert layout([1], 1) != layout([1], 2)
    assert decode_layout(layout([1, 2])).leaves[0].shape == (None,)
