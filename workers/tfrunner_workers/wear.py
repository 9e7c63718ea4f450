"""When a worker has served long enough: so many answers, or so much memory."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import psutil

logger = logging.getLogger("tfrunner.worker")

MEGABYTE = 10**6
LOOK_SECONDS = 1.0
JITTER = 0.1
"""At most this share is added to a limit, so that workers of one age do not leave together."""

DRAW = random.SystemRandom().random
"""Users may seed Python's own random numbers, and each process alike."""


def resident_memory() -> int:
    """Return the bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)


class Wear:
    """What a worker has done and grown to since it was ready. Costs an addition for each batch.

    Args:
        requests: Answers after which it is worn; 0: never.
        memory: Resident MB above which it is worn; 0: never.
        measure: Gives the resident bytes.
        jitter: Gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        *,
        requests: int = 0,
        memory: int = 0,
        measure: Callable[[], int] = resident_memory,
        jitter: Callable[[], float] = DRAW,
    ) -> None:
        share = 1 + JITTER * jitter()
        self._most_requests = int(requests * share)
        self._most_bytes = int(memory * MEGABYTE * share)
        self._measure = measure
        self._next_look = 0.0
        self._bytes = 0
        self.answered = 0

    def __repr__(self) -> str:
        return f"<Wear [{self.answered} answered | {self._bytes / MEGABYTE:.0f} MB]>"

    def begin(self) -> None:
        """Look at the memory before the first batch; a limit below it is not kept.

        Such a worker would leave as soon as it came, again and again.
        """
        if not self._most_bytes:
            return
        self._bytes = self._measure()
        if self._bytes > self._most_bytes:
            logger.warning(
                "%.0f MB are resident once the model is loaded, more than --recycle-memory "
                "allows (%.0f MB): this worker is not replaced for its memory. Set a higher limit.",
                self._bytes / MEGABYTE,
                self._most_bytes / MEGABYTE,
            )
            self._most_bytes = 0

    def look(self) -> None:
        """Look at the memory if it is time. Not for the thread that answers."""
        if self._most_bytes and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._bytes = max(self._bytes, self._measure())

    @property
    def reason(self) -> str:
        """Why it should be replaced, "" if it need not. Once worn it stays worn."""
        if self._most_requests and self.answered > self._most_requests:
            return f"it has answered {self.answered} requests"
        if self._most_bytes and self._bytes > self._most_bytes:
            return f"{self._bytes / MEGABYTE:.0f} MB are resident"
        return ""
