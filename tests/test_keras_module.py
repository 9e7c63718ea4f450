"""`tfrunner.keras`: Keras models with Keras' names and casting, and the model back again."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import tfrunner
from tfrunner import keras, models, tensorflow
from tfrunner.entry import Model
from tfrunner.errors import CorruptModel, InvalidInput, NotFound, StateError
from tfrunner.keras_models import KERAS_MODEL
from tfrunner.specs import Argument, TensorSpec

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("home")]

ROWS = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)
X = [[1, 2, 3, 4, 5]]


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module of small models; the first test waits for TensorFlow's import."""
    return importlib.import_module("tests.models")


def test_predict_is_the_default_method_and_is_not_keras_predict(made: Any) -> None:
    """The function that is served calls the model itself, with `training=False`."""

    class NeverPredicted(made.SubclassedModel):  # type: ignore[misc, name-defined]
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("keras.Model.predict was called")

    model = NeverPredicted()
    expected = model(ROWS, training=False).numpy()
    saved = keras.save(model, "m", custom_objects={"NeverPredicted": NeverPredicted})
    assert list(saved.spec.methods) == ["predict"]
    method = saved.spec.methods["predict"]
    assert method.arguments == (Argument("x", TensorSpec("x", "float32", (None, 5))),)
    assert (method.batchable, method.lenient) == (False, True)
    with saved.to_runner() as runner:
        runner.init_local(quiet=True)
        np.testing.assert_allclose(runner.run(ROWS), expected, rtol=1e-5)
        np.testing.assert_allclose(runner.predict.run(ROWS), expected, rtol=1e-5)


