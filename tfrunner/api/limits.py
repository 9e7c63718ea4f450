"""What one API key may use at a time, and has used. Pure: callers pass `now`.

With several api processes each grants its part of the limits, so that together they grant no
more than was asked for; a part of what may be in flight is one request at least.
"""

from __future__ import annotations

import math

from tfrunner.errors import RateLimited

RETRY_SECONDS = 1.0
"""After which a caller may try again that has too many requests in flight."""


class Usage:
    """What one key has used, in this process.

    The rate is a token bucket of one second, and of one request at least.

    Args:
        name: The key's.
    """

    __slots__ = ("_burst", "_filled_at", "_in_flight_limit", "_rate", "_tokens", "in_flight",
                 "name")  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        self._rate: float | None = None
        self._burst = 0.0
        self._tokens = math.inf
        self._filled_at = -math.inf
        self._in_flight_limit: int | None = None

    def __repr__(self) -> str:
        return f"<Usage {self.name} [{self.in_flight} in flight]>"

    def limit(self, *, rate: float | None, in_flight: int | None, processes: int) -> None:
        """Set the key's limits; what is in use stays so.

        Args:
            rate: Requests a second, of all processes; None: any number.
            in_flight: Requests at a time, of all processes; None: any number.
            processes: How many share them.
        """
        self._rate = None if rate is None else rate / processes
        self._burst = 0.0 if self._rate is None else max(1.0, self._rate)
        self._tokens = min(self._tokens, self._burst) if self._rate is not None else math.inf
        self._in_flight_limit = None if in_flight is None else max(1, in_flight // processes)

    def enter(self, now: float) -> None:
        """Take note of a request that begins; `leave` follows once.

        Args:
            now: Monotonic moment.

        Raises:
            RateLimited: It is one too many; nothing was noted.
        """
        if self._in_flight_limit is not None and self.in_flight >= self._in_flight_limit:
            raise RateLimited(
                f"the API key {self.name!r} has {self.in_flight} requests in flight, and may have "
                "no more. Wait for their answers.",
                retry_after=RETRY_SECONDS,
            )
        if self._rate is not None:
            passed = max(0.0, now - self._filled_at)
            self._tokens = min(self._burst, self._tokens + passed * self._rate)
            self._filled_at = now
            if self._tokens < 1.0:
                raise RateLimited(
                    f"the API key {self.name!r} has sent more than it may in a second. "
                    "Send fewer requests.",
                    retry_after=(1.0 - self._tokens) / self._rate,
                )
            self._tokens -= 1.0
        self.in_flight += 1

    def leave(self) -> None:
        """Take note that a request is answered, or given up."""
        self.in_flight -= 1
