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
import inspect
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

HANDSHAKE_SECONDS = 10.0
"""Most time that a client has to agree on TLS; less where a request has less time to come."""

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
        await super().startup([])  # it would listen without a limit for TLS
        if not self.started:
            return
        loop = asyncio.get_running_loop()
        for each in sockets or ():
            server = await loop.create_server(
                self._connection,
                sock=each,
                ssl=self.config.ssl,
                ssl_handshake_timeout=self._handshake_timeout(),
                backlog=self.config.backlog,
            )
            self.servers.append(server)
        if self._local is not None:
            server = await loop.create_unix_server(
                self._connection, sock=self._local, **keep_path(loop)
            )
            self.servers.append(server)

    def _handshake_timeout(self) -> float | None:
        """Return the seconds for a TLS handshake, None where there is no TLS."""
        if self.config.ssl is None:
            return None
        return min(self._state.bounds.receive_timeout, HANDSHAKE_SECONDS)

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
        waiting = self._close_listeners(sockets or ())
        await self._take(waiting, limit=self._grace)
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

    def _close_listeners(self, sockets: Sequence[socket.socket]) -> list[socket.socket]:
        """Return the connections that wait in the backlog, and listen no more.

        The last copy of a listener that is closed resets what waits: so nothing may come
        between the last accept and the close.
        """
        copies = [each.dup() for each in sockets]
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        return [each for copy in copies for each in take_waiting(copy)]

    async def _take(self, waiting: Sequence[socket.socket], *, limit: float) -> None:
        """Serve connections; with TLS, those whose clients agree on it within the limit.

        All at once: a client that says nothing holds up nobody. What goes wrong is its own
        affair: it went away, or speaks no TLS.
        """
        loop = asyncio.get_running_loop()
        taking = [
            asyncio.ensure_future(
                loop.connect_accepted_socket(
                    self._connection,
                    each,
                    ssl=self.config.ssl,
                    ssl_handshake_timeout=self._handshake_timeout(),
                )
            )
            for each in waiting
        ]
        if not taking:
            return
        _, late = await asyncio.wait(taking, timeout=limit)
        for each in late:
            each.cancel()
        await asyncio.gather(*taking, return_exceptions=True)

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


def keep_path(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return what has a loop leave the path of a Unix socket alone when its server ends.

    From Python 3.13 on loops remove it, but the other api processes listen at it, too.
    """
    try:
        known = inspect.signature(loop.create_unix_server).parameters
    except ValueError:  # a uvloop that is too old to tell is too old for that, too
        return {}
    return {"cleanup_socket": False} if "cleanup_socket" in known else {}


def take_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept what waits in the backlog, and close this copy of the listener."""
    listener.setblocking(False)
    taken: list[socket.socket] = []
    with listener, contextlib.suppress(OSError):  # nothing waits, or there are no descriptors
        while len(taken) < MOST_WAITING:
            taken.append(listener.accept()[0])
    return taken
