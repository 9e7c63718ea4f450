"""Saving TensorFlow and Keras models: what is stored, what is refused."""

from __future__ import annotations

import importlib
import logging
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrunner import models, tensorflow
from tfrunner.entry import Model
from tfrunner.errors import AlreadyExists, CorruptModel, InvalidInput, NotFound
from tfrunner.examples import read_examples
from tfrunner.specs import Argument, DictSpec, ListSpec, NothingSpec, TensorSpec, TupleSpec
from tfrunner.tags import Tag

pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("home")]

BATCHABLE = {"__call__": {"batchable": True}}


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module of small models; the first test waits for TensorFlow's import."""
    return importlib.import_module("tests.models")


@pytest.fixture(scope="module")
def tf(made: Any) -> Any:
    """Return TensorFlow."""
    return importlib.import_module("tensorflow")


def tensor(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    """Return a tensor's specification."""
    return TensorSpec(name, dtype, shape)


def arguments(model: Model, method: str = "__call__") -> tuple[Argument, ...]:
    """Return what a method takes."""
    return model.spec.methods[method].arguments


def test_a_native_model_is_saved_and_got_back(made: Any) -> None:
    """By its name, its tag, and its tag's text."""
    model = tensorflow.save(made.NativeModel(), "my_tf_model")
    assert model.tag.name == "my_tf_model"
    assert len(str(model.tag.version)) == 16
    method = model.spec.methods["__call__"]
    assert method.arguments == (Argument("inputs", tensor("inputs", "float64", None, 5)),)
    assert method.output == tensor("output_0", "float64", None, 1)
    assert (method.batchable, method.repeatable) == (False, True)
    for tag in ("my_tf_model", model.tag, str(model.tag), "my_tf_model:1"):
        assert tensorflow.get(tag) == model
    assert tensorflow.list("my_tf_model") == [model] == models.list()
    assert tensorflow.delete("my_tf_model") == [model.tag]
    assert models.list() == []


def test_keras_models_keep_names_dtypes_and_nesting(made: Any) -> None:
    """Wrapped on saving; the batch axis is open."""
    functional = tensorflow.save(made.keras_functional(), "functional")
    assert arguments(functional) == (Argument("x", tensor("x", "float64", None, 5)),)
    sequential = tensorflow.save(made.keras_sequential(), "sequential")
    (argument,) = arguments(sequential)
    assert argument.name == "inputs"
    keyed = tensorflow.save(made.keras_dict(), "keyed", signatures=BATCHABLE)
    assert arguments(keyed) == (
        Argument(
            "inputs",
            DictSpec(
                {
                    "left": tensor("left", "float32", None, 3),
                    "right": tensor("right", "int32", None, 3),
                }
            ),
        ),
    )
    output = keyed.spec.methods["__call__"].output
    assert isinstance(output, DictSpec)
    assert list(output.items) == ["added", "left"]
    listed = tensorflow.save(made.keras_list(), "listed")
    (argument,) = arguments(listed)
    parts = (tensor("a", "float32", None, 2), tensor("b", "float32", None, 2))
    assert argument.spec == ListSpec(parts)


def test_a_keras_model_is_saved_for_inference(made: Any, tf: Any) -> None:
    """Dropout and batch normalization run as after training."""
    keras = made.keras
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.9)]
    )
    x = np.arange(8, dtype="float32").reshape(2, 4)
    loaded = tensorflow.load_model(tensorflow.save(model, "m", signatures=BATCHABLE))
    np.testing.assert_allclose(loaded(tf.constant(x)), model(x, training=False))


