"""Runners in this process: the seed page's models, every form of input, every error."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tfrunner import tensorflow
from tfrunner.errors import ConfigError, InvalidInput, ModelError, StateError
from tfrunner.runner import Runner

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("home")]

X = [[1, 2, 3, 4, 5]]
BATCHABLE = {"__call__": {"batchable": True, "batch_dim": 0}}
Start = Callable[..., Runner]


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module of small models; the first test waits for TensorFlow's import."""
    return importlib.import_module("tests.models")


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that saves a model and gives its runner, which is destroyed after."""
    runners: list[Runner] = []

    def save_and_start(model: Any, **options: Any) -> Runner:
        tensorflow.save(model, "my_tf_model", **options)
        runner = tensorflow.get("my_tf_model").to_runner()
        runner.init_local(quiet=True)
        runners.append(runner)
        return runner

    yield save_and_start
    for runner in runners:
        runner.destroy()


FORMS: dict[str, Callable[[Any], Any]] = {
    "list": lambda tf: X,
    "float64 array": lambda tf: np.array(X, dtype="float64"),
    "int64 array": lambda tf: np.array(X, dtype="int64"),
    "float32 array": lambda tf: np.array(X, dtype="float32"),
    "float64 tensor": lambda tf: tf.constant(X, tf.float64),
    "float32 tensor": lambda tf: tf.constant(X, tf.float32),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_native_model_answers_every_form_of_input_alike(
    made: Any, start: Start, form: Callable[[Any], Any]
) -> None:
    """`runner.run` is `runner.__call__.run`."""
    runner = start(made.NativeModel())
    x = form(made.tf)
    for answer in (runner.run(x), runner.__call__.run(x), runner.run(inputs=x)):  # type: ignore[operator]
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == np.dtype("float64")
        assert answer.tolist() == [[15.0]]


@pytest.mark.parametrize(
    ("name", "width"), [("keras_functional", 6), ("keras_sequential", 1)], ids=str
)
def test_keras_models_answer_as_in_keras(made: Any, start: Start, name: str, width: int) -> None:
    """Several rows of a batchable method as well."""
    model = getattr(made, name)()
    runner = start(model, signatures=BATCHABLE)
    assert runner.run(X).tolist() == [[15.0] * width]
    rows = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_allclose(runner.run(rows), model(rows.astype(model.inputs[0].dtype)))


def test_several_inputs_by_position_and_name(made: Any, start: Start) -> None:
    """Integers for float64, a scalar among them."""
    runner = start(made.MultiInputModel())
    assert runner.run(X, X, 3).tolist() == [[60.0]]
    assert runner.run(X, factor=3, x2=np.array(X)).tolist() == [[60.0]]


def test_several_outputs_are_a_tuple(made: Any, start: Start) -> None:
    """An int64 array is cast to the float32 that the model takes."""
    twice, same = start(made.MultiOutputModel()).run(np.array(X, dtype="int64"))
    assert twice.tolist() == [[2, 4, 6, 8, 10]]
    assert same.tolist() == X
    assert twice.dtype == np.dtype("float32")


def test_structure_goes_in_and_comes_out(made: Any, start: Start) -> None:
    """Dicts, lists, tuples, None, text, and one number."""
    runner = start(made.StructuredModel())
    answer = runner.run([[1, 2]])
    assert answer["y"].tolist() == [[2, 3]]
    assert answer["sum"].tolist() == [3]
    first, (second, third) = answer["parts"]
    assert isinstance(answer["parts"], list)
    assert isinstance(answer["parts"][1], tuple)
    assert [a.tolist() for a in (first, second, third)] == [[[1, 2]], [[2, 4]], [[3, 6]]]
    assert runner.combine.run({"left": [1], "right": [2]}, 3).tolist() == [7]
    assert runner.upper.run(["a", b"b"]).tolist() == [b"A", b"B"]
    total = runner.total.run([1, 2])
    assert (total.shape, total.tolist()) == ((), 3.0)
    value, none = runner.nothing.run([1])
    assert (value.tolist(), none) == ([1], None)
    assert runner.advance.run(2).tolist() == 2
    assert runner.advance.run(3).tolist() == 5


def test_keras_models_of_several_inputs_take_them_whole_or_in_parts(
    made: Any, start: Start
) -> None:
    """A dict or a list, its parts by name, or one after another."""
    keyed = start(made.keras_dict(), signatures=BATCHABLE)
    left, right = [[0.5, 1, 2]], [[1, 2, 3]]
    for answer in (keyed.run({"right": right, "left": left}), keyed.run(left=left, right=right)):
        assert answer["added"].tolist() == [[1.5, 3, 5]]
        assert answer["left"].tolist() == left
    listed = start(made.keras_list(), signatures=BATCHABLE)
    a, b = [[1, 2]], [[3, 4]]
    for answer in (listed.run([a, b]), listed.run(a, b), listed.run(b=b, a=a)):
        assert answer.tolist() == [[4, 6]]


def test_a_model_of_several_traces_answers_each_as_it_was_traced(made: Any, start: Start) -> None:
    """One array, or a tuple; a size that was never traced is the model's error."""
    runner = start(made.PolymorphicModel())
    assert runner.run(X).tolist() == X
    twice, same = runner.run(np.arange(15).reshape(3, 5))
    assert twice.tolist() == (2 * same).tolist()
    with pytest.raises(ModelError, match="matching concrete function"):
        runner.run([X[0], X[0]])


