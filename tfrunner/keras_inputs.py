"""What a Keras model takes: names and TensorSpecs of its arguments, found out in four ways.

TensorFlow is passed in; nothing here imports it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfrunner.errors import InvalidInput
from tfrunner.framework import keras_if_loaded

AUTOMATIC_NAME = re.compile(r"(keras_tensor|input|input_layer)(_\d+)?")
"""Names that Keras counts up by itself; they differ from process to process."""

GIVEN_BY_KERAS = ("training", "mask")
"""Arguments of `call` that are no inputs."""


class Inputs(NamedTuple):
    """What a model is called with.

    Args:
        names: Of the arguments.
        specs: Nested TensorSpecs of each.
    """

    names: list[str]
    specs: list[Any]


def find_inputs(tf: Any, model: Any, *, specs: Any = None, example: Any = None) -> Inputs:
    """Return what a Keras model takes; axis 0 is open, whatever it was built with.

    1. What `specs` says: TensorSpecs by name, one after another, or a single one.
    2. The defined inputs of a functional model, or of a Sequential one that is built.
    3. The example's dtypes and shapes.
    4. What a subclassed model was built with.

    Args:
        tf: TensorFlow.
        model: The model.
        specs: What the user gave as `tf_signature`, if it is TensorSpecs.
        example: Inputs: one value, a tuple by position, or a dict by argument name.

    Raises:
        InvalidInput: Nothing says what it takes; or an input is sparse.
    """
    names = _argument_names(model)
    if specs is not None:
        return _from_specs(tf, model, specs, names)
    defined = _defined_inputs(model)
    if defined is not None:
        return _from_defined(tf, model, defined)
    if example is not None:
        return _from_example(tf, model, example, names)
    return _from_build(tf, model, names)


def _argument_names(model: Any) -> list[str]:
    """Return the names of the arguments that `call` must be given."""
    try:
        parameters = inspect.signature(model.call).parameters.values()
    except (TypeError, ValueError):
        return ["inputs"]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [
        each.name
        for each in parameters
        if each.kind in kinds
        and each.default is inspect.Parameter.empty
        and each.name not in ("self", *GIVEN_BY_KERAS)
    ]
    return names or ["inputs"]


def _from_specs(tf: Any, model: Any, specs: Any, names: list[str]) -> Inputs:
    if isinstance(specs, Mapping):
        if specs.keys() == set(names):
            found = {name: _named(tf, specs[name], name) for name in names}
            return Inputs(names, list(found.values()))
        if len(names) == 1 and len(specs) == 1 and not _takes_dict(model):
            ((name, spec),) = specs.items()
            return Inputs([name if name.isidentifier() else "inputs"], [_named(tf, spec, name)])
        if len(names) == 1:
            return Inputs(names, [_named(tf, dict(specs), names[0])])
    elif isinstance(specs, (list, tuple)) and len(specs) == len(names):
        pairs = zip(specs, names, strict=True)
        return Inputs(names, [_named(tf, spec, name) for spec, name in pairs])
    elif len(names) == 1:
        return Inputs(names, [_named(tf, specs, names[0])])
    raise InvalidInput(
        f"tf_signature does not fit the Keras model {model.name!r}: its call takes "
        f"{', '.join(names)}; expected a tf.TensorSpec for each."
    )


def _takes_dict(model: Any) -> bool:
    return isinstance(_defined_inputs(model), dict)


def _named(tf: Any, spec: Any, name: str) -> Any:
    """Return specs that have names of their own: those given, else by their place."""
    return _map(spec, lambda each, at: _with_name(tf, each, at), name)


def _with_name(tf: Any, spec: Any, name: str) -> Any:
    if isinstance(spec, tf.TensorSpec):
        return tf.TensorSpec(spec.shape, spec.dtype, name=spec.name or name)
    return spec


def _defined_inputs(model: Any) -> Any:
    """Return the model's symbolic inputs, nested as it is called; None if it has none."""
    try:
        flat = model.inputs
    except (AttributeError, ValueError):
        return None
    if not flat:
        return None
    try:
        nested = model.input  # a functional model's, as it was constructed
    except (AttributeError, ValueError):
        nested = list(flat)
    if isinstance(nested, (list, tuple)) and len(nested) == 1:
        return nested[0]
    return nested


def _from_defined(tf: Any, model: Any, defined: Any) -> Inputs:
    is_open = _may_open(model)

    def spec(tensor: Any, name: str) -> Any:
        return _symbolic_spec(tf, tensor, name, is_open)

    root = getattr(defined, "name", "")
    name = "inputs" if not root or AUTOMATIC_NAME.fullmatch(root) else root
    return Inputs(["inputs"], [_map(defined, spec, name)])


