"""Tensors on the wire: layouts, bodies, and rows put together and cut apart.

A *layout* is what two requests must share to be merged: for each tensor its dtype and its
shape, with None on the batch axis, and the value itself where it is a broadcast parameter.
A *body* holds a tensor's bytes: little-endian, C order; strings as 4 bytes of length
(little-endian) before each element; ragged tensors and plain values as `ragged` and `objects`
say.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import msgspec
import numpy as np

from tfrunner import objects, ragged
from tfrunner.errors import InvalidInput, ModelError, ProtocolError
from tfrunner.objects import OBJECT
from tfrunner.protocol import INLINE_BYTES, Buffer
from tfrunner.ragged import Array as Array
from tfrunner.specs import ANY, Node, TensorSpec

STRING = "string"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {"bfloat16": BFLOAT16, STRING: np.dtype(object), OBJECT: np.dtype(object)}


class Leaf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor of a layout.

    Args:
        dtype: Name of the dtype.
        shape: Sizes; None on the batch axis. A ragged tensor's ragged axes are left out.
        value: The body itself, where it is part of the layout (a broadcast parameter).
        ragged_rank: How many axes after the first are ragged.
    """

    dtype: str
    shape: tuple[int | None, ...]
    value: bytes | None = None
    ragged_rank: int = 0


