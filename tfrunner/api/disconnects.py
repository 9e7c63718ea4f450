"""Callers that go away while they wait: their requests are cancelled.

Watching a connection costs a task, so only requests that have waited for a while are watched:
every WATCH_SECONDS those that were there the time before. The usual request is answered long
before, and pays for a dict entry.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tfrunner.api.replies import Receive

WATCH_SECONDS = 1.0


class Disconnects:
    """Cancels the futures of callers that went away."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Any], Receive] = {}
        self._older: set[asyncio.Future[Any]] = set()
        self._watched: set[asyncio.Future[Any]] = set()
        self._watches: set[asyncio.Task[None]] = set()  # nobody else keeps these
        self._gone: set[asyncio.Future[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Disconnects [{len(self._waiting)} waiting | {len(self._watched)} watched]>"

    def add(self, future: asyncio.Future[Any], receive: Receive) -> None:
        """Watch a caller's connection, if the future is not done soon."""
        self._waiting[future] = receive
        if self._timer is None:
            self._timer = future.get_loop().call_later(WATCH_SECONDS, self._look)

    def remove(self, future: asyncio.Future[Any]) -> bool:
        """Stop watching; return whether the future was cancelled because its caller went away.

        The future is done, or was given up: then what it stands for may still be tidying up.
        """
        self._waiting.pop(future, None)
        self._watched.discard(future)
        if future in self._gone:
            self._gone.discard(future)
            return True
        return False

    def _look(self) -> None:
        """Begin to watch what has waited since the last look; look again while some wait."""
        self._timer = None
        for future in self._older:
            receive = self._waiting.get(future)
            if receive is not None:
                del self._waiting[future]
                self._watched.add(future)
                task = asyncio.ensure_future(self._watch(future, receive))
                self._watches.add(task)
                task.add_done_callback(self._watches.discard)
        self._older = set(self._waiting)
        if self._older:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WATCH_SECONDS, self._look)

    async def _watch(self, future: asyncio.Future[Any], receive: Receive) -> None:
        """Wait for the end of the connection (or of the reply, which servers report as such)."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if future in self._watched and future.cancel():
            self._gone.add(future)
