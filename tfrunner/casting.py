"""Values as callers write them, cast to what a method's specification says.

NumPy only, and the same code for a local run, an api process and a client: a value is
accepted or refused, and becomes the same array, wherever it enters. What would change a value
silently is refused: integers that do not fit, fractions for an integer, ragged nests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from tfrunner.binding import bind
from tfrunner.errors import InvalidInput
from tfrunner.padding import Short, pad
from tfrunner.protocol import Buffer
from tfrunner.specs import MethodSpec, TensorSpec, shape_text
from tfrunner.tensors import (
    REMEMBERED_BYTES,
    Array,
    Layout,
    Leaf,
    leaf_of,
    to_body,
    write_layout,
)

__all__ = ["Call", "bind", "call", "cast", "choose", "count_rows"]

MOST_BROADCAST = 16 * 2**20
"""Bytes of a broadcast parameter: whoever has a request in hand compares it with others."""

MOST_EMPTY_ROWS = 65536
"""Rows of 0 bytes that one request may have: a body of no bytes could claim any number."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """A call of a method as it travels.

    Args:
        layout: What must be equal for two calls to be merged.
        rows: How many rows it carries; 1 where the method is not batchable.
        bodies: The bytes of its tensors, broadcast parameters excepted.
        cuts: What is cut off its outputs before the caller gets them.
    """

    layout: bytes
    rows: int
    bodies: tuple[Buffer, ...]
    cuts: tuple[Short, ...] = ()


def cast(method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Return the call of a method with these values.

    Args:
        method: What is called; of a polymorphic method the variant that fits best.
        args: Positional values, as the caller wrote them.
        kwargs: Values by argument name.

    Raises:
        InvalidInput: They do not fit the method's specification.
    """
    if method.variants:
        return call(*choose(method, args, kwargs))
    return call(method, bind(method, args, kwargs))


def choose(
    method: MethodSpec, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[MethodSpec, list[Array]]:
    """Return the variant of a polymorphic method that fits the values, and its tensors.

    One that takes every array with the dtype that it has goes before one that needs a cast;
    among equals the first one that was traced.

    Raises:
        InvalidInput: None fits; the message is that of the first.
    """
    given = [value.dtype for value in (*args, *kwargs.values()) if isinstance(value, np.ndarray)]
    fitting: list[tuple[MethodSpec, list[Array]]] = []
    first: InvalidInput | None = None
    for variant in method.of_variants():
        try:
            arrays = bind(variant, args, kwargs)
        except InvalidInput as exc:
            first = first or exc
            continue
        if given and all(dtype in [array.dtype for array in arrays] for dtype in given):
            return variant, arrays
        fitting.append((variant, arrays))
    if fitting:
        return fitting[0]
    assert first is not None
    if not method.variants:
        raise first
    raise InvalidInput(f"{first.message} ({method.name} has {len(method.variants)} more forms.)")


def call(method: MethodSpec, arrays: Sequence[Array]) -> Call:
    """Return the call that carries these tensors, as `bind` returns them.

    For a batchable method the batch axis of every tensor of rank 1 or more is left open in
    the layout; a tensor of rank 0 is a broadcast parameter and part of the layout. Inputs of
    variable length are filled up to their buckets.

    Raises:
        InvalidInput: A batchable method's tensors have different numbers of rows, or a broadcast
            parameter is too large.
    """
    cuts: tuple[Short, ...] = ()
    rows = count_rows(method, arrays) if method.batchable else 1
    if method.padding:
        arrays, cuts = pad(method, arrays)
    specs = _inputs(method)
    if not method.batchable:
        parts = tuple(_part(spec, array) for spec, array in zip(specs, arrays, strict=True))
        bodies = tuple(map(_body, specs, arrays))
        return Call(_encode(parts), rows, bodies, cuts)
    axis = method.batch_dim[0]
    open_parts: list[Part] = []
    filled: list[Buffer] = []
    encode: Callable[[tuple[Part, ...]], bytes] = _encode
    for spec, array in zip(specs, arrays, strict=True):
        name, shape, _, rank = _part(spec, array)
        body = _body(spec, array)
        if shape:
            open_parts.append((name, (*shape[:axis], None, *shape[axis + 1 :]), None, rank))
            filled.append(body)
        else:
            if len(body) > REMEMBERED_BYTES:
                encode = _encode_once
                _check_broadcast(spec, body)
            open_parts.append((name, (), bytes(body), 0))
    return Call(encode(tuple(open_parts)), rows, tuple(filled), cuts)


def _check_broadcast(spec: TensorSpec, body: Buffer) -> None:
    if len(body) > MOST_BROADCAST:
        raise InvalidInput(
            f"input {spec.name!r} is one value of {len(body)} bytes for all rows; it may have "
            f"{MOST_BROADCAST}. Give it as rows, one for each of the other inputs', or declare "
            "the method with batchable=False."
        )


def count_rows(method: MethodSpec, arrays: Sequence[Array]) -> int:
    """Return how many rows a batchable method's inputs have; 1 where none has a batch axis.

    Raises:
        InvalidInput: They do not all have the same number, or more than any memory bounds.
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
    if rows is None:
        return 1
    if rows > MOST_EMPTY_ROWS and not any(array.nbytes for array in arrays if array.shape):
        raise InvalidInput(
            f"the request has {rows} rows without a single value; expected at most "
            f"{MOST_EMPTY_ROWS} of them."
        )
    return rows


Part = tuple[str, "tuple[int | None, ...]", "bytes | None", int]
"""What a Leaf is made of."""


def _encode_once(parts: tuple[Part, ...]) -> bytes:
    return write_layout(Layout(tuple(Leaf(*part) for part in parts)))


_encode = functools.lru_cache(maxsize=4096)(_encode_once)


@functools.lru_cache(maxsize=1024)
def _inputs(method: MethodSpec) -> tuple[TensorSpec, ...]:
    return tuple(method.inputs)


def _part(spec: TensorSpec, array: Array) -> Part:
    if not array.dtype.hasobject:
        return _dtype_name(array.dtype), array.shape, None, 0
    leaf = leaf_of(spec, array)
    return leaf.dtype, leaf.shape, None, leaf.ragged_rank


def _body(spec: TensorSpec, array: Array) -> Buffer:
    return to_body(array, leaf_of(spec, array) if array.dtype.hasobject else None)


@functools.lru_cache(maxsize=64)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def _leaf_name(method: MethodSpec, index: int) -> str:
    return _inputs(method)[index].name
