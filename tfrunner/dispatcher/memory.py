"""Batches for which a device's memory was too small, and what follows for the worker's limit."""

from __future__ import annotations

from collections.abc import Iterator

from tfrunner.dispatcher.workers import Worker


class Shortage:
    """A batch for which memory was too small, while its rows run again in smaller ones.

    One request may need more memory than there is, however small its batch: only if all rows
    ran in smaller batches, so many rows were too many.

    Args:
        worker: Whose memory it was.
        method: The method that it ran.
        rows: Its rows.
        within: The larger batch that it was a part of, if that did not fit either.

    Attributes:
        left: Rows that have not run since.
    """

    __slots__ = ("left", "method", "rows", "within", "worker")

    def __init__(self, worker: Worker, method: str, rows: int, within: Shortage | None) -> None:
        self.worker = worker
        self.method = method
        self.rows = rows
        self.within = within
        self.left = rows

    @property
    def fits(self) -> int:
        """The rows of the batches in which it is run again."""
        return (self.rows + 1) // 2

    def ran(self, rows: int) -> Iterator[Shortage]:
        """Count rows that ran; yield the batches of which all have run by now."""
        shortage: Shortage | None = self
        while shortage is not None:
            shortage.left -= rows
            if shortage.left <= 0:
                yield shortage
            shortage = shortage.within

    def __repr__(self) -> str:
        return f"<Shortage {self.worker.name} {self.method} [{self.left} of {self.rows} rows left]>"
