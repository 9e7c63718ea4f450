"""One budget of seconds for a whole exchange over HTTP.

A timeout of httpcore holds for each single read. The backend here counts one budget down over
all of them, so that a server which sends a byte now and then cannot keep a caller beyond its
timeout.
"""

from __future__ import annotations

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

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

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
        self._inner.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _BoundedStream(self._inner.start_tls(*args, **kwargs))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class BoundedBackend(httpcore.NetworkBackend):
    """Connects as httpcore does, to streams that share a budget."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

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
        return _BoundedStream(stream)
