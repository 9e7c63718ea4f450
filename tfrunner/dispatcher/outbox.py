"""What one step of the core sends: one message of a kind for each gateway."""

from __future__ import annotations

from typing import NamedTuple

from tfrunner.protocol import Block, Failure, Failures, Message, Results

FRONTEND = "frontend"
BACKEND = "backend"


class Send(NamedTuple):
    """A message to perform: through which socket, to whom."""

    link: str
    peer: bytes
    message: Message


class PeerGone(NamedTuple):
    """Not from a wire: the shell could not send to this peer, it is gone."""

    link: str


class Outbox:
    """Collects sends; answers of one step travel together."""

    def __init__(self) -> None:
        self._sends: list[Send] = []
        self._blocks: dict[bytes, list[Block]] = {}
        self._failures: dict[bytes, list[Failure]] = {}
        self.notes: list[str] = []

    def to_frontend(self, gateway: bytes, message: Message) -> None:
        """Send to a gateway."""
        self._sends.append(Send(FRONTEND, gateway, message))

    def to_backend(self, peer: bytes, message: Message) -> None:
        """Send to a worker or the supervisor."""
        self._sends.append(Send(BACKEND, peer, message))

    def answer(self, gateway: bytes, block: Block) -> None:
        """Forward a block of outputs."""
        self._blocks.setdefault(gateway, []).append(block)

    def fail(self, gateway: bytes, failure: Failure) -> None:
        """Tell why a request fails."""
        self._failures.setdefault(gateway, []).append(failure)

    def note(self, text: str) -> None:
        """Leave a line for the log, which the shell writes."""
        self.notes.append(text)

    def take(self) -> list[Send]:
        """Return everything, and start anew."""
        sends = self._sends
        sends += [Send(FRONTEND, g, Results(tuple(b))) for g, b in self._blocks.items()]
        sends += [Send(FRONTEND, g, Failures(tuple(f))) for g, f in self._failures.items()]
        self._sends, self._blocks, self._failures = [], {}, {}
        return sends