def test_every_tf_function_is_served_by_default(made: Any) -> None:
    """With the structure of its inputs and outputs."""
    model = tensorflow.save(made.StructuredModel(), "m")
    methods = model.spec.methods
    assert set(methods) == {"__call__", "combine", "upper", "total", "nothing", "advance"}
    assert not any(method.batchable for method in methods.values())
    assert methods["__call__"].output == DictSpec(
        {
            "parts": ListSpec(
                (
                    tensor("parts_0", "float32", None, 2),
                    TupleSpec(
                        (
                            tensor("parts_1_0", "float32", None, 2),
                            tensor("parts_1_1", "float32", None, 2),
                        )
                    ),
                )
            ),
            "sum": tensor("sum", "float32", None),
            "y": tensor("y", "float32", None, 2),
        }
    )
    pair = DictSpec(
        {"left": tensor("left", "int32", None), "right": tensor("right", "int32", None)}
    )
    assert methods["combine"].arguments == (
        Argument("pair", pair),
        Argument("factor", tensor("factor", "int32")),
    )
    assert methods["upper"].arguments == (Argument("words", tensor("words", "string", None)),)
    assert methods["nothing"].output == TupleSpec(
        (tensor("output_0", "float32", None), NothingSpec())
    )


def test_a_method_that_writes_to_a_variable_is_not_repeatable(made: Any) -> None:
    """Also where it does so inside a branch."""
    methods = tensorflow.save(made.StructuredModel(), "m").spec.methods
    assert [name for name, method in methods.items() if not method.repeatable] == ["advance"]


