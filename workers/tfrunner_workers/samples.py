"""Made-up rows for a method: zeros to warm it with, different rows to probe it with.

Random numbers are seeded: the same model is probed with the same rows at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfrunner.errors import InvalidInput
from tfrunner.padding import bucket, pad
from tfrunner.ragged import rows_array
from tfrunner.specs import ANY, MethodSpec, TensorSpec, leaves, shape_text
from tfrunner.tensors import BFLOAT16, DTYPES, STRING, Array

TEXTS = (b"a", b"b", b"some text", b"")
SEED = 20

Make = Callable[[TensorSpec, tuple[int, ...]], Array]


def row_axis(method: MethodSpec, leaf: TensorSpec) -> int | None:
    """Return the axis of an input that counts rows, None for a broadcast parameter."""
    if not method.batchable or leaf.shape == ():
        return None
    return method.batch_dim[0]


def count_rows(method: MethodSpec, arrays: list[Array]) -> int:
    """Return how many rows the inputs of a method have; 0 if none of them counts rows."""
    for leaf, array in zip(method.inputs, arrays, strict=True):
        axis = row_axis(method, leaf)
        if axis is not None and array.ndim:  # of any rank: a scalar is the same for all rows
            return int(array.shape[axis])
    return 0


def zeros(method: MethodSpec, rows: int) -> list[Array]:
    """Return zeros for every input of a method, empty texts for strings.

    Args:
        method: Sizes that are not fixed become 1.
        rows: How many rows; without meaning where the method is not batchable.

    Raises:
        InvalidInput: An input may have any rank, so its shape cannot be made up.
    """
    return _fill(method, rows, _zeros)


def different(method: MethodSpec, rows: int) -> list[Array]:
    """Return rows that differ: numbers of 0 to 1, zeros and ones for integers, short texts.

    Args:
        method: Sizes that are not fixed become 1.
        rows: How many rows.

    Raises:
        InvalidInput: An input may have any rank, so its shape cannot be made up.
    """
    random = np.random.default_rng(SEED)
    made = _fill(method, rows, lambda leaf, shape: _random(random, leaf.dtype, shape))
    for leaf, array in zip(_inputs(method), made, strict=True):
        axis = row_axis(method, leaf)
        if axis is not None and rows > 1 and array.dtype.kind in "biu":
            by_row = np.moveaxis(array, axis, 0)  # a view: two rows of zeros and ones must differ
            by_row[1] = np.logical_not(by_row[0])
    return made


def repeated(method: MethodSpec, example: list[Array], rows: int) -> list[Array]:
    """Return the example with its rows repeated, or cut off, to `rows` rows."""
    made = []
    for leaf, array in zip(_inputs(method), example, strict=True):
        axis = row_axis(method, leaf)
        if axis is not None:
            array = np.take(array, np.arange(rows) % array.shape[axis], axis=axis)
        made.append(array)
    return made


def varied(method: MethodSpec, example: list[Array], rows: int) -> list[Array]:
    """Return different rows in the range of an example.

    Numbers move towards zero, at random: a made-up index then stays within its table. Texts
    are taken from the example at random. Broadcast parameters stay.
    """
    random = np.random.default_rng(SEED)
    made = []
    for leaf, array in zip(_inputs(method), repeated(method, example, rows), strict=True):
        made.append(array if row_axis(method, leaf) is None else _vary(random, array))
    return made


def made_up(method: MethodSpec, rows: int, example: list[Array] | None) -> list[Array]:
    """Return that many rows: the example's, repeated, or zeros where there is none."""
    return zeros(method, rows) if example is None else repeated(method, example, rows)


def as_called(method: MethodSpec, example: list[Array]) -> tuple[MethodSpec, list[Array]]:
    """Return the variant that a stored example is for, and the example as it reaches a worker.

    Inputs of variable length reach it filled up.

    Raises:
        InvalidInput: An input is longer than its largest bucket.
    """
    given = [array.dtype for array in example]
    for variant in method.of_variants():
        taken = [
            np.dtype(object) if leaf.ragged_rank else DTYPES[leaf.dtype] for leaf in variant.inputs
        ]
        if taken == given:
            return variant, pad(variant, example)[0] if method.padding else example
    return method, example


def take(method: MethodSpec, arrays: list[Array], start: int, stop: int) -> list[Array]:
    """Return rows `start` to `stop` of every input, in C order; broadcast parameters whole."""
    taken = []
    for leaf, array in zip(_inputs(method), arrays, strict=True):
        axis = row_axis(method, leaf)
        if axis is not None:
            array = np.ascontiguousarray(np.take(array, np.arange(start, stop), axis=axis))
        taken.append(array)
    return taken


def _inputs(method: MethodSpec) -> list[TensorSpec]:
    return [leaf for argument in method.arguments for leaf in leaves(argument.spec)]


def _fill(method: MethodSpec, rows: int, make: Make) -> list[Array]:
    made = []
    for leaf in _inputs(method):
        shape = _shape(method, leaf, rows)
        made.append(_ragged(leaf, shape, make) if leaf.ragged_rank else make(leaf, shape))
    return made


def _ragged(leaf: TensorSpec, shape: tuple[int, ...], make: Make) -> Array:
    """Return rows of one, two, three, one, ... elements."""
    inner = shape[leaf.ragged_rank + 1 :]
    rows: Any = [make(leaf, (1 + index % 3, *inner)) for index in range(shape[0])]
    for _ in range(leaf.ragged_rank - 1):
        rows = [rows_array([row]) for row in rows]
    return rows_array(rows)


def _shape(method: MethodSpec, leaf: TensorSpec, rows: int) -> tuple[int, ...]:
    if leaf.dtype == ANY:
        raise InvalidInput(f"input {leaf.name!r} takes any value; no input can be made up")
    if leaf.shape is None:
        raise InvalidInput(f"input {leaf.name!r} takes {shape_text(None)}; no input can be made up")
    shape = [1 if size is None else size for size in leaf.shape]
    for padding in method.padding:
        if padding.input == leaf.name:
            shape[padding.axis] = bucket(padding, 1)
    axis = row_axis(method, leaf)
    if axis is not None:
        shape[axis] = rows
    return tuple(shape)


def _zeros(leaf: TensorSpec, shape: tuple[int, ...]) -> Array:
    return (
        np.full(shape, b"", object) if leaf.dtype == STRING else np.zeros(shape, DTYPES[leaf.dtype])
    )


def _random(random: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == STRING:
        return _texts(random, list(TEXTS), shape)
    kind = DTYPES[dtype].kind
    if kind == "c":
        return (random.random(shape) + 1j * random.random(shape)).astype(DTYPES[dtype])
    if kind == "f" or DTYPES[dtype] == BFLOAT16:
        return random.random(shape).astype(DTYPES[dtype])
    return random.integers(0, 2, shape).astype(DTYPES[dtype])


def _vary(random: np.random.Generator, array: Array) -> Array:
    kind = array.dtype.kind
    if kind == "O" and array.size and isinstance(array.flat[0], np.ndarray):
        return rows_array([_vary(random, row) for row in array])
    if kind in "OSU":
        return _texts(random, array.reshape(-1).tolist(), array.shape)
    if kind == "b":
        return random.integers(0, 2, array.shape).astype(bool)
    moved = np.multiply(array, random.random(array.shape))
    return (np.rint(moved) if kind in "iu" else moved).astype(array.dtype)


def _texts(random: np.random.Generator, texts: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(int(np.prod(shape)), object)
    array[:] = [texts[index] for index in random.integers(0, len(texts), array.size)]
    return array.reshape(shape)
