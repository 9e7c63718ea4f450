"""What a TensorFlow function gave, as arrays and their structure. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfrunner import ragged
from tfrunner.errors import ModelError
from tfrunner.specs import (
    DictSpec,
    ListSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
)
from tfrunner.tensors import DTYPES, STRING, Array
from tfrunner_workers import signatures
from tfrunner_workers.hosted import Output


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
        return TensorSpec(name, _dtype(tensor), None, getattr(tensor, "ragged_rank", 0))

    return Output(arrays, signatures.node_of(value, leaf))


def _collect(value: Any, node: Node, arrays: list[Array]) -> bool:
    """Append the tensors of a value to `arrays`; return whether it has the node's structure."""
    match node:
        case TensorSpec(name=name, dtype=dtype, ragged_rank=rank):
            if value is None or isinstance(value, (dict, list, tuple)):
                return False
            arrays.append(_array(value, name))
            return _dtype(value) == dtype and getattr(value, "ragged_rank", 0) == rank
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


def _dtype(tensor: Any) -> str:
    """Return the name of a tensor's dtype; of a value without one, that of its array."""
    dtype = getattr(tensor, "dtype", None) or np.asarray(tensor).dtype
    return STRING if dtype == tf.string or getattr(dtype, "hasobject", False) else dtype.name


def _array(tensor: Any, name: str) -> Array:
    """Return a tensor as an array; text becomes an array of bytes objects."""
    if isinstance(tensor, tf.SparseTensor):
        raise ModelError(
            f"output {name!r} is a {type(tensor).__name__}; expected a dense or ragged tensor. "
            "Convert it inside the function."
        )
    if isinstance(tensor, tf.RaggedTensor):
        lengths = [sizes.numpy().astype(np.int64) for sizes in tensor.nested_row_lengths()]
        return ragged.nest(_array(tensor.flat_values, name), lengths)
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
