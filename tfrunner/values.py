"""One value as a caller writes it (numbers, nested lists, arrays, tensors, frames) as an array.

The slow way of `casting`: what is not yet exactly the array that the specification asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfrunner.errors import InvalidInput
from tfrunner.objects import check_plain, from_any, to_any
from tfrunner.specs import ANY, Node, TensorSpec, leaves, rebuild, shape_text
from tfrunner.tensors import BFLOAT16, DTYPES, STRING, Array

ACCEPTED = {"b": "b", "i": "bui", "u": "bui", "f": "buif", "c": "buifc"}
"""Kinds of NumPy dtypes that may become a number of each kind, if the values fit."""


def in_python(structure: Node, arrays: Sequence[Array]) -> Any:
    """Return Python's form of a structure: nested arrays, and plain values where it has any."""
    if type(structure) is TensorSpec and structure.dtype != ANY:
        return arrays[0]
    specs = leaves(structure)
    forms: Iterator[Any] = (
        from_any(array) if spec.dtype == ANY else array
        for spec, array in zip(specs, arrays, strict=True)
    )
    return rebuild(structure, forms.__next__)


def as_mapping(value: Any) -> Any:
    """Return the columns of a data frame by name; any other value as it is."""
    if isinstance(value, Mapping) or not (hasattr(value, "columns") and hasattr(value, "dtypes")):
        return value
    return {str(name): value[name] for name in value.columns}


def to_array(value: Any, spec: TensorSpec, at: str, *, lenient: bool = False) -> Array:
    """Return the value with the specification's dtype, in C order; its shape is not checked.

    Args:
        value: A number, text, nested lists of them, an array, a tensor, or a data frame.
        spec: What is expected; a dense tensor, or ANY.
        at: The input's name, for messages.
        lenient: Cast any number to any number, as Keras does.

    Raises:
        InvalidInput: The value is ragged, of another kind, or does not fit the dtype.
    """
    if spec.dtype == ANY:
        return _to_any(value, at)
    if spec.dtype == STRING:
        return _to_strings(_read(value, spec, at, objects=True), spec, at)
    array = _read(value, spec, at)
    if array.dtype == BFLOAT16:
        array = array.astype(np.float32)  # NumPy's own rules do not know its kind
    dtype = DTYPES[spec.dtype]
    if lenient and array.dtype.kind in ("biufc" if dtype.kind == "c" else "biuf"):
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(dtype, order="C")
    if array.size == 0 and not isinstance(value, np.ndarray) and array.dtype.kind == "f":
        array = array.astype(dtype)  # an empty list has no dtype of its own
    if array.dtype.kind == "O" or (array.dtype.kind == "f" and dtype.kind in "iu"):
        array = _read_exactly(value, array, dtype)
    if array.dtype.kind not in ACCEPTED["f" if dtype == BFLOAT16 else dtype.kind]:
        raise _refuse(array, spec, at)
    if dtype.kind in "iu":
        _check_range(array, dtype, spec, at)
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype, order="C", copy=False)
    except FloatingPointError:
        raise InvalidInput(
            f"input {at!r} holds numbers that are too large for {spec.dtype}."
        ) from None


def _read(value: Any, spec: TensorSpec, at: str, *, objects: bool = False) -> Array:
    """Return the value as an array of whatever dtype it has (of objects if `objects`)."""
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInput(f"input {at!r} is a masked array; fill it first: `.filled(...)`.")
    source = type(value).__name__
    try:
        if not isinstance(value, (np.ndarray, list, tuple)):
            value = _unwrap(value)
        array: Array = np.asarray(value, dtype=object if objects else None)
    except (TypeError, ValueError, RuntimeError, OverflowError) as exc:
        if isinstance(value, (list, tuple)):
            raise _ragged(spec, at) from exc
        raise InvalidInput(f"input {at!r} is a {source} that gives no array: {exc}") from exc
    return array


