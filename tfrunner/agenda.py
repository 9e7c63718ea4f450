"""What an event loop for threads has to do, and what its driver sleeps on. No thread, no lock."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import select
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

LONGEST_SECONDS = 3600.0
FOREVER = float("inf")


class Alarm:
    """A callback that is due at some moment."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class Agenda:
    """Callbacks that wait for their turn; offers what `turns.Turns` names.

    Args:
        wake_by: Told each moment at which a turn has become due.
    """

    def __init__(self, wake_by: Callable[[float], None]) -> None:
        self.version = 0  # of the descriptors
        self._wake_by = wake_by
        self._readers: dict[int, Callable[[], Any]] = {}
        self._soon: deque[Callable[[], Any]] = deque()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Agenda [{len(self._soon)} soon | {len(self._alarms)} later]>"

    def call_soon(self, callback: Callable[[], Any], /) -> None:
        """Call back in the next turn."""
        self._soon.append(callback)
        self._wake_by(0.0)

    def call_later(self, delay: float, callback: Callable[[], Any], /) -> Alarm:
        """Call back after so many seconds."""
        alarm = Alarm(callback)
        moment = monotonic() + delay
        heapq.heappush(self._alarms, (moment, next(self._numbers), alarm))
        self._wake_by(moment)
        return alarm

    def add_reader(self, fd: int, callback: Callable[[], Any], /) -> None:
        """Call back whenever a descriptor can be read."""
        self._readers[fd] = callback
        self.version += 1
        self._wake_by(0.0)

    def remove_reader(self, fd: int, /) -> None:
        """Watch the descriptor no more."""
        self._readers.pop(fd, None)
        self.version += 1

    @property
    def descriptors(self) -> list[int]:
        """What is watched."""
        return list(self._readers)

    def next(self) -> float:
        """Return the moment at which the next turn is due."""
        if self._soon:
            return 0.0
        while self._alarms and self._alarms[0][2].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else FOREVER

    def take_turn(self, readable: list[int]) -> None:
        """Call back what is due.

        Args:
            readable: Descriptors that can be read.
        """
        for descriptor in readable:
            if descriptor in self._readers:
                self._readers[descriptor]()
        while self._soon:
            self._soon.popleft()()
        if not self._alarms or self._alarms[0][0] > (now := monotonic()):
            return
        while self._alarms and self._alarms[0][0] <= now:
            callback = heapq.heappop(self._alarms)[2].callback
            if callback is not None:
                callback()

    def clear(self) -> None:
        """Forget everything."""
        self._soon.clear()
        self._alarms.clear()
        self._readers.clear()
        self.version += 1


class Seat:
    """Where a thread that drives sleeps.

    Attributes:
        thread: The number of the thread, 0 for none.
        version: Of the descriptors that are watched.
    """

    def __init__(self) -> None:
        self.thread = 0
        self.version = -1
        self._readable: list[int] = []
        self._is_rung = False
        self._ends: tuple[int, ...] = ()
        self._poll = select.poll()

    def open(self) -> None:
        """Make the bell."""
        self._ends = os.pipe()

    def close(self) -> None:
        """Close the bell."""
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)

    def watch(self, descriptors: list[int], version: int) -> None:
        """Watch these descriptors from now on."""
        self.version = version
        self._poll = select.poll()
        for each in (self._ends[0], *descriptors):
            self._poll.register(each, select.POLLIN)

    def begin(self, thread: int) -> None:
        """Note who sits here now; an interrupted one may have left the bell as it was."""
        self.thread = thread
        self._readable = []
        self._is_rung = False

    def ring(self) -> None:
        """Wake who sleeps here."""
        if self._ends and not self._is_rung:
            self._is_rung = True
            os.write(self._ends[1], b"\0")

    def sleep(self, until: float) -> None:
        """Sleep until a moment, the bell, or something to read; see `take_readable`."""
        seconds = min(until - monotonic(), LONGEST_SECONDS)
        timeout = max(0, math.ceil(seconds * 1000))
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout)]
        if self._ends[0] in ready:
            ready.remove(self._ends[0])
            os.read(self._ends[0], 64)
            self._is_rung = False
        self._readable = ready

    def take_readable(self) -> list[int]:
        """Return the descriptors that the last sleep found readable."""
        found, self._readable = self._readable, []
        return found
