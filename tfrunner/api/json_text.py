"""JSON text in and out: NaN and Infinity as tokens both ways, NumPy's values written exactly.

orjson reads no tokens and writes null for what is not finite. So what it refuses is read
again, and what it wrote with a null is written again, the standard way; both are rare.
"""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from tfrunner.errors import InvalidInput

NUMPY = orjson.OPT_SERIALIZE_NUMPY
ANY = NUMPY | orjson.OPT_NON_STR_KEYS
TIMES = (date, time)
NAT = b"1677-09-21T00:12:43.145224"
"""What orjson writes for NumPy's NaT in nanoseconds."""

MOST_SHOWN = 40
"""Characters of a wrong number that are shown."""


def parse(body: bytes) -> Any:
    """Return the value of a JSON document; the tokens NaN, Infinity and -Infinity are numbers.

    Raises:
        InvalidInput: It is no JSON document, or holds a number beyond a double.
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
        return json.loads(body, parse_float=_finite)
    except json.JSONDecodeError as exc:
        raise InvalidInput(f"JSON Parse error: {exc.msg} at offset: {exc.pos}") from None
    except ValueError as exc:  # not UTF-8, or an integer of thousands of digits
        raise InvalidInput(f"JSON Parse error: {exc}") from None
    except RecursionError:
        raise InvalidInput("JSON Parse error: the document is nested too deeply") from None


def _finite(text: str) -> float:
    """Return the number of a literal; whoever means infinity writes the token."""
    number = float(text)
    if math.isinf(number):
        shown = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
        raise InvalidInput(
            f"JSON Parse error: {shown} is beyond a double, at most 1.8e308. Write Infinity if "
            "that is meant."
        )
    return number


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

    Times are ISO 8601, decimal numbers numbers; what pandas has for missing values is null.

    Raises:
        TypeError: It holds something that JSON has no form for.
    """
    try:
        data = orjson.dumps(value, default=_plain, option=ANY)
        if b"null" not in data and NAT not in data:
            return data
    except TypeError:  # a key that orjson does not know, as NumPy's; or what has no form at all
        pass
    # A null is None, or was a number that is not finite: written again with each number apart.
    try:
        return orjson.dumps(_exact(value), default=lambda inner: _exact(_plain(inner)), option=ANY)
    except TypeError as exc:  # orjson has its own words for what `_plain` says
        raise (exc.__cause__ if isinstance(exc.__cause__, TypeError) else exc) from None


def _plain(value: Any) -> Any:
    """Return what stands for a value that orjson does not know."""
    if isinstance(value, (np.ndarray, np.generic)):
        return (value.astype("m8[us]") if value.dtype.kind == "m" else value).tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value)) if value.is_finite() else float(value)
    if hasattr(value, "isoformat"):  # pandas' times; its NaT is not equal to itself
        return value.isoformat() if value == value else None
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds()}S"
    if type(value).__name__ == "NAType":
        return None
    for name in ("to_dict", "model_dump", "numpy"):
        method = getattr(value, name, None)
        if callable(method):
            return method()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")


def _key(key: Any) -> Any:
    """Return the key of a dict as one that orjson knows."""
    if isinstance(key, (np.generic, *TIMES)):
        key = _plain(key)
    if not isinstance(key, (str, int, float, Enum, UUID, *TIMES, type(None))):
        raise TypeError(f"a dict has a key of type {type(key).__name__}; JSON's are text")
    return key


def _exact(value: Any) -> Any:
    """Return the value with what may hold a number that is not finite already written.

    Looks into what orjson would write by itself; all else it hands to `default`.
    """
    if isinstance(value, Enum):
        return _exact(value.value)
    if isinstance(value, dict):
        return {_key(key): _exact(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_exact(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "f":
        return orjson.Fragment(write_numbers(value))
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "M":
        return value.astype("M8[us]").tolist()  # NaT is None; orjson refuses it
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
