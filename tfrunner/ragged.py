"""Ragged tensors as NumPy knows them: arrays of rows, each row an array of its own.

A ragged tensor of `rows` rows is an object array of shape (rows,); with a ragged rank above 1
its items are such arrays again. Rows are cut and put together as those of any array. A body
holds, for each ragged axis, the lengths of its rows (int64, little-endian), then the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.specs import TensorSpec, shape_text

Array = NDArray[np.generic]
LENGTH = np.dtype("<i8")


def rows_array(rows: Sequence[Any]) -> Array:
    """Return an object array that holds these rows, whatever their lengths."""
    array: Array = np.fromiter(rows, dtype=object, count=len(rows))
    return array


def flatten(array: Array, ragged_rank: int) -> tuple[list[Array], list[NDArray[np.int64]]]:
    """Return the innermost rows of a ragged array, and the lengths on each ragged axis."""
    rows, lengths = list(array), []
    for _ in range(ragged_rank - 1):
        lengths.append(_lengths(rows))
        rows = [inner for row in rows for inner in row]
    lengths.append(_lengths(rows))
    return rows, lengths


def nest(values: Array, lengths: Sequence[NDArray[np.int64]]) -> Array:
    """Return the ragged array of flat values; its rows are views of them.

    Args:
        values: All innermost elements, shape (sum of the last lengths, ...).
        lengths: Lengths of rows on each ragged axis, the outermost first.

    Raises:
        ProtocolError: Lengths and values contradict each other.
    """
    rows: Any = values
    for sizes in reversed(lengths):
        if (sizes < 0).any() or int(sizes.sum()) != len(rows):
            raise ProtocolError(f"row lengths of {int(sizes.sum())} in all for {len(rows)} items")
        stops = np.cumsum(sizes)
        spans = zip((stops - sizes).tolist(), stops.tolist(), strict=True)
        rows = rows_array([rows[start:stop] for start, stop in spans])
    array: Array = rows
    return array


def join(rows: Sequence[Array], dtype: np.dtype[Any], inner: tuple[int, ...]) -> Array:
    """Return innermost rows one after another; `inner` is the shape of one element."""
    if rows:
        return np.concatenate(rows)
    return np.empty((0, *inner), dtype)


def to_body(array: Array, ragged_rank: int, write: Callable[[Array], Any]) -> bytes:
    """Return the body of a ragged array; `write` gives the bytes of a dense one."""
    rows, lengths = flatten(array, ragged_rank)
    heads = [sizes.astype(LENGTH, copy=False).tobytes() for sizes in lengths]
    return b"".join([*heads, bytes(write(np.concatenate(rows))) if rows else b""])


def from_body(body: Any, rows: int, ragged_rank: int, read: Callable[[Any, int], Array]) -> Array:
    """Return the ragged array of a body.

    Args:
        body: What `to_body` made.
        rows: How many rows it has.
        ragged_rank: How many axes are ragged.
        read: Gives the dense array of that many elements.

    Raises:
        ProtocolError: The body is cut short, or contradicts itself.
    """
    view, lengths, count = memoryview(body), [], rows
    for _ in range(ragged_rank):
        head = view[: count * LENGTH.itemsize]
        if len(head) != count * LENGTH.itemsize:
            raise ProtocolError(f"a ragged body of {len(view)} bytes is cut short")
        sizes: NDArray[np.int64] = np.frombuffer(head, LENGTH)
        lengths.append(sizes)
        view, count = view[len(head) :], int(sizes.sum())
        if (sizes < 0).any():
            raise ProtocolError("a ragged body has a row of negative length")
    return nest(read(view, count), lengths)


def to_rows(
    value: Any, spec: TensorSpec, at: str, cast: Callable[[Any, TensorSpec, str], Array]
) -> Array:
    """Return a caller's value as a ragged array.

    Args:
        value: Nested lists, an array of arrays, a dense array, or a RaggedTensor.
        spec: What is expected.
        at: The input's name, for messages.
        cast: Gives a dense array of a row's dtype and shape, or raises InvalidInput.

    Raises:
        InvalidInput: It is not nested as deep as the specification says, or a row does not fit.
    """
    if hasattr(value, "to_list") and hasattr(value, "row_splits"):  # a RaggedTensor
        value = value.to_list()
    elif hasattr(value, "numpy"):
        value = value.numpy()
    shape = spec.shape or (None,) * (spec.ragged_rank + 1)
    inner = shape[spec.ragged_rank :]
    row = TensorSpec(spec.name, spec.dtype, inner)

    def make(row_value: Any, where: str) -> Array:
        if isinstance(row_value, (list, tuple)) and not row_value:  # it has no inner axes to see
            empty = cast([], TensorSpec(row.name, row.dtype, (0,)), where)
            return empty.reshape((0, *(size or 0 for size in inner[1:])))
        return cast(row_value, row, where)

    return _rows(value, spec, at, depth=spec.ragged_rank, make=make)


def _rows(
    value: Any, spec: TensorSpec, at: str, *, depth: int, make: Callable[[Any, str], Array]
) -> Array:
    if depth == 0:
        return make(value, at)
    if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim):
        raise InvalidInput(
            f"input {at!r} is a {type(value).__name__}; expected rows: {spec.dtype} "
            f"{shape_text(spec.shape)}, {spec.ragged_rank} ragged."
        )
    items = [
        _rows(item, spec, f"{at}[{index}]", depth=depth - 1, make=make)
        for index, item in enumerate(value)
    ]
    return rows_array(items)


def to_lists(array: Array, write: Callable[[Array], Any], ragged_rank: int) -> Any:
    """Return a ragged array as nested lists of what `write` makes of the innermost rows."""
    if ragged_rank == 0:
        return write(array)
    return [to_lists(row, write, ragged_rank - 1) for row in array]


def _lengths(rows: Iterable[Any]) -> NDArray[np.int64]:
    return np.asarray([len(row) for row in rows], dtype=LENGTH)
