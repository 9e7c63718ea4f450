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

INTEGERS = (int, np.integer, np.bool_)
REALS = (*INTEGERS, float, np.floating)
PYTHON: dict[str, tuple[type, ...]] = {
    "b": (bool, np.bool_),
    "i": INTEGERS,
    "u": INTEGERS,
    "f": REALS,
    "V": REALS,  # bfloat16
    "c": (*REALS, complex, np.complexfloating),
}
"""The same for the items of lists and of arrays of objects."""

WIDEST = {"f": np.dtype("float64"), "V": np.dtype("float64"), "c": np.dtype("complex128")}
"""What items that are no integers are read as, before they are cast."""

MOST_BITS = 256
"""Of a wrong integer that is shown; Python writes none of many thousand digits."""

FRACTIONS = " A cast would drop fractions: cast it yourself."


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

    NumPy reads [2**63, 1] as float64 and [2**64] as objects; arrays of objects are what data
    frames of several dtypes give. Where the value holds anything but numbers of an accepted
    kind, the array is returned as it was read.
    """
    if isinstance(value, np.ndarray) and array.dtype.kind != "O":
        return array
    exact: Array = array if array.dtype.kind == "O" else np.asarray(value, dtype=object)
    items = exact.reshape(-1).tolist()
    if not all(isinstance(item, PYTHON[dtype.kind]) for item in items):
        return array
    if dtype.kind in "iu" and not _fit(items, dtype):
        return exact  # NumPy 1 would wrap them
    try:
        return exact.astype(WIDEST.get(dtype.kind, dtype))
    except OverflowError:
        return exact


def _fit(items: Sequence[Any], dtype: np.dtype[Any]) -> bool:
    limits, numbers = np.iinfo(dtype), [int(item) for item in items]
    return not numbers or (limits.min <= min(numbers) and max(numbers) <= limits.max)


def _check_range(array: Array, dtype: np.dtype[Any], spec: TensorSpec, at: str) -> None:
    """Refuse integers that the dtype cannot hold; a cast would wrap them."""
    if array.size == 0 or np.can_cast(array.dtype, dtype, "safe"):
        return
    limits = np.iinfo(dtype)
    least, most = int(array.min()), int(array.max())
    if least < limits.min or most > limits.max:
        raise _out_of_range(least if least < limits.min else most, spec, at)


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
    wanted = DTYPES[spec.dtype].kind
    kind = array.dtype.name
    hint = FRACTIONS if array.dtype.kind == "f" else ""
    if array.dtype.kind in "SU":
        kind = "text"
    elif array.dtype.kind == "O":
        items = array.reshape(-1).tolist()
        if any(isinstance(item, (list, tuple, np.ndarray)) for item in items):
            return _ragged(spec, at)
        wrong = [item for item in items if not isinstance(item, PYTHON[wanted])]
        if items and not wrong:
            return _refuse_beyond(items, spec, at)
        kind = f"a {type(wrong[0]).__name__}" if wrong else "nothing"
        if wrong and wanted in "iu" and isinstance(wrong[0], (float, np.floating)):
            hint = FRACTIONS
    elif array.dtype.kind == "f" and wanted in "iu":
        wide = array.astype(np.float64)  # float16 holds no 2**63 to compare with
        beyond = wide[np.isfinite(wide) & (np.abs(wide) >= 2.0**63)]
        if beyond.size:  # an integer of JSON may have come as one
            return _refuse_beyond(beyond.reshape(-1).tolist(), spec, at)
    return InvalidInput(
        f"input {at!r} holds {kind} (shape {shape_text(array.shape)}); expected {spec.dtype} "
        f"{shape_text(spec.shape)}.{hint}"
    )


def _refuse_beyond(items: Sequence[Any], spec: TensorSpec, at: str) -> InvalidInput:
    """Return the error that names one of the numbers that the dtype cannot hold."""
    dtype = DTYPES[spec.dtype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        outside = (item for item in items if not limits.min <= item <= limits.max)
        return _out_of_range(next(outside, items[0]), spec, at)
    largest = max((item for item in items if isinstance(item, int)), key=abs, default=items[0])
    return InvalidInput(f"input {at!r} holds {_shown(largest)}, too large for {spec.dtype}.")


def _out_of_range(number: Any, spec: TensorSpec, at: str) -> InvalidInput:
    limits = np.iinfo(DTYPES[spec.dtype])
    return InvalidInput(
        f"input {at!r} holds {_shown(number)}; {spec.dtype} holds {limits.min} to {limits.max}."
    )


def _shown(number: Any) -> str:
    if isinstance(number, int) and number.bit_length() > MOST_BITS:
        return f"an integer of {number.bit_length()} bits"
    return str(number)
