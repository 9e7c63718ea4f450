"""JSON text in and out: NaN and Infinity as tokens both ways, NumPy's values written exactly.

orjson reads no tokens and writes null for what is not finite. So what it refuses is read
again, and what it wrote with a null is written again, the standard way; both are rare.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from typing import Any

import numpy as np
import orjson

from tfrunner.errors import InvalidInput

NUMPY = orjson.OPT_SERIALIZE_NUMPY
ANY = NUMPY | orjson.OPT_NON_STR_KEYS


def parse(body: bytes) -> Any:
    """Return the value of a JSON document; the tokens NaN, Infinity and -Infinity are numbers.

    Raises:
        InvalidInput: It is no JSON document.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if not body.strip():
            raise InvalidInput("JSON Parse error: The document is empty") from None
        # orjson knows neither the tokens nor numbers that overflow a double.
        if not (b"NaN" in body or b"Infinity" in body or "infinity" in exc.msg):
            raise InvalidInput(f"JSON Parse error: {exc.msg} at offset: {exc.pos}") from None
    try:
        return json.loads(body)
    except json.JSONDecodeError as exc:
        raise InvalidInput(f"JSON Parse error: {exc.msg} at offset: {exc.pos}") from None
    except ValueError as exc:  # not UTF-8, or an integer of thousands of digits
        raise InvalidInput(f"JSON Parse error: {exc}") from None
    except RecursionError:
        raise InvalidInput("JSON Parse error: the document is nested too deeply") from None


def write_numbers(array: Any) -> bytes:
    """Return a numeric array or NumPy scalar as JSON, with tokens for what is not finite."""
    plain = np.ascontiguousarray(array) if array.shape else array[()]
    data = orjson.dumps(plain, option=NUMPY)
    if b"null" not in data:
        return data
    flat = np.asarray(array).reshape(-1)
    tokens = [json.dumps(value).encode() for value in flat[~np.isfinite(flat)].tolist()]
    first, *rest = data.split(b"null")
    return first + b"".join(token + piece for token, piece in zip(tokens, rest, strict=True))


def write(value: Any) -> bytes:
    """Return any plain value as JSON: also arrays, NumPy's numbers, dataclasses, data frames.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    data = orjson.dumps(value, default=_plain, option=ANY)
    if b"null" not in data:
        return data
    # A null is None, or was a number that is not finite: written again with each number apart.
    return orjson.dumps(_exact(value), default=lambda inner: _exact(_plain(inner)), option=ANY)


def _plain(value: Any) -> Any:
    """Return what stands for a value that orjson does not know."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, (set, frozenset)):
        return list(value)
    for name in ("to_dict", "model_dump", "numpy"):
        method = getattr(value, name, None)
        if callable(method):
            return method()
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _exact(value: Any) -> Any:
    """Return the value with what may hold a number that is not finite already written.

    Looks into what orjson would write by itself; all else it hands to `default`.
    """
    if isinstance(value, Enum):
        return _exact(value.value)
    if isinstance(value, dict):
        return {key: _exact(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "f":
        return orjson.Fragment(write_numbers(value))
    if isinstance(value, float):
        return orjson.Fragment(json.dumps(value))
    if "__dataclass_fields__" in vars(type(value)):
        return {name: _exact(inner) for name, inner in _fields(value)}
    return value


def _fields(value: Any) -> list[tuple[str, Any]]:
    """Return the names and values that orjson writes of a dataclass: none that begins with _."""
    if "__slots__" in vars(type(value)):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name)) for name in names if name[0] != "_"]
    return [(name, inner) for name, inner in vars(value).items() if name[0] != "_"]
