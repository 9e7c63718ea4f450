"""Saving from files and folders: SavedModels of every age, .keras and .h5 files."""

from __future__ import annotations

import filecmp
import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrunner import models, tensorflow
from tfrunner.entry import SAVED_MODEL, Model
from tfrunner.errors import CorruptModel, InvalidInput, NotFound
from tfrunner.sources import KerasFile, SavedModelFolder, in_order
from tfrunner.specs import DictSpec, TensorSpec, default_method
from tfrunner.tags import Tag

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("home")]

ROWS = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module of small models; the first test waits for TensorFlow's import."""
    return importlib.import_module("tests.models")


@pytest.fixture(scope="module")
def made_v1(made: Any) -> Any:
    """Return the module that writes models as TensorFlow 1 did."""
    return importlib.import_module("tests.models_v1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the current one; return it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def answer(model: Model, *args: Any, **kwargs: Any) -> Any:
    """Return what a runner in this process answers."""
    runner = model.to_runner()
    runner.init_local(quiet=True)
    try:
        return runner.run(*args, **kwargs)
    finally:
        runner.destroy()


def write(model: Any, file: Path) -> None:
    """Let Keras write a file; its own warnings about NumPy 2 are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model.save(file)


def files(folder: Path) -> set[str]:
    """Return the files below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["path", "text", "name first"])
def test_a_saved_model_folder_is_stored_byte_for_byte(made: Any, here: Path, form: str) -> None:
    """Given as a path or as text, before or after the name."""
    made.tf.saved_model.save(made.NativeModel(), "export")
    (here / "export" / "assets.extra").mkdir()
    (here / "export" / "assets.extra" / "note.txt").write_text("kept")
    arguments: dict[str, tuple[Any, Any]] = {
        "path": (here / "export", "m"),
        "text": ("export", "m"),
        "name first": ("m", "export"),
    }
    model = tensorflow.save(*arguments[form], signatures={"__call__": {"batchable": True}})
    stored = model.path / SAVED_MODEL
    assert files(stored) == files(here / "export")
    _, differ, unread = filecmp.cmpfiles(here / "export", stored, files(stored), shallow=False)
    assert (differ, unread) == ([], [])
    assert model.spec.methods["__call__"].batchable
    assert answer(model, [[1, 2, 3, 4, 5]]).tolist() == [[15.0]]


def test_a_foreign_models_signatures_are_methods_where_it_has_no_functions(
    made: Any, here: Path
) -> None:
    """`serving_default` is what is called where nothing is said; none is batchable unasked."""

    class Bare(made.tf.Module):  # type: ignore[misc, name-defined]
        pass

    native = made.NativeModel()
    module = Bare()
    heads = {
        "serving_default": native.__call__.get_concrete_function(),
        "other": native.__call__.get_concrete_function(),
    }
    module.kept = native.weights
    made.tf.saved_model.save(module, "export", signatures=heads)
    model = tensorflow.save(here / "export", "m")
    assert set(model.spec.methods) == {"serving_default", "other"}
    assert not any(method.batchable for method in model.spec.methods.values())
    assert model.spec.default_method() == "serving_default"
    (name, output) = answer(model, [[1, 2, 3, 4, 5]]).popitem()
    assert (name, output.tolist()) == ("output_0", [[15.0]])
    asked = tensorflow.save(here / "export", "m", signatures={"other": {"batchable": True}})
    assert list(asked.spec.methods) == ["other"]


def test_what_keras_exports_is_served(made: Any, here: Path) -> None:
    """By the endpoint that Keras makes."""
    model = made.keras_functional()
    model.export("export", verbose=False)
    saved = tensorflow.save("export", "m", example=[[1, 2, 3, 4, 5]])
    assert list(saved.spec.methods) == ["serve"]
    assert answer(saved, [[1, 2, 3, 4, 5]]).tolist() == [[15.0] * 6]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["serving_default", "__call__"], "__call__"),
        (["only"], "only"),
        (["predict", "serving_default"], "serving_default"),
        (["embed", "predict"], "predict"),
        (["a", "b"], None),
    ],
    ids=str,
)
def test_the_method_that_is_called_where_none_is_named(
    names: list[str], expected: str | None
) -> None:
    """None: the caller must choose."""
    assert default_method(names) == expected


