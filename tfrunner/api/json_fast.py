"""The short way for JSON bodies: one dense numeric input, nothing else in the body.

simdjson copies the numbers of a nest into one buffer about three times as fast as a list can
be built, but it *flattens*: `[[1,2,3],[4,5]]` becomes five numbers. So the nesting is proven
first. What is left of a body once digits, signs, dots, exponents and white space are deleted
is its *skeleton*; a regular nest of numbers has exactly one skeleton for its shape. Equal
skeletons, valid JSON and the right count of numbers together mean: exactly that nest.
(`[]` and `[5]` share a skeleton; the count tells them apart.)

Whatever is not proven here (booleans, null, NaN, strings, named inputs, other keys, numbers
out of range) is None: json_body.py reads it again, and gives the error where there is one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
import simdjson

from tfrunner.specs import MethodSpec, TensorSpec
from tfrunner.tensors import DTYPES, Array

NUMBERS = b"0123456789+-.eE \t\r\n"
HEADS = {b'{"instancs":[': "instances", b'{"inputs":[': "inputs"}
"""What stands before the nest, in skeletons (the e of instances is deleted with exponents)."""

OF_TYPE = {"f": ("d", np.dtype("<f8")), "i": ("i", np.dtype("<i8")), "u": ("u", np.dtype("<u8"))}
"""How simdjson is asked for the numbers, and what it gives, by the kind of the dtype."""

FEW = 32
"""So many numbers are compared one by one in less time than NumPy needs to begin."""


class FastReader(NamedTuple):
    """How to read the bodies of one method.

    Args:
        method: The method.
        dtype: What the input's numbers become.
        shape: The input's shape, None where any size goes.
        row: Skeleton of one element of the outermost list; None where the shape leaves it open.
        largest: Numbers below it are cast here; integers above 2**53 would be rounded twice.
    """

    method: MethodSpec
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]
    row: bytes | None
    largest: float

    def read(self, body: bytes) -> tuple[str, Array] | None:
        """Return the key ("instances" or "inputs") and its array; None: take the long way."""
        skeleton = body.translate(None, NUMBERS)
        start = skeleton.find(b"[") + 1
        key = HEADS.get(skeleton[:start])
        if key is None or not skeleton.endswith(b"]}"):
            return None
        nest = skeleton[start:-2]
        if self.row is None:
            found = derive_shape(nest, self.shape)
            if found is None:
                return None
            shape, row = found
        else:
            row = self.row
            sizes = cast("tuple[int, ...]", self.shape[1:])
            shape = ((len(nest) + 1) // (len(row) + 1), *sizes)
        rows = shape[0]
        if rows < 1 or self.shape[0] not in (None, rows) or nest != repeat(row, rows):
            return None
        array = self._numbers(body, key, math.prod(shape))
        return None if array is None else (key, array.reshape(shape))

    def _numbers(self, body: bytes, key: str, count: int) -> Array | None:
        """Return the numbers of a proven nest in order, cast to the dtype without loss of range."""
        of_type, given = OF_TYPE[self.dtype.kind]
        try:
            # A parser of its own costs 0.3 us, keeps no memory of a large body, and is never
            # in the state "still referenced".
            document: Any = simdjson.Parser().parse(body)
            buffer = document[key].as_buffer(of_type=of_type)
        except (ValueError, TypeError, KeyError, RuntimeError):
            return None
        numbers = np.frombuffer(buffer, given)
        if numbers.size != count:
            return None
        if given == self.dtype:
            return numbers
        if given.kind == "f":
            return numbers.astype(self.dtype) if self._fits(numbers) else None
        narrow = numbers.astype(self.dtype)
        return narrow if (narrow == numbers).all() else None

    def _fits(self, numbers: Array) -> bool:
        """Whether every number is below the largest; the cheapest proof for each size."""
        if numbers.size <= FEW:
            few = numbers.tolist()
            return bool(-self.largest < min(few) and max(few) < self.largest)
        # The sum of squares bounds the largest number (isfinite and all take 2 us more).
        with np.errstate(over="ignore"):
            return bool(numbers.dot(numbers) < self.largest**2)


def fast_reader(method: MethodSpec) -> FastReader | None:
    """Return the reader for a method; None where its bodies always take the long way."""
    if len(method.arguments) != 1 or (method.batchable and method.batch_dim[0] != 0):
        return None
    spec = method.arguments[0].spec
    if not isinstance(spec, TensorSpec) or not spec.shape or 0 in spec.shape:
        return None
    if spec.ragged_rank or method.variants or method.padding:
        return None
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind not in OF_TYPE:
        return None
    largest = min(float(np.finfo(dtype).max), 2.0**53) if dtype.kind == "f" else 0.0
    return FastReader(method, dtype, spec.shape, known_row(spec.shape[1:]), largest)


def known_row(sizes: tuple[int | None, ...]) -> bytes | None:
    """Return the skeleton of one row of these sizes, None if one of them is not known."""
    row = b""
    for size in reversed(sizes):
        if size is None:
            return None
        row = b"[" + repeat(row, size) + b"]"
    return row


def repeat(row: bytes, count: int) -> bytes:
    """Return `count` rows with commas between them."""
    return ((row + b",") * count)[:-1]


def derive_shape(
    nest: bytes, expected: tuple[int | None, ...]
) -> tuple[tuple[int, ...], bytes] | None:
    """Return the shape that the first row claims, and a row's skeleton; None if it cannot be.

    Level by level from the innermost list outward: where level k first closes, everything
    between its brackets must be copies of the unit below. The caller compares the whole nest
    with what is returned, so that a wrong claim is only ever refused.
    """
    unit, sizes = b"", []
    depth = len(expected) - 1
    for level in range(1, depth + 1):
        stop = nest.find(b"]" * level)
        if stop < 0:
            return None
        inside = stop + level - 1 - (depth - level + 1)
        size = (inside + 1) // (len(unit) + 1)
        if size < 1 or expected[depth + 1 - level] not in (None, size):
            return None
        unit = b"[" + repeat(unit, size) + b"]"
        sizes.append(size)
    rows = (len(nest) + 1) // (len(unit) + 1)
    return (rows, *reversed(sizes)), unit
