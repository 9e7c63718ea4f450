"""What a process that was forked makes anew: locks, threads and connections are its parent's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OfProcess(Generic[T]):
    """One value for each process that uses it, made with its first use there.

    Those of a process's parents are kept, and neither used nor closed: a lock may be held by a
    thread that does not exist here, and a connection is shared with the parent.

    Args:
        make: Makes a value; called twice at most where threads meet, and one of them counts.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's value; safe to call from any thread."""
        process = os.getpid()
        value = self._values.get(process)
        if value is None:
            value = self._values.setdefault(process, self._make())
        return value
