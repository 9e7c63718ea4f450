"""Values as monitors write them: JSON, for all that endpoints and models take and give."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from tfrunner.errors import StateError

MOST_NUMBERS = 65_536
"""Numbers or texts of an array that is written; of a larger one only shape and dtype are."""

OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def encode(value: Any, *, name: str) -> bytes:
    """Return a value as JSON; numbers that are not finite become null.

    Args:
        value: Plain data, arrays, tensors, data frames, pydantic models.
        name: What it is called, for the message.

    Raises:
        StateError: There is no form for it.
    """
    try:
        return orjson.dumps(shorten(value), default=_plain, option=OPTIONS)
    except (TypeError, ValueError, RecursionError) as exc:
        raise StateError(
            f"{name!r} cannot be logged: a {type(value).__name__} has no form in JSON ({exc}). "
            "Log numbers, text, lists, dicts or arrays."
        ) from exc


def shorten(value: Any) -> Any:
    """Return what stands for an array that is too large to be written; else the value itself."""
    if isinstance(value, np.ndarray) and value.size > MOST_NUMBERS:
        return {"shape": value.shape, "dtype": str(value.dtype), "omitted": value.size}
    if isinstance(value, dict):
        return {key: shorten(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(each, np.ndarray) for each in value):
        return [shorten(each) for each in value]
    return value


def _plain(value: Any) -> Any:
    """Return the plain form of what orjson does not know."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (np.ndarray, np.generic)):  # text, float16, or a view with gaps
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return list(value)
    for convert in ("model_dump", "to_numpy", "numpy"):  # pydantic, pandas, tensors
        if hasattr(value, convert):
            columns = getattr(value, "columns", None)
            if columns is not None:
                return {str(column): value[column].tolist() for column in columns}
            return shorten(getattr(value, convert)())
    raise TypeError(f"of type {type(value).__name__}")
