"""Bodies of `application/x-msgpack`: nested structures of arrays, as msgpack-numpy writes them.

Both ends of HTTP use it: the api process and the Python client. A numeric array is
msgpack-numpy's map; a string tensor, which msgpack-numpy would pickle, is
`{b"strings": [elements as bytes, C order], b"shape": [sizes]}`; one of bfloat16, which
NumPy's own types lack, is `{b"bfloat16": bytes, b"shape": [sizes]}`; a ragged one is
`{b"rows": [arrays]}`. Nothing is ever
unpickled: an array of kind "O" is refused before msgpack-numpy sees it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import msgpack
import msgpack_numpy
import numpy as np

from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.ragged import Array, rows_array

CONTENT_TYPE = "application/x-msgpack"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_TYPE = re.compile(r"[<>|=]?(b1|[iufc](1|2|4|8|16)|[SU][1-9][0-9]*)")
"""NumPy's array protocol types that are accepted from a wire: no objects, no records."""


def pack(value: Any) -> bytes:
    """Return the body that stands for a nested structure of arrays and plain values.

    Raises:
        InvalidInput: It holds something that is neither an array nor plain data.
    """
    try:
        data = msgpack.packb(value, default=_encode)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidInput(f"the value cannot be sent as MessagePack: {exc}") from exc
    return bytes(data)


def unpack(data: bytes) -> Any:
    """Return what a body stands for; tuples come back as lists, arrays are read-only.

    Raises:
        ProtocolError: It is no MessagePack, or holds an array that is refused.
    """
    try:
        # Any key that can be one: MessagePack's numbers have at most 64 bits, of which too few
        # share a hash to make a dict slow.
        return msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
    except ProtocolError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, LookupError, OverflowError) as exc:
        reason = str(exc) or type(exc).__name__
        if reason.startswith("unhashable"):
            reason = "a key of a dict is a list, a tuple or a dict, which cannot travel as one"
        raise ProtocolError(f"the body is not readable MessagePack: {reason}") from exc


def _encode(value: Any) -> Any:
    """Return the map that stands for an array; called for what MessagePack does not know."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a {type(value).__name__} is neither an array nor plain data")
    if value.dtype.kind in "OSU":
        return _encode_strings(np.asarray(value))
    if value.dtype == BFLOAT16:
        return {b"bfloat16": value.tobytes(), b"shape": list(value.shape)}
    if not _TYPE.fullmatch(value.dtype.str):
        raise TypeError(f"an array of dtype {value.dtype} cannot be sent")
    return msgpack_numpy.encode(value)


def _encode_strings(array: Array) -> dict[bytes, Any]:
    elements = []
    if array.ndim == 1 and array.size and isinstance(array[0], np.ndarray):
        return {b"rows": list(array)}
    for item in array.reshape(-1).tolist():
        data = item.encode() if isinstance(item, str) else item
        if not isinstance(data, bytes):
            raise TypeError(f"an array of Python objects holds a {type(item).__name__}")
        elements.append(data)
    return {b"strings": elements, b"shape": list(array.shape)}


def _decode(value: dict[Any, Any]) -> Any:
    """Return the array that a map stands for, or the map; called for every map."""
    if b"nd" in value:
        _check_array(value)
        array = msgpack_numpy.decode(value)
        if array.dtype.kind == "U":
            _check_text(array)
        return array
    if b"strings" in value:
        return _decode_strings(value)
    if b"rows" in value:
        return rows_array(value[b"rows"])
    if b"bfloat16" in value:
        return np.frombuffer(value[b"bfloat16"], BFLOAT16).reshape(_sizes(value[b"shape"]))
    return value


def _check_array(value: dict[Any, Any]) -> None:
    """Refuse what msgpack-numpy would unpickle, and dtypes that no tensor has.

    Its type must be matched whole: msgpack-numpy crashes the process on a record type that
    holds objects.
    """
    if value.get(b"kind", b"") not in (b"", ""):
        raise ProtocolError(
            "an array of Python objects or of records was refused: it could carry a pickle. "
            "Send numeric arrays, or strings as lists of bytes."
        )
    letters, shape = value[b"type"], value[b"shape"] if value[b"nd"] else []
    if (
        not isinstance(letters, str)
        or not _TYPE.fullmatch(letters)
        or (value[b"nd"] is False and letters[1:2] in ("S", "U"))
    ):
        raise ProtocolError(f"an array of type {letters!r} was refused")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ProtocolError(f"an array of shape {shape!r} was refused")
    if not isinstance(value[b"nd"], bool) or not isinstance(value[b"data"], bytes):
        raise ProtocolError("an array whose data is not bytes was refused")
    if len(value[b"data"]) != math.prod(shape) * np.dtype(letters).itemsize:
        raise ProtocolError(
            f"an array of shape {shape!r} and type {letters!r} came with "
            f"{len(value[b'data'])} bytes"
        )


def _check_text(array: Array) -> None:
    """Refuse numbers that are no characters: Python cannot hold them."""
    codes = array.reshape(-1).view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ProtocolError("an array of text that holds no characters was refused")


def _decode_strings(value: dict[Any, Any]) -> Array:
    elements, shape = value[b"strings"], value[b"shape"]
    if not all(isinstance(item, bytes) for item in elements):
        raise ProtocolError("the elements of a string tensor must be bytes")
    array: Array = np.empty(len(elements), dtype=object)
    array[:] = elements
    shaped: Array = array.reshape(_sizes(shape))
    return shaped


def _sizes(shape: Any) -> tuple[int, ...]:
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ProtocolError(f"a tensor of shape {shape!r} was refused")
    return tuple(shape)
