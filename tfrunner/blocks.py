"""What comes back for a batch: the layout of a block, and whose rows are whose in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tfrunner.errors import ProtocolError
from tfrunner.protocol import Block, Span
from tfrunner.row_ranges import indexes
from tfrunner.specs import Node, leaves
from tfrunner.tensors import REMEMBERED_BYTES, Layout, batch_axis, decode_layout


class ResultForm(NamedTuple):
    """What the layout of a block says; `axes` counts rows for each output, None if it does not."""

    layout: Layout
    structure: Node
    axes: tuple[int | None, ...]
    is_plain: bool  # every output counts its rows on axis 0


def result_form(data: bytes) -> ResultForm:
    """Return what the layout of a block says.

    Raises:
        ProtocolError: It is no layout of a result.
    """
    return _read_form(data) if len(data) > REMEMBERED_BYTES else _read_again(data)


def _read_form(data: bytes) -> ResultForm:
    layout = decode_layout(data)
    structure = layout.structure
    if structure is None or sum(1 for _ in leaves(structure)) != len(layout.leaves):
        raise ProtocolError("the layout of a result has no structure that fits its tensors")
    axes = tuple(batch_axis(leaf) for leaf in layout.leaves)
    return ResultForm(layout, structure, axes, all(axis == 0 for axis in axes))


_read_again = functools.lru_cache(maxsize=4096)(_read_form)


def apart(block: Block) -> list[Block]:
    """Return a block for each span of a block.

    Raises:
        ProtocolError: Its rows cannot be told apart.
    """
    form = result_form(block.layout)
    rows = check_spans(block.spans, form)
    if len(block.spans) < 2 or not form.is_plain:
        raise ProtocolError("it is the answer of one request")
    found, blocks, start = indexes(form.layout, block.bodies, rows), [], 0
    for span in block.spans:
        stop = start + span.stop - span.start
        bodies = [
            index.cut(body, start, stop) for index, body in zip(found, block.bodies, strict=True)
        ]
        blocks.append(msgspec.structs.replace(block, spans=(span,), bodies=tuple(bodies)))
        start = stop
    return blocks


def check_spans(spans: Sequence[Span], form: ResultForm) -> int:
    """Check that the spans of a block can be told apart; return how many rows they have.

    Raises:
        ProtocolError: A span is empty or ends beyond its request, or an output that does
            not count rows would go to several requests.
    """
    rows = 0
    for span in spans:
        start, stop = span.start, span.stop
        rows += stop - start
        if not (start < stop <= span.rows or span.rows == stop == 0):
            raise ProtocolError(f"rows {start} to {stop} of {span.rows} are no range")
    is_whole = len(spans) == 1 and spans[0].stop - spans[0].start == spans[0].rows
    if not (is_whole or form.is_plain) and None in form.axes:
        raise ProtocolError("an output without rows was shared out among several requests")
    return rows
