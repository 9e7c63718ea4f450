"""Dtypes and shapes that are declared: what they may be, and values that fit them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrunner.errors import ConfigError
from tfrunner.specs import TensorSpec
from tfrunner.tensors import DTYPES, STRING, Array
from tfrunner.values import to_array


def check_shape(shape: Any, *, what: str) -> tuple[int, ...]:
    """Return a shape that was declared, -1 where any size goes.

    Args:
        shape: Sizes; None, as TensorFlow writes an open axis, is -1.
        what: The descriptor's name, for the message.

    Raises:
        ConfigError: It is none.
    """
    try:
        sizes = tuple(-1 if size is None else operator.index(size) for size in shape)
    except TypeError:
        sizes = (-2,)
    if min(sizes, default=0) < -1:
        raise ConfigError(
            f"{what}(shape={shape!r}): expected sizes, as (-1, 5); -1 or None for any size."
        )
    return sizes


def is_shape(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether a shape is one that was declared."""
    return len(shape) == len(wanted) and all(
        want in (-1, size) for size, want in zip(shape, wanted, strict=True)
    )


def cast(value: Any, dtype: str, at: str) -> Array:
    """Return a value as an array of a dtype, as predict requests are cast; 2.0 is the integer 2.

    Args:
        value: An array, a column, or nested lists.
        dtype: Its name.
        at: What the value is called, for messages.

    Raises:
        InvalidInput: That would change a value.
    """
    if dtype != STRING and DTYPES[dtype].kind in "iu":
        value = _without_points(value)
    return to_array(value, TensorSpec(at, dtype, None), at)


def _without_points(value: Any) -> Any:
    """Return floating-point numbers as integers where all are; any other value as it is."""
    try:
        array: Array = np.asarray(value)
        if array.dtype.kind != "f" or not (np.isfinite(array) & (array == np.trunc(array))).all():
            return value
        if isinstance(value, (list, tuple)):
            return _exact(value)
        least, most = array.min(initial=0), array.max(initial=0)
    except (TypeError, ValueError):  # ragged, or not of numbers
        return value
    if least >= -(2.0**63) and most < 2.0**63:
        return array.astype(np.int64)
    return array.astype(np.uint64) if least >= 0 and most < 2.0**64 else array.tolist()


def _exact(value: Any) -> Any:
    """Return nested lists with integers for floats: an array of both would round the large ones."""
    array: Array = np.asarray(value, dtype=object)
    items = [int(item) for item in array.reshape(-1)]
    integers: Array = np.empty(len(items), dtype=object)
    integers[:] = items
    return integers.reshape(array.shape).tolist()