def test_what_cannot_be_served_of_a_foreign_model_is_left_out(
    made: Any, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason in the log; asked for by name, it is refused."""
    tf = made.tf

    class Mixed(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.SparseTensorSpec([None, None], tf.float32)])
        def sparse(self, x: Any) -> Any:
            return tf.sparse.reduce_sum(x)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def dense(self, x: Any) -> Any:
            return x * 2

    tf.saved_model.save(Mixed(), "export")
    with caplog.at_level(logging.WARNING):
        model = tensorflow.save("export", "m")
    assert list(model.spec.methods) == ["dense"]
    assert "'sparse' is left out" in caplog.text
    with pytest.raises(InvalidInput, match="SparseTensorSpec"):
        tensorflow.save("export", "m", signatures={"sparse": {}})
    with pytest.raises(NotFound, match="Did you mean 'dense'"):
        tensorflow.save("export", "m", signatures={"dens": {}})


def test_a_model_of_tensorflow_1_is_served(made_v1: Any, here: Path) -> None:
    """Its signatures are its methods, batched where asked."""
    made_v1.linear(here / "export")
    batchable = {"serving_default": {"batchable": True}}
    model = tensorflow.save(here / "export", "m", signatures=batchable, example=[[1, 1, 1]])
    (argument,) = model.spec.methods["serving_default"].arguments
    assert argument.spec == TensorSpec("x", "float32", (None, 3))
    assert answer(model, x=[[1, 1, 1], [0, 0, 2]])["y"].tolist() == [[6.5], [6.5]]


def test_a_model_that_only_the_first_loader_loads_is_served(made_v1: Any, here: Path) -> None:
    """Such as one that gives back a variable of TensorFlow 1."""
    made_v1.variable_output(here / "export")
    model = tensorflow.save(here / "export", "m")
    output = model.spec.methods["serving_default"].output
    assert isinstance(output, DictSpec)
    assert set(output.items) == {"y", "weight"}
    answers = answer(model, x=[1.5, 2])
    assert {name: array.tolist() for name, array in answers.items()} == {
        "y": [3.0, 4.0],
        "weight": [1.0, 2.0],
    }
    with pytest.raises(NotFound, match="Did you mean 'serving_default'"):
        tensorflow.save(here / "export", "m", signatures={"serving_defaul": {}})


def test_an_empty_saved_model_is_refused(made: Any, here: Path) -> None:
    """TensorFlow loads it, but there is nothing to call."""
    made.tf.saved_model.save(made.tf.Module(), "export")
    with pytest.raises(CorruptModel, match=r"neither a tf\.function nor a signature"):
        tensorflow.save("export", "m")


def test_a_folder_without_anything_to_serve_is_refused(made_v1: Any, here: Path) -> None:
    """With the reason; nothing is stored."""
    made_v1.nothing(here / "export")
    with pytest.raises(CorruptModel, match="no signature that can be served"):
        tensorflow.save(here / "export", "m")
    (here / "export" / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(CorruptModel, match="cannot be loaded by TensorFlow"):
        tensorflow.save(here / "export", "m")
    assert models.list() == []


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_of_keras_is_loaded_and_saved(made: Any, here: Path, suffix: str) -> None:
    """Wrapped as a model is that was given itself; compiled or not."""
    model = made.keras_sequential()
    file = here / f"model{suffix}"
    write(model, file)
    saved = tensorflow.save(str(file), "m", signatures={"__call__": {"batchable": True}})
    assert answer(saved, [[1, 2, 3, 4, 5]]).tolist() == [[15.0]]
    assert files(saved.path) >= {"saved_model/saved_model.pb", "model.yaml"}
    assert not any(name.endswith(suffix) for name in files(saved.path))


def test_a_file_of_a_subclassed_model_needs_its_class(made: Any, here: Path) -> None:
    """Given as a custom object; what it was built with is in the file."""

    class Doubled(made.keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    layers = [made.keras.layers.Input((5,)), Doubled()]
    write(made.keras.Sequential(layers), here / "own.keras")
    with pytest.raises(
        InvalidInput, match=r"own.keras cannot be loaded by Keras: Could not locate class"
    ):
        tensorflow.save("own.keras", "m")
    saved = tensorflow.save("own.keras", "m", custom_objects={"Doubled": Doubled})
    assert answer(saved, ROWS).tolist() == (ROWS * 2).tolist()
    assert saved.custom_objects["Doubled"].__name__ == "Doubled"
    model = made.SubclassedModel()
    expected = model(ROWS).numpy()
    write(model, here / "subclassed.keras")
    saved = tensorflow.save("subclassed.keras", "n")
    np.testing.assert_allclose(answer(saved, ROWS), expected, rtol=1e-5)


def test_which_of_two_texts_is_the_model(here: Path) -> None:
    """The first that holds one, then the first that can only be a path."""
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "saved_model.pb").write_bytes(b"")
    (here / "m.keras").write_bytes(b"")
    assert in_order("a", "x") == (SavedModelFolder(Path("a")), Tag("x"))
    assert in_order("x", "a") == (SavedModelFolder(Path("a")), Tag("x"))
    assert in_order("a", "b") == (SavedModelFolder(Path("a")), Tag("b"))
    assert in_order("x:v1", "m.keras") == (KerasFile(Path("m.keras")), Tag("x", "v1"))
    assert in_order(Tag("a"), "b") == (SavedModelFolder(Path("b")), Tag("a"))
    assert in_order(here / "a", "a") == (SavedModelFolder(here / "a"), Tag("a"))
    assert in_order("a/saved_model.pb", "x") == (SavedModelFolder(Path("a")), Tag("x"))


def test_paths_that_hold_no_model_are_refused_with_what_was_expected(here: Path) -> None:
    """A folder of versions names the newest."""
    (here / "export" / "1").mkdir(parents=True)
    (here / "export" / "1" / "saved_model.pb").write_bytes(b"")
    (here / "note.txt").write_text("")
    for model, message in {
        Path("export"): "no saved_model.pb. Did you mean 'export/1'",
        Path("note.txt"): "expected a SavedModel folder, a .keras file or a .h5 file",
        Path("none"): "does not exist",
        "./none": "does not exist",
        "none.keras": "does not exist",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            in_order(model, "m")
    with pytest.raises(InvalidInput, match="neither 'n' nor 'm'"):
        in_order("n", "m")
    with pytest.raises(InvalidInput, match="PosixPath and PosixPath"):
        in_order(Path("a"), Path("b"))


def test_what_a_folder_has_no_use_for_is_refused(made: Any, here: Path) -> None:
    """It is stored as it is."""
    made.tf.saved_model.save(made.NativeModel(), "export")
    with pytest.raises(InvalidInput, match="takes no tf_signature"):
        tensorflow.save("export", "m", tf_signature={"x": made.tf.TensorSpec([None])})
