"""Whether the other end of a link is there, judged by the answers to our Hellos. Told `now`."""

from __future__ import annotations

from tfrunner.protocol import HELLO_SECONDS

LOST_SECONDS = 2.0
"""So long after its last Welcome a dispatcher counts as gone."""

STALE_SECONDS = 10.0
"""So long after its last Hello a peer says another one before it sends anything else."""


class Liveness:
    """The dispatcher, as one of its peers sees it.

    Silence is counted from the oldest Hello without an answer, not from the last Welcome:
    a peer whose own event loop stood still for seconds has asked nothing meanwhile.
    """

    def __init__(self) -> None:
        self.is_connected = False
        self._unanswered: float | None = None
        self._asked = 0.0

    def asked(self, now: float) -> None:
        """Note that a Hello was sent."""
        self._asked = now
        if self._unanswered is None:
            self._unanswered = now

    def heard(self) -> None:
        """Note that a Welcome came."""
        self.is_connected = True
        self._unanswered = None

    def becomes_lost(self, now: float) -> bool:
        """Return True once, when a dispatcher that was there has been silent for too long."""
        if self.is_connected and self._silent_until() <= now:
            self.is_connected = False
            return True
        return False

    @property
    def is_asking(self) -> bool:
        """Whether a Hello is unanswered."""
        return self._unanswered is not None

    def hello_is_due(self, now: float) -> bool:
        """Return whether to say Hello, at a beat.

        ZeroMQ keeps what cannot leave: where nobody has answered yet, a second Hello is of no
        use before the first one can count as lost.
        """
        if self.is_connected or self._unanswered is None:
            return True
        return now >= self._unanswered + LOST_SECONDS

    def is_stale(self, now: float) -> bool:
        """Whether our last Hello is so old that a dispatcher may have forgotten us."""
        return self.is_connected and now > self._asked + STALE_SECONDS

    def forget(self) -> None:
        """Note that the Hellos so far will not be answered: their connection was given up."""
        self._unanswered = None

    def next_beat(self, now: float) -> float:
        """Return when to look again and to send the next Hello."""
        regular = now + HELLO_SECONDS
        return min(regular, self._silent_until()) if self.is_connected else regular

    def _silent_until(self) -> float:
        """Return when the present silence counts as a loss; one Hello interval is allowed for."""
        if self._unanswered is None:
            return float("inf")
        return self._unanswered + LOST_SECONDS - HELLO_SECONDS

    def __repr__(self) -> str:
        return f"<Liveness [{'connected' if self.is_connected else 'not connected'}]>"