def test_async_run_answers_many_callers(made: Any, start: Start) -> None:
    """Each gets its own rows."""
    runner = start(made.NativeModel(), signatures=BATCHABLE)

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(runner.async_run([[n, 0, 0, 0, 0]]) for n in range(20)))

    assert [answer.tolist() for answer in asyncio.run(ask_all())] == [[[n]] for n in range(20)]


def test_run_works_in_any_thread_but_not_in_an_event_loop(made: Any, start: Start) -> None:
    """It would block the loop; the error says what to write instead."""
    runner = start(made.NativeModel())
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(runner.run(X)))
    thread.start()
    thread.join(30)
    assert answers[0].tolist() == [[15.0]]

    async def run_here() -> None:
        runner.run(X)

    with pytest.raises(StateError, match="await runner"):
        asyncio.run(run_here())


def test_a_runner_must_be_initialized_exactly_once(
    made: Any, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, the error says how; after `destroy` it may be initialized again."""
    tensorflow.save(made.NativeModel(), "m")
    runner = tensorflow.get("m").to_runner()
    with pytest.raises(StateError, match=r"Service.*init_client\(\).*init_local\(\)"):
        runner.run(X)
    runner.init_local()
    assert "no batching" in caplog.text
    assert runner.is_initialized
    with pytest.raises(StateError, match="already"):
        runner.init_local()
    runner.destroy()
    with pytest.raises(StateError, match="not initialized"):
        runner.run(X)
    caplog.clear()
    runner.init_local(quiet=True)
    assert caplog.text == ""
    assert runner.run(X).tolist() == [[15.0]]
    runner.destroy()


def test_an_unknown_method_is_answered_with_those_there_are(made: Any, start: Start) -> None:
    """As an AttributeError, so that hasattr works."""
    runner = start(made.StructuredModel())
    with pytest.raises(AttributeError, match="Did you mean 'upper'"):
        runner.uper  # noqa: B018
    assert not hasattr(runner, "predict")
    assert not hasattr(runner, "_private")
    assert runner.method("total").run([1]).tolist() == 1


def test_without_call_or_an_only_method_the_caller_must_choose(made: Any, start: Start) -> None:
    """The only method is the default one."""
    two = start(made.StructuredModel(), signatures={"upper": {}, "total": {}})
    with pytest.raises(AttributeError, match=r"several methods.*total, upper"):
        two.run([1])
    assert start(made.StructuredModel(), signatures={"total": {}}).run([1, 2]).tolist() == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2, 3, 4]], r"\[1, 4\]; expected float64 \[\?, 5\]"),
        ([1, 2, 3, 4, 5], r"\[5\]; expected float64"),
        ([["a", "b", "c", "d", "e"]], "text"),
        ([[1, 2, 3], [4, 5, 6, 7]], "ragged"),
    ],
    ids=["width", "rank", "text", "ragged"],
)
def test_wrong_input_never_reaches_the_model(
    made: Any, start: Start, value: Any, message: str
) -> None:
    """Expected against got."""
    with pytest.raises(InvalidInput, match=message):
        start(made.NativeModel()).run(value)


def test_what_the_model_raises_is_a_model_error(made: Any, start: Start) -> None:
    """With its text."""
    tf = made.tf

    class Picky(tf.Module):  # type: ignore[misc, name-defined]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, x: Any) -> Any:
            tf.debugging.assert_non_negative(x, message="only positive numbers")
            return x

    runner = start(Picky())
    with pytest.raises(ModelError, match="only positive numbers"):
        runner.run([-1.0])


def test_nan_goes_in_and_comes_out(made: Any, start: Start) -> None:
    """It is a number like any other."""
    assert np.isnan(start(made.NativeModel()).run([[1, 2, 3, 4, float("nan")]])).all()


def test_a_batchable_method_that_loses_rows_is_found_out(made: Any, start: Start) -> None:
    """Never another caller's rows."""
    tf = made.tf

    class Loses(tf.Module):  # type: ignore[misc, name-defined]
        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32)])
        def __call__(self, x: Any) -> Any:
            return x[1:]

    with pytest.raises(ModelError, match="expected 3 rows"):
        start(Loses(), signatures=BATCHABLE).run([[1], [2], [3]])


def test_a_wrong_timeout_is_refused(made: Any, start: Start) -> None:
    """A number of seconds is expected."""
    with pytest.raises(ConfigError, match="timeout"):
        start(made.NativeModel()).run(X, timeout=-1)


def test_a_runner_shows_its_state(made: Any, start: Start) -> None:
    """On one line: model, way, methods."""
    runner = start(made.NativeModel())
    assert runner.tag in repr(runner)
    assert "__call__" in repr(runner)
    runner.destroy()
    assert "not initialized" in repr(runner)
