"""Which parts of a segment are free. Pure: no memory, no process, no clock."""

from __future__ import annotations

from bisect import bisect_left

GRAIN = 4096
"""Bytes, a page: slots begin and end at multiples of it, so no two share a line of a cache, and
TensorFlow, which copies what is not aligned to 64 bytes, takes them as they are."""


class Slots:
    """The free ranges of so many bytes.

    First fit (D. E. Knuth, The Art of Computer Programming 1, 2.5): the lowest range that is
    large enough. What is in use stays low, so few pages are ever touched, and those again and
    again: the first write to a page costs ten times as much as the next ones.

    Args:
        size: Bytes; a multiple of GRAIN.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._starts = [0]  # of the free ranges, rising; no two of them touch
        self._stops = [size]
        self._taken: dict[int, int] = {}  # offset -> stop

    def take(self, length: int) -> int | None:
        """Return the offset of a slot of at least `length` bytes, None if there is no room."""
        needed = max(GRAIN, -(-length // GRAIN) * GRAIN)
        for index, start in enumerate(self._starts):
            stop = start + needed
            if stop <= self._stops[index]:
                self._taken[start] = stop
                if stop == self._stops[index]:
                    del self._starts[index], self._stops[index]
                else:
                    self._starts[index] = stop
                return start
        return None

    def give_back(self, offset: int) -> None:
        """Free a slot.

        Raises:
            KeyError: Nothing was taken there.
        """
        start, stop = offset, self._taken.pop(offset)
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == stop:
            stop = self._stops[index]
            del self._starts[index], self._stops[index]
        if index and self._stops[index - 1] == start:
            self._stops[index - 1] = stop
        else:
            self._starts.insert(index, start)
            self._stops.insert(index, stop)

    @property
    def top(self) -> int:
        """Where the last slot ends: nothing behind it is taken."""
        if self._stops and self._stops[-1] == self.size:
            return self._starts[-1]
        return self.size

    @property
    def used(self) -> int:
        """How many bytes are taken."""
        return sum(stop - start for start, stop in self._taken.items())

    @property
    def free(self) -> list[tuple[int, int]]:
        """The free ranges, rising: (start, stop)."""
        return list(zip(self._starts, self._stops, strict=True))

    def __repr__(self) -> str:
        return f"<Slots [{len(self._taken)} taken | {self.used} of {self.size} bytes]>"
