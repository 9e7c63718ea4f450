"""The HTTP server of an api process: uvicorn's, with bounds of ours and an end of ours.

The end, from the first SIGTERM or SIGINT on:

1. every answer says `Connection: close`, /readyz answers 503;
2. what waits in the listener's backlog is taken, then our copy of the listener is closed;
   connections that come later wait for a sibling or a successor, if the supervisor wants one;
3. a connection ends with its next answer. One that stays idle for QUIET_SECONDS ends without:
   not at once, as its next request may be on the way;
4. at the end of the grace period, what still waits is answered 503, and the rest is cut off.

A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from tfrunner.api.connection import Connection
from tfrunner.api.guard import Guard, Guarded
from tfrunner.api.predict import Predict
from tfrunner.api.state import ProcessState
from tfrunner.api.tls import Certificate
from tfrunner.api.watch import Watch

STOPPED_AT_ONCE = 130
MOST_WAITING = 4096
"""Connections that are taken from the backlog at most: siblings have their part of it."""

QUIET_SECONDS = 1.0
"""How long a connection must be idle before it is closed untold; at most half of the grace."""

LAST_WORDS_SECONDS = 0.5
"""For writing the last refusals, after the grace period."""

TICK_SECONDS = 0.05

LOOK_SECONDS = 1.0
"""How often it is looked whether API keys or the certificate have changed."""

logger = logging.getLogger("tfrunner.api")


class Server(uvicorn.Server):
    """uvicorn's server with our connections.

    Args:
        app: The ASGI application.
        state: What the connections share.
        grace: Seconds from the first signal to the end, at most.
        give_up: Fails the requests that wait; called at the end of the grace period.
        direct: Answers predict requests without ASGI; None where something is wrapped around
            the application that has to see them.
        guard: What every request passes; None: nothing is to be checked or noted.
        certificate: With what connections are encrypted; None: they are not.
        local: A further listening socket, without TLS, for our own processes.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[Any]],
        *,
        state: ProcessState,
        grace: float,
        give_up: Callable[[], Awaitable[None]],
        direct: Predict | None = None,
        guard: Guard | None = None,
        certificate: Certificate | None = None,
        local: socket.socket | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app if guard is None else Guarded(app, guard, state),
                http=Connection,
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
            )
        )
        self.server_state = self._state = state
        self._state.direct = direct
        self._guard = self._state.guard = guard
        self._certificate = certificate
        self._local = local
        self._next_look = 0.0
        self._grace = grace
        self._give_up = give_up
        self._watch = Watch(state)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remember the signal; the server's loop looks ten times a second."""
        if self.should_exit:
            os._exit(STOPPED_AT_ONCE)
        self.should_exit = self._state.is_draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; uvicorn calls it.

        Raises:
            ConfigError: The certificate cannot be used.
        """
        if self._certificate is not None:
            self.config.ssl = self._certificate.load()
        await super().startup(sockets)
        if self._local is not None:
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_unix_server(self._connection, sock=self._local))

    async def on_tick(self, counter: int) -> bool:
        """Look at the connections, and at what may change on the disk, when it is time."""
        now = asyncio.get_running_loop().time()
        self._watch.look(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._guard is not None:
                self._guard.look()
            if self._certificate is not None:
                self._certificate.refresh()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as the module says; uvicorn calls it when a signal has come."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self._state.is_draining = True
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._close_listeners(sockets or ())
        await self._finish(begin)
        if self._state.connections:
            logger.warning(
                "%d connections had not ended after %g s", len(self._state.connections), self._grace
            )
            await self._give_up()
            await self._wait_until(loop.time() + LAST_WORDS_SECONDS)
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            for task in self._state.tasks:
                task.cancel()
            await asyncio.wait(list(self._state.tasks), timeout=TICK_SECONDS)
        await self.lifespan.shutdown()
        if self._guard is not None:
            self._guard.close()

    async def _close_listeners(self, sockets: Sequence[socket.socket]) -> None:
        """Take the connections that wait in the backlog, and listen no more.

        The last copy of a listener that is closed resets what waits: so nothing may come
        between the last accept and the close.
        """
        copies = [each.dup() for each in sockets]
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        waiting = [each for copy in copies for each in take_waiting(copy)]
        loop = asyncio.get_running_loop()
        for each in waiting:
            with contextlib.suppress(OSError):  # TLS: the client went away, or speaks none
                await loop.connect_accepted_socket(self._connection, each, ssl=self.config.ssl)

    def _connection(self) -> Connection:
        """Return a new connection, as uvicorn makes them."""
        return Connection(
            config=self.config, server_state=self._state, app_state=self.lifespan.state
        )

    async def _finish(self, begin: float) -> None:
        """Wait for the connections to end, and end the idle ones."""
        loop = asyncio.get_running_loop()
        quiet = min(QUIET_SECONDS, self._grace / 2)
        while self._state.connections and (now := loop.time()) < begin + self._grace:
            idle_since = now - quiet if now >= begin + quiet else 0.0
            self._watch.close_idle(now, since=idle_since)
            await asyncio.sleep(TICK_SECONDS)

    async def _wait_until(self, end: float) -> None:
        """Wait for the connections to end until that moment."""
        while self._state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(TICK_SECONDS)


def take_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits in the backlog, and close this copy of the listener."""
    listener.setblocking(False)
    taken: list[socket.socket] = []
    with listener, contextlib.suppress(OSError):  # nothing waits, or there are no descriptors
        while len(taken) < MOST_WAITING:
            taken.append(listener.accept()[0])
    return taken
