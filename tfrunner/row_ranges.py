"""Which bytes of a body belong to which rows: a range of them is cut out, the rest never read.

Rows of numbers lie one after the other. Text, plain values and ragged rows have lengths of
their own: where each begins is found once, in an *index*; then a range costs what it holds.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfrunner.errors import ProtocolError
from tfrunner.protocol import Buffer
from tfrunner.ragged import LENGTH
from tfrunner.tensors import DTYPES, Layout, Leaf, batch_axis

_SIZE = struct.Struct("<I")


class Level(NamedTuple):
    """A ragged axis: where its lengths lie in the body, and at which item each row begins."""

    at: int
    starts: NDArray[np.int64]


class Index(NamedTuple):
    """Where the rows of a body begin.

    Args:
        levels: Its ragged axes, the outermost first.
        at: Where the values begin, in bytes.
        stride: Bytes of an item of the innermost axis; None where each has its own.
        starts: Where each of those items begins, in bytes, and where the last one ends.
    """

    levels: tuple[Level, ...]
    at: int
    stride: int | None
    starts: NDArray[np.int64] | None

    def cut(self, body: Buffer, start: int, stop: int) -> Buffer:
        """Return the body of the rows `start` to `stop`; a view unless it is ragged."""
        view, pieces = memoryview(body), []
        for at, starts in self.levels:
            pieces.append(view[at + LENGTH.itemsize * start : at + LENGTH.itemsize * stop])
            start, stop = int(starts[start]), int(starts[stop])
        if self.stride is not None:
            start, stop = self.at + self.stride * start, self.at + self.stride * stop
        elif self.starts is not None:
            start, stop = int(self.starts[start]), int(self.starts[stop])
        pieces.append(view[start:stop])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def can_cut(layout: Layout) -> bool:
    """Return whether rows can be cut out of every body: its first axis counts them."""
    axes = [batch_axis(leaf) for leaf in layout.leaves if leaf.value is None]
    return bool(axes) and all(axis == 0 for axis in axes)


def has_lengths(layout: Layout) -> bool:
    """Return whether rows of any tensor have lengths of their own, so that an index costs."""
    return any([leaf.ragged_rank or DTYPES[leaf.dtype].hasobject for leaf in layout.leaves])


def indexes(layout: Layout, bodies: tuple[Buffer, ...], rows: int) -> tuple[Index, ...]:
    """Return the index of each body of a request.

    Raises:
        ProtocolError: A body contradicts its leaf, or there are more or fewer.
    """
    open_leaves = [leaf for leaf in layout.leaves if leaf.value is None]
    if len(open_leaves) != len(bodies):
        raise ProtocolError(f"a request has {len(bodies)} bodies, its layout {len(open_leaves)}")
    return tuple(
        [index_of(leaf, body, rows) for leaf, body in zip(open_leaves, bodies, strict=True)]
    )


def index_of(leaf: Leaf, body: Buffer, rows: int) -> Index:
    """Return the index of one body.

    Args:
        leaf: Its tensor; the first axis counts rows.
        body: As `tensors.to_body` gives it.
        rows: How many it has.

    Raises:
        ProtocolError: The body contradicts that.
    """
    levels, at, count = [], 0, rows
    for _ in range(leaf.ragged_rank):
        starts = _items(memoryview(body)[at : at + LENGTH.itemsize * count], count)
        levels.append(Level(at, starts))
        at, count = at + LENGTH.itemsize * count, int(starts[-1])
    each = math.prod([size or 0 for size in leaf.shape[1:]])
    if DTYPES[leaf.dtype].hasobject and each:
        return Index(tuple(levels), at, None, _elements(body, at, count * each)[::each])
    stride = each * DTYPES[leaf.dtype].itemsize
    if len(body) - at != count * stride:
        raise ProtocolError(f"a body has {len(body) - at} bytes for {count} rows of {stride}")
    return Index(tuple(levels), at, stride, None)


def _items(head: memoryview, count: int) -> NDArray[np.int64]:
    """Return at which item each of `count` ragged rows begins, and where the last one ends."""
    if len(head) != LENGTH.itemsize * count:
        raise ProtocolError("a ragged body is cut short")
    lengths: NDArray[np.int64] = np.frombuffer(head, LENGTH)
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    if (np.diff(starts) != lengths).any() or (lengths < 0).any():
        raise ProtocolError("a ragged body has a row of negative length")
    return starts


def _elements(body: Buffer, at: int, count: int) -> NDArray[np.int64]:
    """Return where each element behind its length begins, and where the last one ends."""
    starts, length, read = [at], len(body), _SIZE.unpack_from
    while at + _SIZE.size <= length:
        at += _SIZE.size + read(body, at)[0]
        starts.append(at)
    if at != length or len(starts) != count + 1:
        raise ProtocolError(f"a body of {length} bytes does not hold {count} elements")
    found: NDArray[Any] = np.array(starts, np.int64)
    return found