@pytest.mark.parametrize(
    ("options", "batch_dim"),
    [
        ({"batchable": True}, (0, 0)),
        ({"batchable": True, "batchdim": 0}, (0, 0)),
        ({"batchable": True, "batch_dim": [0, 0]}, (0, 0)),
    ],
    ids=["default", "alias", "pair"],
)
def test_signatures_make_a_method_batchable(
    made: Any, options: dict[str, Any], batch_dim: tuple[int, int]
) -> None:
    """`batchdim` is taken for `batch_dim`."""
    model = tensorflow.save(made.NativeModel(), "m", signatures={"__call__": options})
    method = model.spec.methods["__call__"]
    assert (method.batchable, method.batch_dim) == (True, batch_dim)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        ({"__call__": {"batchible": True}}, "Did you mean 'batchable'"),
        ({"__call__": {"batch_dim": 0, "batchdim": 0}}, "'batch_dim' twice"),
        ({"__call__": {"batchable": "yes"}}, "expected True or False"),
        ({"__call__": {"batch_dim": -1}}, "expected an axis"),
        ({"__call__": {"batch_dim": (0, 1, 2)}}, "expected an axis"),
        ({"__call__": {"batchable": True, "batch_dim": 1}}, "axis 1 is fixed"),
        ({"__call__": {"batchable": True, "batch_dim": (2, 0)}}, "no rows on axis 2"),
        ({"__call__": {"batchable": True, "batch_dim": (0, 1)}}, "output_0.*axis 1 is fixed"),
        ({"__call__": True}, "maps a method to a dict"),
        ({}, "at least one method"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_signatures_are_refused_and_nothing_is_stored(
    made: Any, home: Path, signatures: Any, message: str
) -> None:
    """The message says what was expected."""
    with pytest.raises(InvalidInput, match=message):
        tensorflow.save(made.NativeModel(), "m", signatures=signatures)
    assert models.list() == []
    assert [path for path in home.glob("models/.new/*")] == []


def test_a_fixed_batch_axis_is_refused_with_what_to_write(made: Any) -> None:
    """The seed page's first model, were it batchable."""
    with pytest.raises(InvalidInput, match=r"'x1'.*\[1, 5\].*\[\?, 5\]"):
        tensorflow.save(made.MultiInputModel(), "m", signatures=BATCHABLE)


def test_a_method_that_does_not_exist_is_refused(made: Any) -> None:
    """With the near one; also a plain Python method, which cannot be restored."""
    with pytest.raises(NotFound, match="Did you mean 'combine'"):
        tensorflow.save(made.StructuredModel(), "m", signatures={"combin": {}})
    with pytest.raises(NotFound, match="'predict'"):
        tensorflow.save(made.keras_functional(), "m", signatures={"predict": {}})
    with pytest.raises(NotFound, match="must be a tf"):
        tensorflow.save(made.NativeModel(), "m", signatures={"with_name_scope": {}})


def test_model_and_name_may_change_places(made: Any) -> None:
    """As `save_model` has them."""
    first = tensorflow.save("m:v1", made.NativeModel())  # type: ignore[arg-type]
    second = tensorflow.save_model("m:v2", made.NativeModel(), signatures=BATCHABLE)
    assert (str(first.tag), str(second.tag)) == ("m:v1", "m:v2")
    assert second.spec.methods["__call__"].batchable
    assert (first.spec.serial, second.spec.serial) == (1, 2)
    with pytest.raises(InvalidInput, match="str and str"):
        tensorflow.save("m", "n")
    with pytest.raises(InvalidInput, match="NativeModel and int"):
        tensorflow.save(made.NativeModel(), 3)  # type: ignore[arg-type]


def test_a_version_may_be_chosen_once(made: Any) -> None:
    """A taken one, and `latest`, are refused."""
    tensorflow.save(made.NativeModel(), Tag("m", "v1"))
    with pytest.raises(AlreadyExists):
        tensorflow.save(made.NativeModel(), "m:v1")
    with pytest.raises(InvalidInput, match="latest"):
        tensorflow.save(made.NativeModel(), "m:latest")


def test_labels_and_metadata_are_stored_as_plain_data(made: Any) -> None:
    """NumPy values are converted; labels become text with a warning."""
    with pytest.warns(UserWarning, match="accuracy"):
        tensorflow.save(
            made.NativeModel(),
            "m",
            labels={"stage": "prod", "accuracy": 0.9},  # type: ignore[dict-item]
            metadata={"mean": np.arange(3), "n": np.int64(4), "nested": {"t": (1, "a")}, "x": None},
        )
    model = tensorflow.get("m")
    assert model.labels == {"stage": "prod", "accuracy": "0.9"}
    assert model.metadata == {"mean": [0, 1, 2], "n": 4, "nested": {"t": [1, "a"]}, "x": None}
    with pytest.raises(InvalidInput, match=r"metadata\['f'\] is a function"):
        tensorflow.save(made.NativeModel(), "m", metadata={"f": lambda: None})


def test_the_versions_that_a_model_was_saved_with_are_stored(made: Any, tf: Any) -> None:
    """Of everything that reading it again may depend on."""
    stored = tensorflow.save(made.NativeModel(), "m").info.framework
    assert stored == {
        "tfrunner": version("tfrunner"),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": version("keras"),
        "numpy": np.__version__,
    }


@pytest.mark.parametrize(
    "example",
    [[[1, 2, 3, 4, 5]], ([[1, 2, 3, 4, 5]],), {"inputs": [[1, 2, 3, 4, 5]]}],
    ids=["value", "positions", "names"],
)
def test_example_inputs_are_stored_cast(made: Any, example: Any) -> None:
    """As arrays of the method's dtypes, whichever way they were given."""
    model = tensorflow.save(made.NativeModel(), "m", example=example)
    method = model.spec.methods["__call__"]
    (array,) = read_examples(model.path / "examples.npz", method) or []
    assert array.tolist() == [[1, 2, 3, 4, 5]]
    assert array.dtype == np.dtype("float64")
    assert "examples.npz" in model.info.files


def test_examples_by_method_may_hold_text(made: Any) -> None:
    """Text is stored without a pickle; a method without example has none."""
    example = {"upper": (["a", "ü\0"],), "combine": ({"left": [1], "right": [2]}, 3)}
    model = tensorflow.save(made.StructuredModel(), "m", example=example)
    file, methods = model.path / "examples.npz", model.spec.methods
    assert [a.tolist() for a in read_examples(file, methods["upper"]) or []] == [
        [b"a", "ü\0".encode()]
    ]
    assert [a.tolist() for a in read_examples(file, methods["combine"]) or []] == [[1], [2], 3]
    assert read_examples(file, methods["total"]) is None
    assert read_examples(model.path / "none.npz", methods["total"]) is None


def test_examples_may_be_ragged_or_of_other_numbers(made: Any, tf: Any) -> None:
    """Ragged rows, bfloat16, and the variant of a polymorphic function that takes the example."""

    class Half(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.bfloat16, name="x")])
        def __call__(self, x: Any) -> Any:
            return x * 2

    class Either(tf.Module):  # type: ignore[misc]
        @tf.function
        def __call__(self, x: Any) -> Any:
            return x + x

    either = Either()
    either(tf.constant([1.0]))
    either(tf.constant(["a"]))
    given = {
        "ragged": (made.RaggedModel(), [[1, 2], [3]]),
        "half": (Half(), [1.5, 2]),
        "either": (either, np.array(["ab"])),
    }
    read = {}
    for name, (module, example) in given.items():
        model = tensorflow.save(module, name, example=example)
        (method,) = model.spec.methods.values()
        (read[name],) = read_examples(model.path / "examples.npz", method) or []
    assert [row.tolist() for row in read["ragged"]] == [[1.0, 2.0], [3.0]]
    assert read["ragged"][0].dtype == np.dtype("float64")
    assert (read["half"].dtype.name, read["half"].tolist()) == ("bfloat16", [1.5, 2])
    assert read["either"].tolist() == [b"ab"]


