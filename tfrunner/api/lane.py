"""The direct way of a connection: predict requests without request cycle, task and ASGI.

A lane takes what begins with a plain predict request (heads.py says which), where uvicorn's
parser stands between two requests and has none to answer. All else goes to uvicorn, whole.

Requests that came together are submitted together, and answered in their order; reading
pauses while more than one waits, as in uvicorn.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tfrunner.api.exchange import Exchange, end_with
from tfrunner.api.predict import Predict
from tfrunner.errors import Overloaded

if TYPE_CHECKING:
    from tfrunner.api.connection import Connection
    from tfrunner.protocol import Buffer

JOINED = 64 * 2**10
"""Answers below this many bytes are joined with their heads: a copy costs less than a buffer."""

SMALL_PIECE = 16 * 2**10
"""Pieces of bodies below it are collected, so that a trickle does not hold objects by byte."""


class Lane:
    """The predict requests of one connection that do not go through ASGI.

    Args:
        connection: Whose they are.
        predict: Answers them.
    """

    __slots__ = ("_connection", "_held", "_is_last", "_is_taking", "_left", "_pieces", "_predict",
                 "_receiving", "_waiting")  # fmt: skip

    def __init__(self, connection: Connection, predict: Predict) -> None:
        self._connection = connection
        self._predict = predict
        self._waiting: deque[Exchange] = deque()
        self._receiving: Exchange | None = None
        self._pieces: list[bytes | bytearray] | None = []  # None: not wanted any more
        self._held = 0
        self._left = 0
        self._is_last = False
        self._is_taking = False

    def __repr__(self) -> str:
        return f"<Lane [{len(self._waiting)} waiting | {self._left} bytes to come]>"

    @property
    def receiving(self) -> Exchange | None:
        """The request whose body is not whole."""
        return self._receiving

    def take(self, data: bytes) -> bytes:
        """Take the predict requests that the bytes begin with; return the rest, for uvicorn."""
        self._is_taking = True
        place = self._take_body(data, 0) if self._left else 0
        while place < len(data):
            if self._is_last:
                place = len(data)
            elif not self._is_free() or (after := self._begin(data, place)) is None:
                break
            else:
                place = after
        self._is_taking = False
        if self._waiting:
            if len(self._waiting) > 1:
                self._connection.flow.pause_reading()
            if self._waiting[0].is_done:
                self.flush()
        return data[place:]

    def _is_free(self) -> bool:
        """Whether uvicorn's parser is between requests, and has none to answer."""
        connection = self._connection
        if connection.is_parsing or connection.pipeline:
            return False
        cycle = connection.cycle
        return cycle is None or isinstance(cycle, Exchange) or cycle.response_complete

    def _begin(self, data: bytes, place: int) -> int | None:
        """Take the request at a place; return where it ends, None if there is none for us.

        Not for us is also what is refused before its body is read: an unknown model, a body
        that is too large.
        """
        connection, predict = self._connection, self._predict
        found = connection.shared.heads.find(data, place)
        if found is None or found.length > predict.body_limit:
            return None
        head, start, length = found
        target = predict.look_up(head.path)
        if target is None:
            return None
        exchange = Exchange(predict, target, head, done=self.flush)
        if connection.shared.is_draining:
            end_with(exchange, connection.cycle)
        connection.cycle = exchange  # type: ignore[assignment]
        connection.messages += 1
        self._waiting.append(exchange)
        self._is_last = not head.keep_alive
        stop = start + length
        if connection.shared.guard is not None and not self._is_admitted(exchange):
            self._pieces = None
        elif len(data) >= stop:
            exchange.submit(data[start:stop])
            return stop
        else:
            self._pieces = []
        self._receiving, self._left = exchange, length
        return self._take_body(data, start)

    def _is_admitted(self, exchange: Exchange) -> bool:
        """Have the guard look at a request; return whether it is to be answered."""
        assert self._connection.shared.guard is not None
        head = exchange.head
        visit = self._connection.shared.guard.visit(
            "POST",
            head.path,
            address=self._connection.client,
            authorization=head.authorization,
            api_key=head.api_key,
            origin=head.origin,
        )
        exchange.visit = visit
        if visit.error is None:
            return True
        exchange.fail(visit.error)
        return False

    def _take_body(self, data: bytes, place: int) -> int:
        """Take a piece of the body that is being received; return where it ends."""
        assert self._receiving is not None
        piece = data[place : place + self._left]
        self._left -= len(piece)
        self._connection.received += len(piece)
        exchange, pieces = self._receiving, self._pieces
        if not self._left:
            self._receiving = None
            self._release()
            if pieces is not None:
                exchange.submit(b"".join((*pieces, piece)))
        elif pieces is not None:
            try:
                self._connection.shared.held.add(len(piece))
            except Overloaded as exc:
                self._release()
                self._pieces = None
                exchange.fail(exc)
            else:
                self._held += len(piece)
                _collect(pieces, piece)
        return place + len(piece)

    def _release(self) -> None:
        self._connection.shared.held.remove(self._held)
        self._held = 0
        self._pieces = []

    def flush(self) -> None:
        """Write the answers that are there, in the order of their requests."""
        if self._is_taking:
            return
        waiting, connection = self._waiting, self._connection
        while waiting and waiting[0].is_done and not connection.flow.write_paused:
            exchange = waiting.popleft()
            self._write(exchange.write())
            connection.shared.total_requests += 1
            if not exchange.keep_alive:
                connection.transport.close()
                return
        if connection.pipeline:
            if not waiting:
                connection.start_next()
        elif len(waiting) <= 1:
            connection.flow.resume_reading()

    def _write(self, pieces: list[Buffer]) -> None:
        if len(pieces[-1]) < JOINED:
            self._connection.transport.write(b"".join(pieces))
        else:
            self._connection.transport.writelines(pieces)

    def can_refuse(self) -> bool:
        """Whether an error may be written now for the request that is being received."""
        return len(self._waiting) == 1 and self._waiting[0] is self._receiving

    def end(self) -> None:
        """Drop everything: the connection ends."""
        for exchange in self._waiting:
            exchange.cancel()
        self._waiting.clear()
        self._receiving = None
        self._left = 0
        self._is_last = True
        self._release()


def _collect(pieces: list[bytes | bytearray], piece: bytes) -> None:
    """Add a piece of a body to those before it."""
    if len(piece) >= SMALL_PIECE:
        pieces.append(piece)
    elif pieces and isinstance(pieces[-1], bytearray):
        pieces[-1] += piece
    else:
        pieces.append(bytearray(piece))
