"""A saved model, loaded: its methods as functions of arrays. Imports TensorFlow.

The reference plan: the restored function, called with tensors. Every faster plan must give
what this one gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrunner.entry import EXAMPLES_FILE, SAVED_MODEL, read_model
from tfrunner.errors import CorruptModel, ModelError, TFRunnerError
from tfrunner.examples import read_examples
from tfrunner.specs import (
    DictSpec,
    ListSpec,
    MethodSpec,
    ModelSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
)
from tfrunner.tensors import DTYPES, STRING, Array
from tfrunner_workers import signatures
from tfrunner_workers.hosted import Method, Output


class LoadedModel:
    """A loaded model, as a worker or a local runner uses it.

    Args:
        spec: The stored specification.
        methods: Each method as a function of its input tensors.
        restored: TensorFlow's restored object.
        path: The version's folder.
    """

    def __init__(
        self, spec: ModelSpec, methods: dict[str, Method], *, restored: Any, path: Path
    ) -> None:
        self.spec = spec
        self.methods = methods
        self.restored = restored
        self.path = path

    def __repr__(self) -> str:
        return f"<LoadedModel {self.spec.tag} [{', '.join(self.methods)}]>"

    def example(self, method: str) -> list[Array] | None:
        """Return the example inputs stored with the model for this method, if any."""
        return read_examples(self.path / EXAMPLES_FILE, self.spec.methods[method])


def load(path: str | Path, *, device: str | None = None) -> LoadedModel:
    """Return the model of a version's folder.

    Args:
        path: The folder, with `model.yaml` and `saved_model/`.
        device: TensorFlow's name of the device for its variables; its own choice by default.

    Raises:
        CorruptModel: It cannot be read, or is not what `model.yaml` says.
    """
    entry = read_model(Path(path))
    restored = restore(entry.path / SAVED_MODEL, device=device)
    methods = {}
    for name, method in entry.spec.methods.items():
        try:
            function = signatures.find(restored, name)
            methods[name] = make_method(function, method, owner=restored)
        except CorruptModel:
            raise
        except TFRunnerError as exc:
            raise CorruptModel(f"{entry.path / SAVED_MODEL}: {exc}") from exc
    return LoadedModel(entry.spec, methods, restored=restored, path=entry.path)


def restore(folder: Path, *, device: str | None = None) -> Any:
    """Return TensorFlow's restored object of a SavedModel folder.

    Raises:
        CorruptModel: TensorFlow cannot load it.
    """
    try:
        with tf.device(device) if device else contextlib.nullcontext():
            return tf.saved_model.load(str(folder))
    except Exception as exc:
        raise CorruptModel(f"{folder} cannot be loaded by TensorFlow: {exc}") from exc


def make_method(function: Any, method: MethodSpec, *, owner: Any) -> Method:
    """Return a restored function as a function of its input tensors.

    Args:
        function: What `signatures.find` gave.
        method: Its specification.
        owner: The restored object; a function does not keep the variables that it reads.

    Raises:
        CorruptModel: The function takes other tensors than the specification says.
    """
    args, kwargs = signatures.similar_traces(function)[0].structured_input_signature
    wanted = [leaf.dtype for argument in method.arguments for leaf in leaves(argument.spec)]
    taken = [spec.dtype.name for spec in _specs((args, kwargs))]
    if wanted != taken:
        raise CorruptModel(
            f"method {method.name!r} takes tensors of {taken}; model.yaml says {wanted}."
        )
    is_plain = not kwargs and all(isinstance(value, tf.TensorSpec) for value in args)

    def run(arrays: list[Array]) -> Output:
        tensors = [tf.constant(array) for array in arrays]
        if is_plain:
            return to_output(function(*tensors), method.output)
        take = iter(tensors).__next__
        filled = _fill(args, take)  # positional arguments come first in `leaves` order
        return to_output(function(*filled, **_fill(kwargs, take)), method.output)

    run.owner = owner  # type: ignore[attr-defined]
    return run


def to_output(value: Any, expected: Node | None) -> Output:
    """Return what a function gave as arrays and their structure.

    Args:
        value: Nested dicts, lists, tuples of tensors, and None.
        expected: The structure that the specification says; it is the result's where it fits.

    Raises:
        ModelError: A value is no dense tensor.
    """
    arrays: list[Array] = []
    if expected is not None and _collect(value, expected, arrays):
        return Output(arrays, expected)
    arrays = []

    def leaf(tensor: Any, name: str) -> TensorSpec:
        array = _array(tensor, name)
        arrays.append(array)
        dtype = STRING if array.dtype.hasobject else array.dtype.name
        return TensorSpec(name, dtype, None)

    return Output(arrays, signatures.node_of(value, leaf))


def _collect(value: Any, node: Node, arrays: list[Array]) -> bool:
    """Append the tensors of a value to `arrays`; return whether it has the node's structure."""
    match node:
        case TensorSpec(name=name, dtype=dtype):
            if value is None or isinstance(value, (dict, list, tuple)):
                return False
            array = _array(value, name)
            arrays.append(array)
            return (STRING if array.dtype.hasobject else array.dtype.name) == dtype
        case DictSpec(items=mapping):
            return (
                isinstance(value, dict)
                and value.keys() == mapping.keys()
                and all(_collect(value[key], child, arrays) for key, child in mapping.items())
            )
        case ListSpec(items=items) | TupleSpec(items=items):
            return (
                isinstance(value, list if isinstance(node, ListSpec) else tuple)
                and len(value) == len(items)
                and all(_collect(v, n, arrays) for v, n in zip(value, items, strict=True))
            )
        case NothingSpec():
            return value is None


def _array(tensor: Any, name: str) -> Array:
    """Return a tensor as an array; text becomes an array of bytes objects."""
    if isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor)):
        raise ModelError(
            f"output {name!r} is a {type(tensor).__name__}; expected a dense tensor. "
            "Convert it inside the function."
        )
    value = tensor.numpy() if hasattr(tensor, "numpy") else tensor
    if isinstance(value, (bytes, str)):
        text: Array = np.array(value, dtype=object)
        return text
    array: Array = np.asarray(value)
    if not array.dtype.hasobject and array.dtype.name not in DTYPES:
        raise ModelError(
            f"output {name!r} has dtype {array.dtype.name}, which is not served; "
            "cast it inside the function."
        )
    return array


def _specs(value: Any) -> Iterator[Any]:
    """Yield the TensorSpecs of a structured signature, dicts in the order of their keys."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _specs(value[key])
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _specs(child)
    elif isinstance(value, tf.TensorSpec):
        yield value


def _fill(value: Any, take: Callable[[], Any]) -> Any:
    """Return a structured signature with each TensorSpec replaced by the next tensor."""
    if isinstance(value, dict):
        return {key: _fill(value[key], take) for key in sorted(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_fill(child, take) for child in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_fill(child, take) for child in value)
    return take() if isinstance(value, tf.TensorSpec) else value