def test_an_example_that_does_not_fit_or_fails_is_refused(made: Any, tf: Any) -> None:
    """What was saved must run on it."""

    class Picky(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, x: Any) -> Any:
            tf.debugging.assert_positive(x, message="only positive numbers")
            return x

    with pytest.raises(InvalidInput, match=r"expected float64 \[\?, 5\]"):
        tensorflow.save(made.NativeModel(), "m", example=[1, 2])
    with pytest.raises(InvalidInput, match="only positive numbers"):
        tensorflow.save(Picky(), "m", example=[-1.0])
    assert models.list() == []


def test_a_model_that_fails_on_zeros_is_saved_with_a_warning(
    tf: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Made-up inputs say little about it."""

    class NonZero(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
        def __call__(self, x: Any) -> Any:
            tf.debugging.assert_positive(x, message="only positive numbers")
            return x

    with caplog.at_level(logging.WARNING):
        tensorflow.save(NonZero(), "m")
    assert "only positive numbers" in caplog.text


def test_a_call_without_signature_can_get_one_from_tensor_specs(tf: Any) -> None:
    """`tf_signature` as a dict of argument names and specs."""

    class Bare(tf.Module):  # type: ignore[misc]
        @tf.function
        def __call__(self, a: Any, b: Any) -> Any:
            return a + b

    specs = {"b": tf.TensorSpec([None], tf.int32), "a": tf.TensorSpec([None], tf.int32)}
    with pytest.raises(NotFound, match="input_signature"):
        tensorflow.save(Bare(), "m")
    model = tensorflow.save(Bare(), "m", tf_signature=specs, signatures=BATCHABLE)
    assert [argument.name for argument in arguments(model)] == ["a", "b"]
    with pytest.raises(InvalidInput, match="does not fit"):
        tensorflow.save(Bare(), "m", tf_signature={"c": tf.TensorSpec([None], tf.int32)})


@pytest.mark.parametrize("key", ["tf_signature", "tf_signatures"])
def test_tensorflows_own_signatures_are_passed_on_and_can_be_served(made: Any, key: str) -> None:
    """By their names, like methods."""
    native = made.NativeModel()
    given: dict[str, Any] = {key: {"serving_default": native.__call__.get_concrete_function()}}
    model = tensorflow.save(native, "m", signatures={"serving_default": {}}, **given)
    method = model.spec.methods["serving_default"]
    assert [argument.name for argument in method.arguments] == ["inputs"]
    assert isinstance(method.output, DictSpec)
    runner = model.to_runner()
    runner.init_local(quiet=True)
    assert runner.run([[1, 2, 3, 4, 5]])["output_0"].tolist() == [[15.0]]


def test_traces_that_differ_in_size_are_described_as_one(made: Any) -> None:
    """Python constants are no inputs; a batchable method needs a trace that is open."""
    method = tensorflow.save(made.PolymorphicModel(), "m").spec.methods["__call__"]
    assert method.arguments == (Argument("x", tensor("x", "float32", None, 5)),)
    assert method.output is None
    with pytest.raises(InvalidInput, match="axis 0 is fixed"):
        tensorflow.save(made.PolymorphicModel(), "m", signatures=BATCHABLE)


def test_what_cannot_be_served_is_refused(made: Any, tf: Any) -> None:
    """Sparse inputs, objects of no TensorFlow."""

    class Sparse(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.SparseTensorSpec([None, None], tf.float32)])
        def __call__(self, x: Any) -> Any:
            return tf.sparse.reduce_sum(x)

    with pytest.raises(InvalidInput, match="SparseTensorSpec"):
        tensorflow.save(Sparse(), "m")
    with pytest.raises(InvalidInput, match="cannot save this object"):
        tensorflow.save(object(), "m")


def test_ragged_rows_can_be_merged_on_axis_0_only(made: Any) -> None:
    """Their other axes have no common length."""
    method = tensorflow.save(
        made.RaggedModel(), "m", signatures={"predict_ragged": {"batchable": True}}
    ).spec.methods["predict_ragged"]
    (argument,) = method.arguments
    assert argument.spec == TensorSpec("rows", "float64", (None, None), ragged_rank=1)
    assert method.batchable
    wrong = {"predict_ragged": {"batchable": True, "batch_dim": (1, 0)}}
    with pytest.raises(InvalidInput, match="is ragged: its rows are on axis 0"):
        tensorflow.save(made.RaggedModel(), "m", signatures=wrong)


def test_a_loaded_model_computes_what_the_saved_one_did(made: Any, tf: Any) -> None:
    """`load_model` gives TensorFlow's own object, by tag or by model."""
    model = tensorflow.save(made.NativeModel(), "m")
    for loaded in (tensorflow.load_model("m"), model.load_model()):
        assert loaded(tf.constant(made.X, tf.float64)).numpy().tolist() == [[15.0]]


@pytest.mark.parametrize("device", ["CPU:0", "CPU:1"])
def test_a_loaded_model_lies_on_the_device_that_is_named(made: Any, device: str) -> None:
    """In a process that sees two: a CPU may be divided."""
    tensorflow.save(made.MultiOutputModel(), "m")
    code = (
        "import tensorflow as tf, tfrunner\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "halves = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, halves)\n"
        f"loaded = tfrunner.tensorflow.load_model('m', '/device:{device}')\n"
        "print(loaded.factor.device)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip().endswith(f"/device:{device}"), done.stdout + done.stderr


def test_a_saved_model_that_tensorflow_cannot_read_is_corrupt(made: Any) -> None:
    """The error names the folder."""
    model = tensorflow.save(made.NativeModel(), "m")
    file = model.path / "saved_model" / "saved_model.pb"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(CorruptModel, match="saved_model"):
        tensorflow.load_model("m")
    with pytest.raises(CorruptModel, match="saved_model"):
        tensorflow.get("m").to_runner().init_local(quiet=True)


def test_reading_the_store_never_imports_tensorflow(made: Any) -> None:
    """Nor does making a runner."""
    tensorflow.save(made.NativeModel(), "m")
    code = (
        "import sys, tfrunner\n"
        "model = tfrunner.tensorflow.get('m')\n"
        "assert tfrunner.tensorflow.list() == tfrunner.models.list() == [model]\n"
        "runner = model.to_runner()\n"
        "tfrunner.tensorflow.delete('m')\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
