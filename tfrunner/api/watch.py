"""Looks at all connections now and then: who is too slow, who is idle for too long.

One look a second costs less than timers for every request. A round of looks is spread over
several turns of the event loop, so that thousands of connections do not hold up anybody.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Iterable
from http import HTTPStatus
from math import inf
from typing import cast

from tfrunner.api.connection import Activity, Connection
from tfrunner.api.state import ProcessState
from tfrunner.config import Bounds
from tfrunner.errors import TooSlow

PIECE = 64 * 2**10
"""Bytes that count as progress; less would let a trickle hold a connection for ever."""

REFUSED_SECONDS = 2.0
SURPLUS_SECONDS = 5.0
"""Most time that a refused connection has to read its answer, and one too many to ask."""

ABANDONED_SECONDS = 1.0
"""Who has read nothing for so long is dropped first where answers hold too much memory."""

ENDED_SECONDS = 1.0
"""Most time to answer who sends no more: nothing tells it from a client that is gone."""

STILL_SECONDS = 0.5
"""Looks come ten times a second: one that is so late says that this process, or the whole machine,
stood still. Clients of this machine did too, so that the next round waits for them once."""

SLICE = 500
"""Connections that are looked at in one turn of the event loop: about a millisecond."""


class Watch:
    """Ends the connections that use more than their bounds.

    Args:
        state: The process's connections, and their bounds.
    """

    def __init__(self, state: ProcessState) -> None:
        self._state = state
        self._round: list[Connection] = []
        self._next_round = 0.0
        self._looked_at = inf
        self._is_postponed = False  # the next round
        self._unread: list[Connection] = []  # those whose clients read slowly, in this round

    def __repr__(self) -> str:
        return f"<Watch [{len(self._round)} to look at | {len(self._unread)} read slowly]>"

    def look(self, now: float) -> None:
        """Go on with the round, or begin the next one when it is time."""
        stood_still, self._looked_at = now - self._looked_at > STILL_SECONDS, now
        if stood_still and not self._is_postponed:  # else a busy process would never judge
            self._is_postponed, self._next_round, self._round = True, now + self._period(), []
        if not self._round:
            if now < self._next_round:
                return
            self._is_postponed, self._next_round = False, now + self._period()
            self._round = self._all()
            self._unread = []
        part, self._round = self._round[:SLICE], self._round[SLICE:]
        self._look_at(part, now)
        if not self._round:
            self._drop_abandoned(now)

    def close_idle(self, now: float, *, since: float) -> None:
        """Look at all; close the connections that have been idle since that moment."""
        everyone = self._all()
        self._look_at(everyone, now)
        for connection in everyone:
            is_idle = connection.seen.activity is Activity.IDLE and connection.seen.since <= since
            if is_idle and not _has_arrived(connection):
                connection.transport.close()

    def _period(self) -> float:
        """Return the seconds from one round to the next."""
        bounds = self._state.bounds
        return min(1.0, bounds.receive_timeout / 4, bounds.send_timeout / 4)

    def _all(self) -> list[Connection]:
        return cast("list[Connection]", list(self._state.connections))

    def _look_at(self, connections: Iterable[Connection], now: float) -> None:
        bounds = self._state.bounds
        for connection in connections:
            seen = connection.seen
            activity = connection.activity()
            progress = connection.messages + connection.received // PIECE  # neither ever falls
            if progress != seen.progress or activity is not seen.activity:
                seen.progress, seen.activity, seen.since = progress, activity, now
            unsent = connection.transport.get_write_buffer_size()
            if unsent:
                self._unread.append(connection)
            if unsent or seen.unsent:
                _measure_unsent(connection, unsent, now)
            _judge(connection, bounds, now)

    def _drop_abandoned(self, now: float) -> None:
        """Drop the largest answers that nobody reads, until the others fit."""
        excess = sum(each.seen.unsent for each in self._unread) - self._state.bounds.buffer_limit
        if excess <= 0:
            return
        for connection in sorted(self._unread, key=lambda each: -each.seen.unsent):
            if excess > 0 and now - connection.seen.unsent_since >= ABANDONED_SECONDS:
                connection.drop()
                excess -= connection.seen.unsent


def _measure_unsent(connection: Connection, unsent: int, now: float) -> None:
    """Note how much of the answers is left, and when the client last took a piece of it."""
    seen = connection.seen
    if unsent == 0 or not seen.unsent or unsent <= seen.unsent - PIECE:
        seen.unsent, seen.unsent_since = unsent, now
    else:
        seen.unsent = max(seen.unsent, unsent)
    if unsent and now - seen.unsent_since > connection.shared.bounds.send_timeout:
        connection.drop()


def _judge(connection: Connection, bounds: Bounds, now: float) -> None:
    """End what has not gone on for too long."""
    activity, waited = connection.seen.activity, now - connection.seen.since
    if activity is Activity.ANSWERING:
        if connection.ended_at is not None and now - connection.ended_at > ENDED_SECONDS:
            connection.transport.abort()
        return
    if activity is Activity.REFUSED:
        if waited > REFUSED_SECONDS:
            connection.transport.abort()
    elif activity is Activity.RECEIVING:
        limit = min(bounds.receive_timeout, _first_limit(connection, bounds))
        if waited > limit:
            text = (
                f"the rest of the request did not come within {limit:g} s. Send it faster, or "
                "raise the server's --receive-timeout."
            )
            connection.refuse(TooSlow(text), HTTPStatus.REQUEST_TIMEOUT)
    elif activity is Activity.IDLE:
        limit = bounds.keep_alive if connection.messages else _first_limit(connection, bounds)
        if waited > limit:
            connection.transport.close()


def _first_limit(connection: Connection, bounds: Bounds) -> float:
    """Return the seconds in which the first request must come."""
    return SURPLUS_SECONDS if connection.is_surplus else bounds.receive_timeout


def _has_arrived(connection: Connection) -> bool:
    """Whether bytes of the client wait in the kernel: closing now would lose a request."""
    socket = connection.transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return False
    waiting = fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(4))
    return bool(struct.unpack("i", waiting)[0])
