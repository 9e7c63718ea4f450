"""Values without a specification: what a Runnable takes and gives where it does not say more.

An array of numbers stays one. A list is *rows* of plain values; anything else is one value of
rank 0. Plain values travel as MessagePack, never as a pickle: numbers, text, bytes, None,
lists, dicts, and arrays among them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfrunner import packing
from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.ragged import Array, rows_array

OBJECT = "object"
"""The dtype of an array of plain values, on the wire."""


def to_any(value: Any) -> Array:
    """Return a value as an array: of numbers, or of plain values (then of dtype object).

    Args:
        value: An array or tensor of numbers stays one; a list, a tuple or an array of text
            becomes an array of its rows; anything else an array of rank 0.
    """
    if hasattr(value, "numpy") and not isinstance(value, np.ndarray):
        value = value.numpy()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        value = value.tolist()
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value) if value.ndim else value
    if isinstance(value, np.generic) and value.dtype.kind not in "OSU":
        return np.asarray(value)
    if isinstance(value, (list, tuple)):
        return rows_array(list(value))
    array: Array = np.empty((), dtype=object)
    array[()] = value
    return array


def from_any(array: Array) -> Any:
    """Return what a callee gets: an array, a list of rows, or a plain value."""
    if not array.dtype.hasobject:
        return array if array.ndim else array[()]
    return list(array) if array.ndim else array.item()


def to_body(array: Array) -> bytes:
    """Return the body of an array of plain values: each as 4 bytes of length and MessagePack.

    Raises:
        InvalidInput: One is no plain value.
    """
    chunks: list[bytes] = []
    for item in array.reshape(-1).tolist() if array.ndim else [array.item()]:
        data = packing.pack(item)
        chunks += (struct.pack("<I", len(data)), data)
    return b"".join(chunks)


def from_body(body: Any, shape: tuple[int, ...]) -> Array:
    """Return the array of plain values that a body holds.

    Raises:
        ProtocolError: It is cut short, or holds what is refused.
    """
    items = [packing.unpack(data) for data in elements(bytes(body))]
    if shape == () and len(items) == 1:
        array: Array = np.empty((), dtype=object)
        array[()] = items[0]
        return array
    if shape != (len(items),):
        raise ProtocolError(f"{len(items)} values do not make shape {shape}")
    return rows_array(items)


def elements(data: bytes) -> Iterator[bytes]:
    """Yield the elements of a body that writes each behind its length.

    Raises:
        ProtocolError: The last one is cut short.
    """
    at = 0
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        at += 4 + size
        yield data[at - size : at]
    if at != len(data):
        raise ProtocolError(f"a body of {len(data)} bytes is cut short")


def check_plain(value: Any, at: str) -> None:
    """Refuse what cannot travel.

    Raises:
        InvalidInput: The value holds something that is neither an array nor plain data.
    """
    try:
        packing.pack(value)
    except InvalidInput as exc:
        raise InvalidInput(f"input {at!r}: {exc}") from None
