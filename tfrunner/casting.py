"""Values as callers write them, cast to what a method's specification says.

NumPy only, and the same code for a local run, an api process and a client: a value is
accepted or refused, and becomes the same array, wherever it enters. What would change a value
silently is refused: integers that do not fit, fractions for an integer, ragged nests.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfrunner.errors import InvalidInput, did_you_mean
from tfrunner.protocol import Buffer
from tfrunner.specs import (
    Argument,
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
    shape_text,
)
from tfrunner.tensors import DTYPES, STRING, Array, Layout, Leaf, encode_layout, to_body
from tfrunner.values import to_array


class Call(NamedTuple):
    """A call of a method as it travels.

    Args:
        layout: What must be equal for two calls to be merged.
        rows: How many rows it carries; 1 where the method is not batchable.
        bodies: The bytes of its tensors, broadcast parameters excepted.
    """

    layout: bytes
    rows: int
    bodies: tuple[Buffer, ...]


def cast(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Return the call of a method with these values.

    Args:
        method: What is called.
        args: Positional values, as the caller wrote them.
        kwargs: Values by argument name.

    Raises:
        InvalidInput: They do not fit the method's specification.
    """
    return call(method, bind(method, args, kwargs))


def bind(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Array]:
    """Return the method's input tensors, in the order of `specs.leaves`.

    Each has exactly the dtype of its specification, fits its shape, and is in C order. One
    that already is so is returned itself, not copied. A method whose one argument is a
    structure may also be called with the structure's parts: by name, or one after another;
    and a list of named tensors may be given as a dict.

    Raises:
        InvalidInput: A value is missing, unknown, or does not fit; the message says what was
            expected and what was given.
    """
    arguments = method.arguments
    if len(arguments) == 1 and len(args) == 1 and not kwargs:
        spec = arguments[0].spec
        if type(spec) is TensorSpec:
            return [_cast_leaf(args[0], spec, arguments[0].name)]
    arrays: list[Array] = []
    for argument, value in zip(arguments, _match(method, args, kwargs), strict=True):
        _walk(value, argument.spec, argument.name, arrays)
    return arrays


def call(method: MethodSpec, arrays: Sequence[Array]) -> Call:
    """Return the call that carries these tensors, as `bind` returns them.

    For a batchable method the batch axis of every tensor of rank 1 or more is left open in
    the layout; a tensor of rank 0 is a broadcast parameter and part of the layout.

    Raises:
        InvalidInput: A batchable method's tensors have different numbers of rows.
    """
    if not method.batchable:
        parts = tuple((_name(array), array.shape, None) for array in arrays)
        return Call(_encode(parts), 1, tuple(to_body(array) for array in arrays))
    axis = method.batch_dim[0]
    rows = count_rows(method, arrays)
    open_parts: list[tuple[str, tuple[int | None, ...], bytes | None]] = []
    bodies: list[Buffer] = []
    for array in arrays:
        shape = array.shape
        if shape:
            open_parts.append((_name(array), (*shape[:axis], None, *shape[axis + 1 :]), None))
            bodies.append(to_body(array))
        else:
            open_parts.append((_name(array), (), bytes(to_body(array))))
    return Call(_encode(tuple(open_parts)), rows, tuple(bodies))


def count_rows(method: MethodSpec, arrays: Sequence[Array]) -> int:
    """Return how many rows a batchable method's inputs have; 1 where none has a batch axis.

    Raises:
        InvalidInput: They do not all have the same number.
    """
    axis = method.batch_dim[0]
    rows: int | None = None
    for index, array in enumerate(arrays):
        if not array.shape:
            continue
        if array.ndim <= axis:
            raise InvalidInput(
                f"input {_leaf_name(method, index)!r} has shape {shape_text(array.shape)}; "
                f"expected rows on axis {axis}."
            )
        if rows is None:
            rows = array.shape[axis]
        elif rows != array.shape[axis]:
            raise InvalidInput(
                f"input {_leaf_name(method, index)!r} has {array.shape[axis]} rows on axis "
                f"{axis}; expected {rows}, as the inputs before it. All inputs of a batchable "
                "method have the same number of rows."
            )
    return 1 if rows is None else rows


@functools.lru_cache(maxsize=4096)
def _encode(parts: tuple[tuple[str, tuple[int | None, ...], bytes | None], ...]) -> bytes:
    return encode_layout(Layout(tuple(Leaf(*part) for part in parts)))


def _name(array: Array) -> str:
    """Return the name of a bound array's dtype."""
    return STRING if array.dtype.hasobject else _dtype_name(array.dtype)


@functools.lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def _leaf_name(method: MethodSpec, index: int) -> str:
    tensors = [leaf for argument in method.arguments for leaf in leaves(argument.spec)]
    return tensors[index].name


def _match(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return one value for each argument of the method, in their order."""
    arguments = method.arguments
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
    missing = [name for name in names[len(args) :] if name not in kwargs]
    if missing:
        raise InvalidInput(
            f"{method.name} was not given {_list(missing)}; expected: {_list(names)}."
        )
    return [*args, *(kwargs[name] for name in names[len(args) :])]


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


def _walk(value: Any, spec: Node, at: str, arrays: list[Array]) -> None:
    """Append the tensors of a value to `arrays`; `at` says where in the input it stands."""
    match spec:
        case TensorSpec():
            arrays.append(_cast_leaf(value, spec, at))
        case DictSpec(items=mapping):
            _check_keys(value, list(mapping), at)
            for key, child in mapping.items():
                _walk(value[key], child, f"{at}[{key!r}]", arrays)
        case ListSpec(items=items) | TupleSpec(items=items):
            if not isinstance(value, (list, tuple)) or len(value) != len(items):
                size = f" of {len(value)}" if isinstance(value, (list, tuple)) else ""
                raise InvalidInput(
                    f"input {at!r} is a {type(value).__name__}{size}; "
                    f"expected a list of {len(items)}."
                )
            for index, (child, inner) in enumerate(zip(items, value, strict=True)):
                _walk(inner, child, f"{at}[{index}]", arrays)
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


def _cast_leaf(value: Any, spec: TensorSpec, at: str) -> Array:
    """Return a value as the tensor that the specification asks for."""
    dtype = DTYPES[spec.dtype]
    if (
        type(value) is np.ndarray
        and value.dtype == dtype
        and not dtype.hasobject
        and value.flags.c_contiguous
    ):
        array: Array = value
    else:
        array = to_array(value, spec, at)
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        raise InvalidInput(
            f"input {at!r} has shape {shape_text(array.shape)}; expected "
            f"{spec.dtype} {shape_text(spec.shape)}."
        )
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