class Layout(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The tensors of a call or of its result; `structure` is given for results."""

    leaves: tuple[Leaf, ...]
    structure: Node | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Layout)


REMEMBERED_BYTES = 8192
REMEMBERED_LEAVES = 64
"""Layouts that are longer are not remembered: each may be another one, as with a text that is a
broadcast parameter, and thousands of them would fill the memory."""


def write_layout(layout: Layout) -> bytes:
    """Return the bytes that stand for the layout; equal layouts give equal bytes."""
    return _encoder.encode(layout)


def encode_layout(layout: Layout) -> bytes:
    """As `write_layout`, of a layout without values, which is likely to come again."""
    if len(layout.leaves) > REMEMBERED_LEAVES:
        return write_layout(layout)
    return _write_again(layout)


def decode_layout(data: bytes) -> Layout:
    """Return the layout that the bytes stand for.

    Raises:
        ProtocolError: They stand for none, or for a dtype that is not known.
    """
    return _read_layout(data) if len(data) > REMEMBERED_BYTES else _read_again(data)


def _read_layout(data: bytes) -> Layout:
    try:
        layout = _decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise ProtocolError(f"a layout was refused: {exc}") from exc
    for leaf in layout.leaves:
        if leaf.dtype not in DTYPES:
            raise ProtocolError(f"dtype {leaf.dtype!r} is not known")
        if any(size is not None and size < 0 for size in leaf.shape):
            raise ProtocolError(f"a layout has a negative size: {leaf.shape}")
        if leaf.ragged_rank < 0 or (leaf.ragged_rank and not leaf.shape):
            raise ProtocolError(f"a layout has a ragged tensor of rank {leaf.ragged_rank}")
    return layout


_write_again = functools.lru_cache(maxsize=4096)(write_layout)
_read_again = functools.lru_cache(maxsize=4096)(_read_layout)


def dtype_name(array: Array) -> str:
    """Return the name of an array's dtype, `string` for text, bytes and objects."""
    return STRING if array.dtype.kind in "OSU" else array.dtype.name


@functools.lru_cache(maxsize=64)
def _numeric_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def leaf_of(spec: TensorSpec, array: Array) -> Leaf:
    """Return the leaf of an array that has this specification, every size fixed."""
    dtype = array.dtype
    if not dtype.hasobject:
        return Leaf(STRING if dtype.kind in "SU" else _numeric_name(dtype), array.shape)
    if spec.ragged_rank:
        inner = (spec.shape or ())[spec.ragged_rank + 1 :]
        sizes = tuple(0 if size is None else size for size in inner)
        return Leaf(spec.dtype, (len(array), *sizes), None, spec.ragged_rank)
    return Leaf(OBJECT if spec.dtype == ANY else STRING, array.shape)


def open_batch(leaf: Leaf, axis: int) -> Leaf:
    """Return the leaf with any number of rows on an axis."""
    shape = leaf.shape
    return Leaf(leaf.dtype, (*shape[:axis], None, *shape[axis + 1 :]), None, leaf.ragged_rank)


def to_body(array: Array, leaf: Leaf | None = None) -> Buffer:
    """Return the bytes of an array; a large numeric one is not copied.

    Args:
        array: The tensor.
        leaf: Needed for ragged tensors and plain values: objects are taken for text otherwise.

    Raises:
        InvalidInput: An object in it cannot be sent.
    """
    kind = array.dtype.kind
    if kind in "OSU":
        if leaf is not None and leaf.ragged_rank:
            return ragged.to_body(array, leaf.ragged_rank, to_body)
        if leaf is not None and leaf.dtype == OBJECT:
            return objects.to_body(array)
        return _strings_to_body(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.nbytes < INLINE_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def from_body(body: Buffer, dtype: str, shape: tuple[int, ...], ragged_rank: int = 0) -> Array:
    """Return the array that a body holds; numeric ones are views and read-only.

    Raises:
        ProtocolError: The body's length does not fit the dtype and shape.
    """
    if ragged_rank:
        inner = shape[1:]
        return ragged.from_body(
            body, shape[0], ragged_rank, lambda data, count: from_body(data, dtype, (count, *inner))
        )
    if dtype == STRING:
        return _strings_from_body(body, shape)
    if dtype == OBJECT:
        return objects.from_body(body, shape)
    try:
        return np.frombuffer(body, DTYPES[dtype]).reshape(shape)
    except (ValueError, KeyError) as exc:
        raise ProtocolError(f"{len(body)} bytes do not make a {dtype} of shape {shape}") from exc


def _strings_to_body(array: Array) -> bytes:
    chunks: list[bytes] = []
    for item in array.reshape(-1).tolist():
        data = item.encode() if isinstance(item, str) else item
        if not isinstance(data, bytes):
            raise InvalidInput(f"expected str or bytes, got {type(item).__name__}")
        chunks += (struct.pack("<I", len(data)), data)
    return b"".join(chunks)


def _strings_from_body(body: Buffer, shape: tuple[int, ...]) -> Array:
    items = list(objects.elements(bytes(body)))
    array = np.empty(len(items), dtype=object)
    array[:] = items
    try:
        return array.reshape(shape)
    except ValueError as exc:
        raise ProtocolError(f"{len(items)} strings do not make shape {shape}") from exc


def batch_axis(leaf: Leaf) -> int | None:
    """Return the axis of a leaf that counts rows, None if it has none."""
    return leaf.shape.index(None) if None in leaf.shape else None


def full_shape(leaf: Leaf, rows: int) -> tuple[int, ...]:
    """Return the leaf's shape for that many rows."""
    return tuple(rows if size is None else size for size in leaf.shape)


def unpack(layout: Layout, bodies: Sequence[Buffer], rows: int) -> list[Array]:
    """Return the arrays of one request or block, broadcast parameters included.

    Raises:
        ProtocolError: There are more or fewer bodies than the layout has, or of another size.
    """
    remaining = iter(bodies)
    arrays = []
    for leaf in layout.leaves:
        body = leaf.value if leaf.value is not None else next(remaining, None)
        if body is None:
            raise ProtocolError("a request has fewer bodies than its layout")
        arrays.append(from_body(body, leaf.dtype, full_shape(leaf, rows), leaf.ragged_rank))
    if next(remaining, None) is not None:
        raise ProtocolError("a request has more bodies than its layout")
    return arrays


def rows_of(array: Array, axis: int, start: int, stop: int) -> Array:
    """Return rows `start` to `stop` along an axis, without a copy."""
    return array[(slice(None),) * axis + (slice(start, stop),)]


def check_rows(array: Array, axis: int, rows: int, *, output: str) -> None:
    """Check that a model returned as many rows as it was given.

    Raises:
        ModelError: It did not.
    """
    got = array.shape[axis] if array.ndim > axis else None
    if got != rows:
        raise ModelError(
            f"output {output!r} has shape {list(array.shape)}; expected {rows} rows on axis "
            f"{axis}, as many as the input. Save the method with batchable=False, or name the "
            "output's axis in batch_dim=(input, output)."
        )