def _may_open(model: Any) -> bool:
    """Return whether the batch axis may be opened where the model was built with fixed rows.

    A Sequential model that was built by calling it has the rows of that call. One with a
    layer that keeps state between batches is tied to its rows.
    """
    return isinstance(model, keras_if_loaded().Sequential) and not any(
        getattr(layer, "stateful", False) for layer in model.layers
    )


def _symbolic_spec(tf: Any, tensor: Any, name: str, is_open: bool) -> Any:
    """Return the spec of a model's symbolic input.

    Raises:
        InvalidInput: It is sparse.
    """
    if getattr(tensor, "sparse", False):
        raise InvalidInput(
            f"input {name!r} of the Keras model is sparse; only dense and ragged inputs are "
            "served. Make it sparse inside the model."
        )
    shape = tuple(tensor.shape)
    if is_open and shape:
        shape = (None, *shape[1:])
    if getattr(tensor, "ragged", False):
        return tf.RaggedTensorSpec(shape, tensor.dtype, ragged_rank=1)
    return tf.TensorSpec(shape, tensor.dtype, name=name)


def _from_example(tf: Any, model: Any, example: Any, names: list[str]) -> Inputs:
    if isinstance(example, Mapping) and set(names) <= set(example) and len(names) == len(example):
        values = {name: example[name] for name in names}
    elif isinstance(example, tuple) and len(example) == len(names):
        values = dict(zip(names, example, strict=True))
    elif len(names) == 1:
        values = {names[0]: example}
    else:
        raise InvalidInput(
            f"example does not fit the Keras model {model.name!r}: its call takes "
            f"{', '.join(names)}; expected a tuple or a dict of {len(names)}."
        )

    def spec(value: Any, name: str) -> Any:
        return _example_spec(tf, model, value, name)

    return Inputs(list(values), [_map(values[name], spec, name, _is_value) for name in values])


def _is_value(value: Any) -> bool:
    """Return whether a list is an array written out, and not one of several inputs."""
    if not isinstance(value, list):
        return not isinstance(value, (dict, tuple))
    return not any(hasattr(each, "shape") or isinstance(each, (dict, tuple)) for each in value)


def _example_spec(tf: Any, model: Any, value: Any, name: str) -> Any:
    if isinstance(value, tf.RaggedTensor):
        sizes = (None, *value.shape[1:])
        return tf.RaggedTensorSpec(sizes, value.dtype, ragged_rank=value.ragged_rank)
    try:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    except ValueError as exc:
        raise InvalidInput(f"example input {name!r} is no array: {exc}") from exc
    shape = (None, *array.shape[1:]) if array.ndim else ()
    if array.dtype.kind in "OSU":
        return tf.TensorSpec(shape, tf.string, name=name)
    dtype = model.input_dtype if array.dtype.kind == "f" else array.dtype.name
    return tf.TensorSpec(shape, dtype, name=name)


def _from_build(tf: Any, model: Any, names: list[str]) -> Inputs:
    """Return what the model was built with; Keras keeps shapes, and its own dtype."""
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or {
        key: value for key, value in config.items() if key != "shapes_dict"
    }
    by_name = {key.removesuffix("_shape"): shape for key, shape in shapes.items()}
    if len(names) == 1 and len(by_name) == 1:
        by_name = {names[0]: next(iter(by_name.values()))}
    if not model.built or set(by_name) != set(names):
        raise InvalidInput(_advice(model, names))

    def spec(shape: Any, name: str) -> Any:
        sizes = (None, *shape[1:]) if shape else ()
        return tf.TensorSpec(sizes, model.input_dtype, name=name)

    return Inputs(names, [_map(by_name[name], spec, name, _is_shape) for name in names])


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        size is None or isinstance(size, int) for size in value
    )


def _advice(model: Any, names: list[str]) -> str:
    values = ", ".join(names)
    given = f"({values})" if len(names) > 1 else values
    why = (
        f"its call takes {values}, of which Keras remembers only the first shape"
        if model.built
        else "it was never built or called"
    )
    return (
        f"the Keras model {model.name!r} has no defined inputs: {why}. Give save an example "
        f"(example={given}, arrays as the model is called with), or tf_signature="
        f"{{{names[0]!r}: tf.TensorSpec([None, ...], dtype){', ...' if len(names) > 1 else ''}}}."
    )


def _map(
    value: Any,
    make: Callable[[Any, str], Any],
    name: str,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Return a nested structure with each leaf replaced by `make(leaf, its name)`."""
    is_last = is_leaf(value) if is_leaf else not isinstance(value, (dict, list, tuple))
    if is_last:
        return make(value, name)
    if isinstance(value, Mapping):
        return {key: _map(child, make, str(key), is_leaf) for key, child in value.items()}
    parts = [
        _map(child, make, getattr(child, "name", None) or f"{name}_{index}", is_leaf)
        for index, child in enumerate(value)
    ]
    return tuple(parts) if isinstance(value, tuple) else parts
