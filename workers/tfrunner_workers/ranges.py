"""Parts that are rows of a larger request: of each only its own rows are read.

A request larger than the bound is run in many parts, and each part comes with the bodies of the
whole request. Where rows have lengths of their own, the first part's worker finds where they
begin; the next parts use that again.
"""

from __future__ import annotations

from tfrunner.protocol import Part, PartsOf, RunBatch
from tfrunner.row_ranges import Index, can_cut, has_lengths, indexes
from tfrunner.tensors import Layout

KEPT = 8
"""Requests of which the worker remembers where their rows begin."""


class Ranges:
    """Where the rows of the requests begin that are being run in parts."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], tuple[list[int], tuple[Index, ...]]] = {}

    def __repr__(self) -> str:
        return f"<Ranges [{len(self._known)} requests]>"

    def narrow(self, batch: RunBatch, layout: Layout) -> RunBatch:
        """Return the batch with the bodies of each part cut to its rows, where that is of use.

        Rows of numbers are left: `assembly` finds them without an index.

        Args:
            batch: Every body in place.
            layout: Its layout, decoded.

        Raises:
            ProtocolError: Rows, ranges or bodies contradict each other.
        """
        if not has_lengths(layout) or not can_cut(layout):
            return batch
        groups = tuple([self._narrow_group(group, layout) for group in batch.groups])
        return RunBatch(batch.batch, batch.attempt, batch.method, batch.layout, batch.rows, groups)

    def _narrow_group(self, group: PartsOf, layout: Layout) -> PartsOf:
        parts = tuple(
            [
                self._narrow_part(group.gateway, part, layout)
                if 0 <= part.start <= part.stop <= part.rows != part.stop - part.start
                else part
                for part in group.parts
            ]
        )
        return PartsOf(group.gateway, parts)

    def _narrow_part(self, gateway: bytes, part: Part, layout: Layout) -> Part:
        found = self._find(gateway, part, layout)
        bodies = tuple(
            [
                index.cut(body, part.start, part.stop)
                for index, body in zip(found, part.bodies, strict=True)
            ]
        )
        rows = part.stop - part.start
        return Part(part.request, 0, rows, rows, bodies)

    def _find(self, gateway: bytes, part: Part, layout: Layout) -> tuple[Index, ...]:
        """Return the indexes of a request; numbers of requests are unique in a gateway's life."""
        key, sizes = (gateway, part.request), [part.rows, *map(len, part.bodies)]
        known = self._known.pop(key, None)
        if known is None or known[0] != sizes:
            known = sizes, indexes(layout, part.bodies, part.rows)
        if part.stop < part.rows:  # more of it will come
            self._known[key] = known
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return known[1]
