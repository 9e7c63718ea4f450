"""One budget of seconds for a whole exchange over HTTP.

A timeout of httpcore holds for each single read. The backend here counts one budget down over
all of them, so that a server which sends a byte now and then cannot keep a caller beyond its
timeout.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore

WRITE_BYTES = 65536


class Budget(float):
    """The seconds that a call may take in all; `left` counts them down."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def left(self, late: type[httpcore.TimeoutException]) -> float:
        """Return the seconds that are left, or raise `late`."""
        left = self._moment - time.monotonic()
        if left <= 0:
            raise late("the timeout passed")
        return left

    def extensions(self) -> dict[str, Any]:
        """Return what tells httpcore to use this budget for everything."""
        return {"timeout": dict.fromkeys(("pool", "connect", "read", "write"), self)}


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose reads and writes share the budget of the call they are for."""

    def __init__(self, inner: httpcore.NetworkStream, backend: BoundedBackend) -> None:
        self._inner = inner
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if isinstance(timeout, Budget):
            timeout = timeout.left(httpcore.ReadTimeout)
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pieces = memoryview(buffer)
        for start in range(0, len(pieces), WRITE_BYTES):
            left = timeout.left(httpcore.WriteTimeout) if isinstance(timeout, Budget) else timeout
            self._inner.write(bytes(pieces[start : start + WRITE_BYTES]), left)

    def close(self) -> None:
        self._backend.forget(self)
        self._inner.close()

    def shut(self) -> None:
        """Let what reads or writes here end now; whoever that is closes the connection.

        TLS is passed by: it has a state that only the thread which uses it may touch.
        """
        connection = self._inner.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed already
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        if isinstance(timeout, Budget):
            timeout = timeout.left(httpcore.ConnectTimeout)
        try:
            inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        finally:
            self._backend.forget(self)  # the socket is that of the new one, or closed
        return self._backend.watch(inner)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class BoundedBackend(httpcore.NetworkBackend):
    """Connects as httpcore does, to streams that share a budget and can be ended together."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()
        self._streams: set[_BoundedStream] = set()
        self._is_shut = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect within the budget."""
        if isinstance(timeout, Budget):
            timeout = timeout.left(httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return self.watch(stream)

    def watch(self, inner: httpcore.NetworkStream) -> httpcore.NetworkStream:
        """Return a connection as one that `shut` ends.

        Raises:
            ConnectError: That has happened.
        """
        stream = _BoundedStream(inner, self)
        self._streams.add(stream)
        if self._is_shut:  # looked at after adding, set before looking who is there
            stream.close()
            raise httpcore.ConnectError("the client was closed")
        return stream

    def forget(self, stream: _BoundedStream) -> None:
        """Note that a connection is closed, or another's now."""
        self._streams.discard(stream)

    def shut(self) -> None:
        """End what is under way, from any thread; there will be no other connection."""
        self._is_shut = True
        for stream in list(self._streams):
            stream.shut()

    def close(self) -> None:
        """Close every connection; nobody uses them any more."""
        self._is_shut = True
        for stream in list(self._streams):
            stream.close()


class BoundedPool(httpcore.ConnectionPool):
    """A pool of httpcore whose connections can be ended without asking for its locks.

    A thread that waits for an answer holds none of them, but one that was interrupted may.
    """

    def __init__(self, **options: Any) -> None:
        self._backend = BoundedBackend()
        super().__init__(network_backend=self._backend, **options)

    def shut(self) -> None:
        """End what is under way; see `BoundedBackend.shut`."""
        self._backend.shut()

    def close(self) -> None:
        """Close every connection; see `BoundedBackend.close`."""
        self._backend.close()
