"""What all connections of one api process share: its bounds, its end, its counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.server import ServerState

from tfrunner.api.failures import FailureLog
from tfrunner.api.heads import Heads
from tfrunner.api.replies import RequestIds
from tfrunner.config import Bounds
from tfrunner.errors import Overloaded

if TYPE_CHECKING:
    from tfrunner.api.guard import Guard
    from tfrunner.api.predict import Predict

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
        self.heads = Heads()
        self.direct: Predict | None = None
        """Answers predict requests without ASGI; None: there may be middleware around it."""
        self.guard: Guard | None = None
        """What every request passes; None: nothing is to be checked or noted."""
        self._lines = b""
        self._first_lines: dict[bytes, bytes] = {}
        self._lines_of: list[tuple[bytes, bytes]] | None = None
        self.is_draining = False
        """Whether the process ends: set by the first signal, read by every answer."""

    def __repr__(self) -> str:
        ending = " | draining" if self.is_draining else ""
        return f"<ProcessState [{len(self.connections)} connections | {self.held!r}{ending}]>"

    def default_lines(self) -> bytes:
        """Return the header lines that every answer has; uvicorn has new ones every second."""
        if self._lines_of is not self.default_headers:
            self._lines_of = self.default_headers
            self._lines = b"".join(b"%s: %s\r\n" % header for header in self.default_headers)
            self._first_lines = {}
        return self._lines

    def first_lines(self, content_type: bytes) -> bytes:
        """Return how every good answer of a form begins, up to the number of its bytes."""
        default = self.default_lines()
        lines = self._first_lines.get(content_type)
        if lines is None:
            lines = b"HTTP/1.1 200 OK\r\n%scontent-type: %s\r\ncontent-length: "
            lines = self._first_lines[content_type] = lines % (default, content_type)
        return lines
