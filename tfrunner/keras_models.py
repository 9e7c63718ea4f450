"""Keras 3 models as TensorFlow modules that still have `__call__` once they are loaded.

A Keras 3 model that is saved as it is comes back without a callable method. TensorFlow and
Keras are passed in or imported inside functions.
"""

from __future__ import annotations

import re
from typing import Any

from tfrunner.errors import InvalidInput
from tfrunner.framework import keras_if_loaded

AUTOMATIC_NAME = re.compile(r"(keras_tensor|input|input_layer)(_\d+)?")
"""Names that Keras counts up by itself; they differ from process to process."""


def is_keras_model(model: Any) -> bool:
    """Return whether the object is a model of Keras 3."""
    keras = keras_if_loaded()
    return keras is not None and isinstance(model, keras.Model)


def wrap(tf: Any, model: Any) -> Any:
    """Return a tf.Module whose `__call__` runs the Keras model with `training=False`.

    Its inputs have the names, dtypes, shapes and nesting of the model's own; the batch axis
    is open unless the model fixes it.

    Raises:
        InvalidInput: The model has no defined inputs, or sparse or ragged ones.
    """
    inputs = _inputs(model)

    class KerasModule(tf.Module):  # type: ignore[misc]
        """A Keras model, callable after loading."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[_specs(tf, inputs)])  # type: ignore[untyped-decorator]
        def __call__(self, inputs: Any) -> Any:
            return self.model(inputs, training=False)

    return KerasModule()


def _inputs(model: Any) -> Any:
    """Return the model's symbolic inputs, nested as the model is called."""
    try:
        flat = model.inputs
    except (AttributeError, ValueError):
        flat = None
    if not flat:
        raise InvalidInput(
            f"the Keras model {model.name!r} has no defined inputs. Give a Sequential model an "
            "Input layer; wrap a subclassed model in a tf.Module with a "
            "@tf.function(input_signature=[...]) __call__ that calls it with training=False."
        )
    try:
        nested = model.input  # a functional model's, as it was constructed
    except (AttributeError, ValueError):
        nested = None
    if nested is None:
        nested = list(flat)
    if isinstance(nested, (list, tuple)) and len(nested) == 1:
        return nested[0]
    return nested


def _specs(tf: Any, inputs: Any) -> Any:
    """Return the TensorSpecs of symbolic inputs, in the same nesting."""
    keras = keras_if_loaded()
    if hasattr(inputs, "shape"):
        name = "inputs" if AUTOMATIC_NAME.fullmatch(inputs.name) else inputs.name
        return _spec(tf, inputs, name)
    if isinstance(inputs, dict):
        return {key: _spec(tf, value, key) for key, value in inputs.items()}
    return keras.tree.map_structure(lambda tensor: _spec(tf, tensor, tensor.name), inputs)


def _spec(tf: Any, tensor: Any, name: str) -> Any:
    if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        raise InvalidInput(
            f"input {name!r} of the Keras model is sparse or ragged; only dense inputs are served."
        )
    return tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