def _to_any(value: Any, at: str) -> Array:
    """Return a value without a specification; refuse what cannot travel, here as elsewhere."""
    array = to_any(value)
    if array.dtype.hasobject:
        for item in array if array.ndim else [array.item()]:
            check_plain(item, at)
    elif array.dtype.name not in DTYPES:
        raise InvalidInput(
            f"input {at!r} is an array of {array.dtype.name}, which cannot be sent; expected "
            "numbers, text or plain values."
        )
    return array


def _unwrap(value: Any) -> Any:
    """Return the array inside a tensor or a data frame, without importing their libraries."""
    for name in ("to_numpy", "numpy"):
        method = getattr(value, name, None)
        if callable(method):
            return method()
    return value


def _read_exactly(value: Any, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return Python numbers that NumPy read as objects or floats with the wanted kind.

    NumPy reads [2**63, 1] as float64 and [2**64] as objects. Where the value holds anything
    but numbers of an accepted kind, the array is returned as it was read.
    """
    if isinstance(value, np.ndarray):
        return array
    exact: Array = np.asarray(value, dtype=object)
    items = exact.reshape(-1).tolist()
    number = (int, np.integer) if dtype.kind in "iu" else (int, float, np.number)
    if dtype.kind == "b" or not all(isinstance(item, number) for item in items):
        return array
    try:
        return exact.astype(dtype if dtype.kind in "iu" else np.float64)
    except OverflowError:
        return exact


def _check_range(array: Array, dtype: np.dtype[Any], spec: TensorSpec, at: str) -> None:
    """Refuse integers that the dtype cannot hold; a cast would wrap them."""
    if array.size == 0 or np.can_cast(array.dtype, dtype, "safe"):
        return
    limits = np.iinfo(dtype)
    least, most = int(array.min()), int(array.max())
    if least < limits.min or most > limits.max:
        wrong = least if least < limits.min else most
        raise InvalidInput(
            f"input {at!r} holds {wrong}; {spec.dtype} holds {limits.min} to {limits.max}."
        )


def _to_strings(array: Array, spec: TensorSpec, at: str) -> Array:
    """Return an array of objects with text as UTF-8 bytes."""
    items = array.reshape(-1).tolist()
    for index, item in enumerate(items):
        if isinstance(item, str):
            try:
                items[index] = item.encode()
            except UnicodeEncodeError as exc:
                raise InvalidInput(f"input {at!r} holds text that is no Unicode: {exc}") from exc
        elif not isinstance(item, bytes):
            if isinstance(item, (list, tuple, np.ndarray)):
                raise _ragged(spec, at)
            raise InvalidInput(
                f"input {at!r} holds a {type(item).__name__}; expected text or bytes "
                f"(string {shape_text(spec.shape)})."
            )
    strings: Array = np.empty(len(items), dtype=object)
    strings[:] = items
    return strings.reshape(array.shape)


def _ragged(spec: TensorSpec, at: str) -> InvalidInput:
    return InvalidInput(
        f"input {at!r} is ragged: its lists have different lengths, or mix lists and values. "
        f"Expected {spec.dtype} {shape_text(spec.shape)}."
    )


def _refuse(array: Array, spec: TensorSpec, at: str) -> InvalidInput:
    kind = array.dtype.name
    if array.dtype.kind in "SU":
        kind = "text"
    elif array.dtype.kind == "O":
        items = array.reshape(-1).tolist()
        odd = next((i for i in items if not isinstance(i, (int, float))), items[0] if items else 0)
        if isinstance(odd, (list, tuple, np.ndarray)):
            return _ragged(spec, at)
        kind = f"a {type(odd).__name__}"
        if isinstance(odd, (int, float)):
            return InvalidInput(f"input {at!r} holds {odd}, too large for {spec.dtype}.")
    hint = " A cast would drop fractions: cast it yourself." if array.dtype.kind == "f" else ""
    return InvalidInput(
        f"input {at!r} holds {kind} (shape {shape_text(array.shape)}); expected {spec.dtype} "
        f"{shape_text(spec.shape)}.{hint}"
    )
