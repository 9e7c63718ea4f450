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
        self._released: dict[bytes, list[int]] = {}
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

    def release(self, gateway: bytes, request: int) -> None:
        """Tell that no worker holds a request any more that lies in shared memory."""
        self._released.setdefault(gateway, []).append(request)

    def note(self, text: str) -> None:
        """Leave a line for the log, which the shell writes."""
        self.notes.append(text)

    def take(self) -> list[Send]:
        """Return everything, and start anew.

        Failures go first: a gateway reads once more what a refused request has in shared memory.
        """
        sends = self._sends
        sends += [Send(FRONTEND, g, Failures(tuple(f))) for g, f in self._failures.items()]
        for gateway in self._released:
            self._blocks.setdefault(gateway, [])
        sends += [
            Send(FRONTEND, gateway, Results(tuple(blocks), tuple(self._released.get(gateway, ()))))
            for gateway, blocks in self._blocks.items()
        ]
        self._sends, self._blocks, self._failures, self._released = [], {}, {}, {}
        return sends
