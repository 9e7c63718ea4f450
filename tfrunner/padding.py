"""Inputs of variable length, filled up so that requests can be merged, and outputs cut back.

A caller's input is filled up to the next bucket before it is sent: requests of one bucket
have one layout, and share batches. What was filled up is cut off the outputs again, where
the method says which of their axes it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfrunner.errors import InvalidInput
from tfrunner.ragged import Array
from tfrunner.specs import MethodSpec, Node, Padding, TensorSpec, leaves

SMALLEST_BUCKET = 8
"""The first of the powers of two, where no buckets are given."""

MOST_FROM_NOTHING = 2**24
"""Elements that an input without any is filled up to: a body of no bytes could claim any shape."""


class Short(NamedTuple):
    """An output axis that is to be cut back: it was filled up on the way in.

    Args:
        output: Name of the output tensor.
        axis: The axis.
        length: How much of it the caller gets.
    """

    output: str
    axis: int
    length: int


def bucket(padding: Padding, length: int) -> int:
    """Return the length that an input is filled up to.

    Raises:
        InvalidInput: It is longer than the largest bucket.
    """
    if not padding.buckets:
        return max(SMALLEST_BUCKET, 1 << (length - 1).bit_length() if length else 0)
    for size in padding.buckets:
        if length <= size:
            return size
    raise InvalidInput(
        f"input {padding.input!r} has length {length} on axis {padding.axis}; expected at most "
        f"{padding.buckets[-1]}."
    )


def pad(method: MethodSpec, arrays: Sequence[Array]) -> tuple[list[Array], tuple[Short, ...]]:
    """Return a method's inputs, filled up, and what is to be cut off its outputs.

    Raises:
        InvalidInput: An input is longer than its largest bucket.
    """
    declared = {padding.input: padding for padding in method.padding}
    lengths: dict[str, int] = {}
    filled = []
    for spec, array in zip(method.inputs, arrays, strict=True):
        padding = declared.get(spec.name)
        if padding is not None and array.ndim > padding.axis:
            length = lengths[spec.name] = array.shape[padding.axis]
            array = _fill(array, padding, bucket(padding, length))
        filled.append(array)
    cuts = tuple(
        Short(cut.output, cut.axis, lengths[cut.like]) for cut in method.cuts if cut.like in lengths
    )
    return filled, cuts


def _fill(array: Array, padding: Padding, size: int) -> Array:
    missing = size - array.shape[padding.axis]
    if missing == 0:
        return array
    shape = list(array.shape)
    shape[padding.axis] = missing
    if not array.size and math.prod(shape) > MOST_FROM_NOTHING:
        raise InvalidInput(
            f"input {padding.input!r} has no elements (shape {list(array.shape)}), and "
            f"{math.prod(shape)} when axis {padding.axis} is filled up; expected at most "
            f"{MOST_FROM_NOTHING}."
        )
    value = padding.value.encode() if isinstance(padding.value, str) else padding.value
    return np.concatenate([array, np.full(shape, value, array.dtype)], axis=padding.axis)


def fill_nest(method: MethodSpec, spec: TensorSpec, value: Any) -> Any:
    """Return rows of different lengths, filled up to the longest; other values as they are.

    Only lists of rows that are padded on axis 1 may be uneven.
    """
    padding = next((each for each in method.padding if each.input == spec.name), None)
    if padding is None or padding.axis != 1 or not isinstance(value, (list, tuple)):
        return value
    if not all(isinstance(row, (list, tuple)) for row in value):
        return value
    longest = max(map(len, value), default=0)
    if all(len(row) == longest for row in value) or (spec.shape and len(spec.shape) != 2):
        return value
    return [[*row, *[padding.value] * (longest - len(row))] for row in value]


def cut_back(structure: Node, arrays: Sequence[Array], cuts: Sequence[Short]) -> list[Array]:
    """Return outputs without what belongs to the filled-up part of an input."""
    wanted = {cut.output: cut for cut in cuts}
    kept = []
    for spec, array in zip(leaves(structure), arrays, strict=True):
        cut = wanted.get(spec.name)
        if cut is not None and array.ndim > cut.axis and array.shape[cut.axis] > cut.length:
            array = array[(slice(None),) * cut.axis + (slice(0, cut.length),)]
        kept.append(array)
    return kept
