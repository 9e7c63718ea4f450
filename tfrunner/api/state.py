"""What all connections of one api process share: its bounds, its end, its counters."""

from __future__ import annotations

from collections.abc import Callable

from uvicorn.server import ServerState

from tfrunner.api.failures import FailureLog
from tfrunner.api.replies import RequestIds
from tfrunner.config import Bounds
from tfrunner.errors import Overloaded

RETRY_SECONDS = 1.0
"""After which a refused caller may try again: connections and bodies come and go quickly."""


class Held:
    """Bytes of bodies that are not whole yet, of all requests of the process.

    Args:
        limit: Most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0

    def __repr__(self) -> str:
        return f"<Held [{self.size} of {self.limit} bytes]>"

    def add(self, size: int) -> None:
        """Hold more.

        Raises:
            Overloaded: It would be too much; nothing was added.
        """
        if self.size + size > self.limit:
            raise Overloaded(
                f"the bodies that are being received hold {self.size} bytes, and at most "
                f"{self.limit} are held. Try again, send less at a time, or raise the server's "
                "--buffer-limit.",
                retry_after=RETRY_SECONDS,
            )
        self.size += size

    def remove(self, size: int) -> None:
        """Hold less."""
        self.size -= size


class ProcessState(ServerState):
    """What the connections of one api process share, beside what uvicorn keeps for them.

    Args:
        bounds: What the connections may use.
        count: Adds one to a counter of the front desk: name, label.
    """

    def __init__(self, bounds: Bounds, *, count: Callable[[str, str], None]) -> None:
        super().__init__()
        self.bounds = bounds
        self.count = count
        self.ids = RequestIds()
        self.held = Held(bounds.buffer_limit)
        self.failures = FailureLog()
        self.is_draining = False
        """Whether the process ends: set by the first signal, read by every answer."""

    def __repr__(self) -> str:
        ending = " | draining" if self.is_draining else ""
        return f"<ProcessState [{len(self.connections)} connections | {self.held!r}{ending}]>"
