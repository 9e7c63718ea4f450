"""What Keras models take: from their inputs, what they were built with, an example, or specs."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tfrunner import tensorflow
from tfrunner.entry import Model
from tfrunner.errors import InvalidInput
from tfrunner.specs import Argument, DictSpec, ListSpec, MethodSpec, TensorSpec

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("home")]

BATCHABLE = {"__call__": {"batchable": True}}
ROWS = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module of small models; the first test waits for TensorFlow's import."""
    return importlib.import_module("tests.models")


def method(model: Model, name: str = "__call__") -> MethodSpec:
    """Return what a method takes and gives."""
    return model.spec.methods[name]


def tensor(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    """Return a tensor's specification."""
    return TensorSpec(name, dtype, shape)


def answer(model: Model, *args: Any, name: str = "__call__") -> Any:
    """Return what a runner in this process answers."""
    runner = model.to_runner()
    runner.init_local(quiet=True)
    try:
        return runner.method(name).run(*args)
    finally:
        runner.destroy()


@pytest.mark.parametrize("how", ["called", "built", "predicted", "fitted"])
def test_a_subclassed_model_is_known_by_what_it_was_built_with(made: Any, how: str) -> None:
    """With any number of rows, and as it is after training."""
    model = made.SubclassedModel()
    if how == "built":
        with pytest.warns(UserWarning, match="does not have a `build"):
            model.build((7, 5))
    elif how == "called":
        model(ROWS)
    elif how == "predicted":
        model.predict(ROWS, verbose=0)
    else:
        model.compile(loss="mse")
        model.fit(ROWS, np.zeros((3, 3)), verbose=0)
    saved = tensorflow.save(model, "m", signatures=BATCHABLE)
    assert method(saved).arguments == (Argument("x", tensor("x", "float32", None, 5)),)
    expected = model(ROWS, training=False).numpy()
    np.testing.assert_allclose(answer(saved, ROWS), expected, rtol=1e-5)
    np.testing.assert_allclose(answer(saved, ROWS[:1]), expected[:1], rtol=1e-5)


def test_a_subclassed_models_own_functions_are_methods_too(made: Any) -> None:
    """Beside `__call__`, and not `call`."""
    model = made.SubclassedModel()
    model(ROWS)
    saved = tensorflow.save(model, "m")
    assert set(saved.spec.methods) == {"__call__", "embed"}
    expected = model.embed(ROWS).numpy()
    np.testing.assert_allclose(answer(saved, ROWS, name="embed"), expected, rtol=1e-5)


def test_a_call_that_is_a_tf_function_works(made: Any) -> None:
    """Keras calls it; so does the saved function."""
    model = made.TracedCallModel()
    model(np.ones((2, 32), "float32"))
    assert list(tensorflow.save(model, "m").spec.methods) == ["__call__"]
    saved = tensorflow.save(model, "m", signatures=BATCHABLE)
    assert method(saved).arguments == (Argument("inputs", tensor("inputs", "float32", None, 32)),)
    np.testing.assert_allclose(answer(saved, np.ones((5, 32))), np.full((5, 1), 32.0))


PAIR = {
    "left": np.ones((2, 4), "float32"),
    "right": [np.full((2, 4), 2, "float32")],
}
SCALE = np.array([[1.0], [3.0]], "float32")


@pytest.mark.parametrize("is_called", [True, False], ids=["called", "new"])
@pytest.mark.parametrize(
    "example",
    [(PAIR, SCALE), {"pair": PAIR, "scale": SCALE}, {"__call__": (PAIR, SCALE)}],
    ids=["positions", "names", "by method"],
)
def test_several_nested_arguments_come_from_an_example(
    made: Any, example: Any, is_called: bool
) -> None:
    """Keras keeps the shapes of the first argument only; a new model is built with it."""
    model = made.TwoArgumentsModel()
    if is_called:
        model(PAIR, SCALE)
        with pytest.raises(InvalidInput, match=r"pair, scale.*example=\(pair, scale\)"):
            tensorflow.save(model, "m")
    saved = tensorflow.save(model, "m", example=example, signatures=BATCHABLE)
    pair = DictSpec(
        {
            "left": tensor("left", "float32", None, 4),
            "right": ListSpec((tensor("right_0", "float32", None, 4),)),
        }
    )
    assert method(saved).arguments == (
        Argument("pair", pair),
        Argument("scale", tensor("scale", "float32", None, 1)),
    )
    expected = model(PAIR, SCALE).numpy()
    np.testing.assert_allclose(answer(saved, PAIR, SCALE), expected, rtol=1e-5)


def test_an_example_says_what_kind_of_numbers_a_model_takes(made: Any) -> None:
    """Whole numbers and text as they are; fractions in the model's own dtype."""
    tokens = made.keras.Sequential([made.keras.layers.Embedding(10, 2)])
    saved = tensorflow.save(tokens, "tokens", example=np.array([[1, 2, 3]], "int32"))
    assert method(saved).arguments[0].spec == tensor("inputs", "int32", None, 3)
    words = made.WordModel()
    saved = tensorflow.save(words, "words", example=[["red"]], signatures=BATCHABLE)
    assert method(saved).arguments[0].spec == tensor("words", "string", None, 1)
    assert answer(saved, [["red"], ["green"], ["blue"]]).tolist() == [[11], [20], [2]]
    numbers = tensorflow.save(made.SubclassedModel(), "numbers", example=ROWS.astype("float64"))
    assert method(numbers).arguments[0].spec == tensor("x", "float32", None, 5)


@pytest.mark.parametrize("form", ["names", "positions", "single"])
def test_tensor_specs_say_what_a_model_takes(made: Any, form: str) -> None:
    """Also for one that was never called; sizes may be left open."""
    tf = made.tf
    spec = tf.TensorSpec([None, None], tf.int64)
    given = {"names": {"tokens": spec}, "positions": [spec], "single": spec}[form]
    model = made.keras.Sequential([made.keras.layers.Embedding(10, 2)])
    saved = tensorflow.save(model, "m", tf_signature=given, signatures=BATCHABLE)
    (argument,) = method(saved).arguments
    name = "tokens" if form == "names" else "inputs"
    assert argument.spec == tensor(name, "int64", None, None)
    for width in (2, 4):
        rows = np.arange(2 * width).reshape(2, width)
        np.testing.assert_allclose(answer(saved, rows), model(rows))


def test_a_sequential_model_that_was_built_by_a_call_takes_any_rows(made: Any) -> None:
    """One that keeps state between batches is tied to the rows it was built with."""
    keras = made.keras
    model = keras.Sequential([keras.layers.Dense(2)])
    model(ROWS)
    assert model.inputs[0].shape == (3, 5)
    saved = tensorflow.save(model, "m", signatures=BATCHABLE)
    assert method(saved).arguments[0].spec == tensor("inputs", "float32", None, 5)
    stateful = keras.Sequential(
        [keras.layers.Input(batch_shape=(2, 3, 1)), keras.layers.SimpleRNN(1, stateful=True)]
    )
    spec = method(tensorflow.save(stateful, "stateful")).arguments[0].spec
    assert spec == tensor("inputs", "float32", 2, 3, 1)


def test_nested_inputs_of_a_functional_model_stay_nested(made: Any) -> None:
    """Dicts in lists and lists in dicts."""
    layers = made.keras.layers
    one, b, c = (layers.Input((2,), name=name) for name in ("one", "b", "c"))
    model = made.keras.Model({"one": one, "more": [b, c]}, layers.Add()([one, b, c]))
    saved = tensorflow.save(model, "m", signatures=BATCHABLE)
    (argument,) = method(saved).arguments
    more = ListSpec((tensor("b", "float32", None, 2), tensor("c", "float32", None, 2)))
    assert argument.spec == DictSpec({"more": more, "one": tensor("one", "float32", None, 2)})
    given = {"one": [[1, 1]], "more": [[[2, 2]], [[3, 4]]]}
    assert answer(saved, given).tolist() == [[6, 7]]


def test_ragged_inputs_of_a_functional_model_stay_ragged(made: Any) -> None:
    """Keras 3.13 and later know them."""
    layers, keras = made.keras.layers, made.keras
    try:
        ids = layers.Input((None,), dtype="int32", ragged=True, name="ids")
    except TypeError:
        pytest.skip(f"Keras {keras.__version__} has no ragged inputs")
    vectors = layers.Embedding(10, 2)(ids)
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(vectors))
    saved = tensorflow.save(model, "m", signatures=BATCHABLE)
    assert method(saved).arguments[0].spec.ragged_rank == 1
    rows = made.tf.ragged.constant([[1, 2], [3]], dtype="int32")
    np.testing.assert_allclose(answer(saved, [[1, 2], [3]]), model(rows), rtol=1e-5)


def test_a_model_that_says_nothing_is_refused_with_what_to_give(made: Any) -> None:
    """Never built, or called with something else than Keras remembers."""
    with pytest.raises(InvalidInput, match=r"never built or called\. Give save an example"):
        tensorflow.save(made.SubclassedModel(), "m")
    with pytest.raises(InvalidInput, match=r"expected a tuple or a dict of 2"):
        tensorflow.save(made.TwoArgumentsModel(), "m", example=ROWS)
    with pytest.raises(InvalidInput, match=r"takes pair, scale; expected a tf\.TensorSpec"):
        tensorflow.save(made.TwoArgumentsModel(), "m", tf_signature=made.tf.TensorSpec([None, 4]))
    model = made.WordModel()
    model(np.array([["red"]], dtype=object))
    with pytest.raises(InvalidInput, match=r"cannot be called with words=.*float32"):
        tensorflow.save(model, "m")
    with pytest.raises(InvalidInput, match="was never built, and fails on zeros"):
        tensorflow.save(made.WordModel(), "m", example=np.ones((2, 1)))
