"""Keras 3 models as TensorFlow modules that still have their methods once they are loaded.

A Keras 3 model that is saved as it is comes back without a callable method. TensorFlow and
Keras are passed in or imported inside functions.
"""

from __future__ import annotations

import inspect
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfrunner.errors import InvalidInput
from tfrunner.framework import keras_if_loaded
from tfrunner.keras_inputs import Inputs
from tfrunner.sources import KerasFile

log = logging.getLogger(__name__)

KERAS_MODEL = "model.keras"
"""The file beside the SavedModel that `tfrunner.keras.load_model` reads."""


def is_keras_model(model: Any) -> bool:
    """Return whether the object is a model of Keras 3."""
    keras = keras_if_loaded()
    return keras is not None and isinstance(model, keras.Model)


def load_keras_file(path: Path, custom_objects: Mapping[str, Any], *, is_ours: bool = False) -> Any:
    """Return the model of a .keras or .h5 file. Imports Keras.

    Args:
        path: The file.
        custom_objects: Classes and functions that it names.
        is_ours: Whether this machine wrote it. Then it is compiled as it was, and its Lambda
            layers, which are Python code, are loaded too.

    Raises:
        InvalidInput: Keras cannot load it.
    """
    import keras

    try:
        with _without_warnings():
            return keras.models.load_model(
                path, custom_objects=dict(custom_objects), compile=is_ours, safe_mode=not is_ours
            )
    except Exception as exc:  # Keras raises what the file's layers raise
        raise InvalidInput(
            f"{path} cannot be loaded by Keras: {_reason(exc)}\nClasses and functions of your own "
            "go into custom_objects={'Name': Name}. A file with a Lambda layer can only be loaded "
            "by yourself, with keras.models.load_model(path, safe_mode=False): save the model then."
        ) from exc


def save_keras_file(source: Any, target: Path, custom_objects: Mapping[str, Any]) -> None:
    """Write a Keras model in Keras' own format, if Keras can load it again.

    Most classes of users' own cannot be made again from their configuration; they are served
    all the same, and only said so.

    Args:
        source: The model, or the KerasFile that holds it.
        target: The .keras file; it is not there where Keras could not load it.
        custom_objects: Classes and functions that it needs.
    """
    try:
        if isinstance(source, KerasFile) and source.path.suffix.lower() == target.suffix:
            shutil.copyfile(source.path, target)
        else:
            if isinstance(source, KerasFile):
                source = load_keras_file(source.path, custom_objects)
            with _without_warnings():
                source.save(target)
        load_keras_file(target, custom_objects, is_ours=True)
    except Exception as exc:  # whatever the model's own classes raise
        target.unlink(missing_ok=True)
        log.warning(
            "the model is served, but tfrunner.keras.load_model will not give it back: Keras "
            "cannot load what it wrote: %s. Give the classes and functions that are your own as "
            "custom_objects={'Name': Name}; a class needs get_config(), and **kwargs in its "
            "constructor that go to Keras.",
            _reason(exc.__cause__ or exc),
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Say nothing of what Keras warns of when it reads and writes its files.

    NumPy 2 wants it done otherwise; and an optimizer that has not run yet has no state.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        yield


def _reason(exc: BaseException) -> str:
    """Return what went wrong, without the configuration of the whole model around it."""
    inner = str(exc).rpartition("Exception encountered: ")[2]
    return inner.partition("Full object config")[0].strip()


def wrap(tf: Any, model: Any, inputs: Inputs, methods: Sequence[str]) -> Any:
    """Return a tf.Module whose methods run the Keras model with `training=False`.

    Args:
        tf: TensorFlow.
        model: The Keras model.
        inputs: What it takes.
        methods: Names for the one function that calls the model. tf.functions that the
            model's class has beside its `call` are methods too.

    Raises:
        InvalidInput: The model cannot be called with these inputs.
    """
    if not model.built:
        _build(tf, model, inputs)

    def call(*args: Any) -> Any:
        return model(*args, training=False)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in inputs.names]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function = tf.function(call, input_signature=inputs.specs)
    try:
        function.get_concrete_function()
    except Exception as exc:  # whatever the model's own code raises
        raise InvalidInput(
            f"the Keras model {model.name!r} cannot be called with {_text(inputs)}: {exc}\nIf it "
            "takes something else, give save an example, or tf_signature with tf.TensorSpecs."
        ) from exc

    class KerasModule(tf.Module):  # type: ignore[misc]
        """A Keras model, callable after loading."""

        def __init__(self) -> None:
            super().__init__()
            self.variables_of_model = list(model.variables)
            self.parts = list(_parts(tf, model))

    module = KerasModule()
    for name in methods:
        setattr(module, name, function)
    for name in tf_functions(tf, model):
        setattr(module, name, getattr(model, name))
    return module


def tf_functions(tf: Any, model: Any) -> list[str]:
    """Return the names of the tf.functions that a Keras model's own classes have, but `call`."""
    kind = tf.types.experimental.PolymorphicFunction
    return [
        name
        for owner in type(model).__mro__
        if not owner.__module__.startswith(("keras.", "tensorflow."))
        for name, value in vars(owner).items()
        if isinstance(value, kind) and not name.startswith("_") and name != "call"
    ]


def _build(tf: Any, model: Any, inputs: Inputs) -> None:
    """Call a model that has no variables yet once, with made-up inputs."""

    def zeros(spec: Any) -> Any:
        if isinstance(spec, tf.RaggedTensorSpec):
            return tf.RaggedTensor.from_tensor(tf.zeros([1] * spec.shape.rank, spec.dtype))
        return tf.zeros([size or 1 for size in spec.shape], spec.dtype)

    try:
        model(*tf.nest.map_structure(zeros, inputs.specs), training=False)
    except Exception as exc:  # whatever the model's own code raises
        raise InvalidInput(
            f"the Keras model {model.name!r} was never built, and fails on zeros of "
            f"{_text(inputs)}: {exc}\nCall it once yourself before you save it."
        ) from exc


def _parts(tf: Any, model: Any) -> Iterator[Any]:
    """Yield what a SavedModel must keep of a Keras model: its layers, tables and modules.

    Not the models themselves: Keras would trace each once more, with inputs of its own
    choice, which fails for a model that takes several.
    """
    keras = keras_if_loaded()
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _parts(tf, layer)
        else:
            yield layer
    trackable = tf.__internal__.tracking.Trackable
    own = [value for name, value in vars(model).items() if name not in KEPT_BY_KERAS]
    for value in tf.nest.flatten([_plain(each) for each in own]):
        if isinstance(value, trackable) and not isinstance(
            value, (keras.Layer, keras.Optimizer, keras.Variable)
        ):
            yield value


KEPT_BY_KERAS = frozenset({"_layers", "_metrics", "_tracker", "_functional", "optimizer", "_loss"})
"""Attributes that hold what is no part of the model's call."""


def _plain(value: Any) -> Any:
    """Return containers as plain ones, so that they can be flattened whatever their keys are."""
    if isinstance(value, Mapping):
        return [_plain(child) for child in value.values()]
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value


def _text(inputs: Inputs) -> str:
    return ", ".join(
        f"{name}={spec}" for name, spec in zip(inputs.names, inputs.specs, strict=True)
    )
