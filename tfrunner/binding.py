"""Values as callers write them, bound to a method's arguments and cast, each to its tensor.

A method's arguments may be given by position, by name, or as the parts of its one structure;
what is missing, unknown or given twice is refused with what was expected.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfrunner import packing
from tfrunner.errors import InvalidInput, did_you_mean
from tfrunner.padding import fill_nest
from tfrunner.ragged import to_rows
from tfrunner.specs import (
    ANY,
    Argument,
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    shape_text,
)
from tfrunner.tensors import DTYPES, Array
from tfrunner.values import as_mapping, to_array


def bind(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Array]:
    """Return the method's input tensors, in the order of `specs.leaves`.

    Each has exactly the dtype of its specification, fits its shape, and is in C order. One
    that already is so is returned itself, not copied. A method whose one argument is a
    structure may also be called with the structure's parts: by name, or one after another;
    a list of named tensors may be given as a dict, a dict as a data frame.

    Raises:
        InvalidInput: A value is missing, unknown, or does not fit; the message says what was
            expected and what was given.
    """
    arguments = method.arguments
    if len(arguments) == 1 and len(args) == 1 and not kwargs:
        spec = arguments[0].spec
        if type(spec) is TensorSpec:
            return [_cast_leaf(args[0], spec, arguments[0].name, method)]
    arrays: list[Array] = []
    for argument, value in zip(arguments, _match(method, args, kwargs), strict=True):
        _walk(value, argument.spec, argument.name, arrays, method)
    return arrays


def _match(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return one value for each argument of the method, in their order."""
    arguments = method.arguments
    if len(args) == 1 and not kwargs:
        columns = as_mapping(args[0])
        if columns is not args[0]:  # a data frame
            args = (columns,) if len(arguments) == 1 else ()
            kwargs = {} if len(arguments) == 1 else columns
    if len(arguments) == 1:
        gathered = _gather(arguments[0], args, kwargs)
        if gathered is not None:
            return [gathered]
    names = [argument.name for argument in arguments]
    if len(args) > len(names):
        raise InvalidInput(
            f"{method.name} was given {len(args)} inputs; expected {len(names)}: {_list(names)}."
        )
    for name in kwargs:
        if name not in names:
            raise InvalidInput(
                f"{method.name} has no input {name!r}.{did_you_mean(name, names)}"
                f" It takes: {_list(names)}."
            )
        if name in names[: len(args)]:
            raise InvalidInput(f"input {name!r} was given twice, by position and by name.")
    rest = arguments[len(args) :]
    missing = [each.name for each in rest if each.name not in kwargs and each.default is None]
    if missing:
        raise InvalidInput(
            f"{method.name} was not given {_list(missing)}; expected: {_list(names)}."
        )
    return [*args, *(_value(each, kwargs) for each in rest)]


def _value(argument: Argument, kwargs: Mapping[str, Any]) -> Any:
    """Return what was given by name, else the argument's default."""
    if argument.name in kwargs or argument.default is None:
        return kwargs[argument.name]
    return packing.unpack(argument.default)


def _gather(argument: Argument, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of the only argument from its parts, None if they are not given so."""
    parts = _parts(argument.spec)
    if not parts or argument.name in kwargs:
        return None
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        if isinstance(argument.spec, DictSpec):
            return None
        _check_keys(args[0], list(parts), argument.name)
        return [args[0][name] for name in parts]
    if args and not kwargs and len(args) == len(parts) > 1:
        values = dict(zip(parts, args, strict=True))
    elif not args and kwargs.keys() == parts.keys():
        values = dict(kwargs)
    else:
        return None
    if isinstance(argument.spec, DictSpec):
        return {key: values[name] for name, key in parts.items()}
    return [values[name] for name in parts]


def _parts(spec: Node) -> dict[str, str]:
    """Return callers' names of a structure's parts and its own keys, {} where there are none."""
    if isinstance(spec, DictSpec):
        return {key: key for key in spec.items}
    if isinstance(spec, (ListSpec, TupleSpec)):
        names = [child.name for child in spec.items if isinstance(child, TensorSpec)]
        if len(names) == len(set(names)) == len(spec.items):
            return {name: name for name in names}
    return {}


def _walk(value: Any, spec: Node, at: str, arrays: list[Array], method: MethodSpec) -> None:
    """Append the tensors of a value to `arrays`; `at` says where in the input it stands."""
    match spec:
        case TensorSpec():
            arrays.append(_cast_leaf(value, spec, at, method))
        case DictSpec(items=mapping):
            value = as_mapping(value)
            _check_keys(value, list(mapping), at)
            for key, child in mapping.items():
                _walk(value[key], child, f"{at}[{key!r}]", arrays, method)
        case ListSpec(items=items) | TupleSpec(items=items):
            if not isinstance(value, (list, tuple)) or len(value) != len(items):
                size = f" of {len(value)}" if isinstance(value, (list, tuple)) else ""
                raise InvalidInput(
                    f"input {at!r} is a {type(value).__name__}{size}; "
                    f"expected a list of {len(items)}."
                )
            for index, (child, inner) in enumerate(zip(items, value, strict=True)):
                _walk(inner, child, f"{at}[{index}]", arrays, method)
        case NothingSpec():
            if value is not None:
                raise InvalidInput(f"input {at!r} is a {type(value).__name__}; expected None.")


def _check_keys(value: Any, keys: list[str], at: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidInput(
            f"input {at!r} is a {type(value).__name__}; expected a dict with {_list(keys)}."
        )
    for key in value:
        if key not in keys:
            raise InvalidInput(
                f"input {at!r} has no key {key!r}.{did_you_mean(str(key), keys)}"
                f" It takes: {_list(keys)}."
            )
    missing = [key for key in keys if key not in value]
    if missing:
        raise InvalidInput(f"input {at!r} lacks {_list(missing)}; expected: {_list(keys)}.")


def _cast_leaf(value: Any, spec: TensorSpec, at: str, method: MethodSpec) -> Array:
    """Return a value as the tensor that the specification asks for."""
    if spec.dtype == ANY:
        return to_array(value, spec, at)
    dtype = DTYPES[spec.dtype]
    if (
        type(value) is np.ndarray
        and value.dtype == dtype
        and not dtype.hasobject
        and value.flags.c_contiguous
        and not spec.ragged_rank
    ):
        array: Array = value
    elif spec.ragged_rank:
        return to_rows(value, spec, at, functools.partial(_cast_leaf, method=method))
    else:
        if method.padding:
            value = fill_nest(method, spec, value)
        array = to_array(value, spec, at, lenient=method.lenient)
        array = _fit_rank(array, value, spec, lenient=method.lenient)
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise InvalidInput(
            f"input {at!r} has shape {shape_text(array.shape)}; expected "
            f"{spec.dtype} {shape_text(spec.shape)}."
        )
    return array


def _fit_rank(array: Array, value: Any, spec: TensorSpec, *, lenient: bool) -> Array:
    """Return the array with an axis of size 1 at its end, or without one, where that fits.

    For a column of a data frame, and for Keras, whose models do the same with any input.
    """
    if spec.shape is None or not (lenient or hasattr(value, "to_numpy")):
        return array
    if array.ndim + 1 == len(spec.shape) and spec.shape[-1] == 1:
        return array[..., np.newaxis]
    if lenient and array.ndim == len(spec.shape) + 1 and array.shape[-1] == 1:
        return np.ascontiguousarray(array[..., 0])
    return array


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    for size, want in zip(shape, wanted, strict=True):
        if want is not None and want != size:
            return False
    return True


def _list(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) if names else "no inputs"