FORMS = {
    "float64": lambda tf: np.array(X, "float64"),
    "int64": lambda tf: np.array(X, "int64"),
    "list": lambda tf: X,
    "tensor": lambda tf: tf.constant(X, tf.float32),
    "bool": lambda tf: np.array(X) > 2,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_gives_what_keras_gives(made: Any, form: str) -> None:
    """Any kind of number is cast, as Keras casts it."""
    model = made.TracedCallModel()
    model(np.ones((1, 5), "float32"))
    value = FORMS[form](made.tf)
    expected = model(np.asarray(value).real.astype("float32"))
    saved = keras.save(model, "m")
    with saved.to_runner() as runner:
        runner.init_local(quiet=True)
        np.testing.assert_allclose(runner.predict.run(value), expected)


def test_options_name_predict(made: Any) -> None:
    """`__call__` is the same function; several may be served."""
    options = {"predict": {"batchable": True}, "__call__": {}}
    saved = keras.save_model("m", made.keras_sequential(), signatures=options, example=X)
    assert {name: m.batchable for name, m in saved.spec.methods.items()} == {
        "predict": True,
        "__call__": False,
    }
    with pytest.raises(NotFound, match="Did you mean 'predict'"):
        keras.save(made.keras_sequential(), "m", signatures={"predictt": {}})


def test_the_keras_model_comes_back_as_it_was(made: Any) -> None:
    """By `load_model` with a tag, a model, or from the model itself: weights, compilation."""
    model = made.keras_sequential()
    saved = keras.save(model, "m")
    assert KERAS_MODEL in saved.info.files
    for loaded in (keras.load_model("m"), keras.load_model(saved), saved.load_model()):
        assert isinstance(loaded, made.keras.Model)
        assert loaded.loss == "binary_crossentropy"
        np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_custom_objects_come_from_the_store(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Classes that nothing else registers, and Lambda layers; without them it is only served."""

    class Doubled(made.keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    layers = made.keras.layers
    model = made.keras.Sequential([layers.Input((5,)), Doubled(), layers.Lambda(lambda x: x + 1)])
    with caplog.at_level(logging.WARNING):
        bare = keras.save(model, "m")
    assert "Could not locate class 'Doubled'" in caplog.text
    with pytest.raises(NotFound, match="saved without the Keras model itself"):
        bare.load_model()
    assert KERAS_MODEL not in bare.info.files
    keras.save(model, "m", custom_objects={"Doubled": Doubled})
    np.testing.assert_allclose(keras.load_model("m")(ROWS), ROWS * 2 + 1)


def test_an_imported_models_objects_are_not_loaded_unasked(made: Any) -> None:
    """Neither its pickle nor the code of its Lambda layers."""
    layers = made.keras.layers
    model = made.keras.Sequential([layers.Input((5,)), layers.Lambda(lambda x: x + 1)])
    saved = keras.save(model, "m", custom_objects={"factor": 3})
    imported = Model(msgspec.structs.replace(saved.info, imported=True), saved.path)
    with pytest.raises(StateError, match="trust=True"):
        keras.load_model(imported)
    plain = keras.save(model, "n")
    imported = Model(msgspec.structs.replace(plain.info, imported=True), plain.path)
    with pytest.raises(CorruptModel, match="Lambda"):
        keras.load_model(imported)


def test_each_module_says_who_saved_a_model(made: Any) -> None:
    """TensorFlow's part is in every entry; Keras' only in those saved by it."""
    by_keras = keras.save(made.keras_sequential(), "by_keras")
    by_tensorflow = tensorflow.save(made.keras_sequential(), "by_tensorflow")
    assert (by_keras.info.module, by_tensorflow.info.module) == ("keras", "tensorflow")
    restored = tensorflow.load_model(by_keras)
    x = made.tf.constant(X, made.tf.float32)
    for function in (restored, restored.predict):
        assert function(x).numpy().tolist() == [[15.0]]
    for wrong in ("by_tensorflow", by_tensorflow.tag, by_tensorflow):
        with pytest.raises(NotFound, match=r"saved by tfrunner\.tensorflow"):
            keras.load_model(wrong)
    with pytest.raises(NotFound, match=r"saved by tfrunner\.tensorflow"):
        keras.get("by_tensorflow")
    assert keras.get("by_keras") == by_keras == tensorflow.get(by_keras.tag)
    assert keras.list() == keras.list("by_keras") == [by_keras]
    assert keras.list("by_tensorflow") == []
    assert keras.delete("by_keras") == [by_keras.tag]


def test_only_keras_models_are_taken(made: Any, tmp_path: Path) -> None:
    """With the name of the module that takes the others."""
    with pytest.raises(InvalidInput, match=r"got a NativeModel\. Save it with tfrunner.tensor"):
        keras.save(made.NativeModel(), "m")
    made.tf.saved_model.save(made.NativeModel(), str(tmp_path / "export"))
    with pytest.raises(InvalidInput, match="is a SavedModel folder"):
        keras.save(tmp_path / "export", "m")
    assert models.list() == []


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_file_of_keras_is_kept_and_served(made: Any, tmp_path: Path, suffix: str) -> None:
    """A .keras file byte for byte."""
    model = made.keras_sequential()
    file = tmp_path / f"model{suffix}"
    model.save(file)
    saved = keras.save(file, "m")
    if suffix == ".keras":
        assert (saved.path / KERAS_MODEL).read_bytes() == file.read_bytes()
    assert np.asarray(keras.load_model("m")(ROWS)).shape == (3, 1)
    with saved.to_runner() as runner:
        runner.init_local(quiet=True)
        assert runner.run(X).tolist() == [[15.0]]


def test_reading_the_store_imports_neither_keras_nor_tensorflow(made: Any) -> None:
    """Nor does a NotFound."""
    keras.save(made.keras_sequential(), "m")
    tensorflow.save(made.NativeModel(), "n")
    code = (
        "import sys, tfrunner\n"
        "model = tfrunner.keras.get('m')\n"
        "assert tfrunner.keras.list() == [model]\n"
        "try:\n"
        "    tfrunner.keras.load_model('n')\n"
        "except tfrunner.errors.NotFound:\n"
        "    pass\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert tfrunner.keras is keras
