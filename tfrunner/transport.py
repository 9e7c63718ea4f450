"""ZeroMQ sockets, and the rules that were measured for them. The only module that imports zmq.

1. An identity is a name and random bytes, new for every process start: a restarted peer that
   uses its old identity is never heard.
2. A Router refuses to send to a peer that is gone (ROUTER_MANDATORY); `send` then says False.
3. High-water marks are 0: nothing is dropped silently; what is accepted is bounded in bytes
   by the dispatcher.
4. The descriptor of a ZeroMQ socket is edge-triggered: after every send and every drain, read
   again until nothing is left (`receive` does; who stops at its limit must call again).
5. LINGER is what is left of the grace period, given to `close`.
6. Waits are whole milliseconds.
7. A bind to a path where another process listens is refused: ZeroMQ would take the path from
   it silently. (The lock of the run directory closes the gap between looking and binding.)
8. Who bound a path removes its file when it closes: ZeroMQ leaves it.
9. A socket that nobody has closed is closed before its context ends, by a finalizer that keeps
   both: a garbage collector may take the context first, which then waits for the socket for ever.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import zmq

from tfrunner.errors import ConfigError
from tfrunner.protocol import Buffer

IPC_PATH_LIMIT = 107
COPY_BELOW = 65536
"""Smaller frames are copied when sent: cheaper than keeping track of the buffer."""

# As plain numbers: ZeroMQ's own names are enums, whose arithmetic is slow.
_EVENTS = int(zmq.EVENTS)
_CAN_READ = int(zmq.POLLIN)
_HAS_MORE = int(zmq.RCVMORE)
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_FOLLOWS = _AT_ONCE | int(zmq.SNDMORE)

_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost):(\d{1,5}|\*)")


class Received(NamedTuple):
    """A message and who sent it (b"" at a Dealer)."""

    sender: bytes
    frames: list[Buffer]


def new_identity(name: str) -> bytes:
    """Return an identity that no earlier process had: `name.<16 hex digits>`."""
    return f"{name}.{secrets.token_hex(8)}".encode()


def check_address(address: str) -> str:
    """Return the address if tfrunner may use it: ipc, or tcp on loopback.

    Raises:
        ConfigError: It is another kind of address, or its ipc path is too long.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        if len(rest.encode()) > IPC_PATH_LIMIT:
            raise ConfigError(
                f"the socket path {rest!r} has {len(rest.encode())} bytes; at most "
                f"{IPC_PATH_LIMIT} work. Set TFRUNNER_RUN_DIR to a shorter folder."
            )
        return address
    if scheme == "tcp" and _LOOPBACK.fullmatch(rest):
        return address
    raise ConfigError(f"address {address!r} is refused: use ipc://<path> or tcp://127.0.0.1:<port>")


def _is_listening(path: str) -> bool:
    """Return whether a process listens at a path; a file that a dead one left does not count."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            return False
        return True


def _end(
    socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]], *, name: str, process: int
) -> None:
    """Close a socket that nobody can close any more; rule 9. A parent's is left alone."""
    if process == os.getpid():
        socket.close(linger=0)
        context.term()
        warnings.warn(f"{name} was not closed", ResourceWarning, stacklevel=2)


class _Socket:
    """What a Router and a Dealer share."""

    kind: int

    def __init__(self, name: str) -> None:
        self.identity = new_identity(name)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def open(self) -> None:
        """Create the socket; nothing is sent or bound yet."""
        self._context = zmq.Context()
        opened = self._context.socket(self.kind)
        name = self.identity.decode()
        self._finalizer = weakref.finalize(
            self, _end, opened, self._context, name=name, process=os.getpid()
        )
        self._finalizer.atexit = False  # a thread may be using it until the end
        opened.setsockopt(zmq.SNDHWM, 0)
        opened.setsockopt(zmq.RCVHWM, 0)
        opened.setsockopt(zmq.LINGER, 0)
        self._set_options(opened)
        self._socket = opened

    def _set_options(self, socket: zmq.Socket[bytes]) -> None:
        raise NotImplementedError

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The open socket."""
        if self._socket is None:
            raise RuntimeError("the socket is not open")
        return self._socket

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and `close` was not."""
        return self._socket is not None

    def fileno(self) -> int:
        """Return the descriptor that an event loop watches (edge-triggered: rule 4)."""
        return int(self.socket.getsockopt(zmq.FD))

    def receive(self, limit: int = 1000) -> list[Received]:
        """Return what has arrived, at most `limit` messages; never wait.

        Measured: to ask ZeroMQ whether there is more costs 1.5 us, to run into its error 6.6 us.
        """
        received: list[Received] = []
        ask: Callable[[int], Any] = self.socket.get
        while len(received) < limit and ask(_EVENTS) & _CAN_READ:
            received.append(self._receive_one())
        return received

    def _receive_one(self) -> Received:
        raise NotImplementedError

    def _rest(self) -> list[Buffer]:
        """Return the remaining frames of a message: the first copied, the others not."""
        socket = self.socket
        frames: list[Buffer] = [socket.recv(_AT_ONCE)]
        while socket.get(_HAS_MORE):
            frames.append(socket.recv(_AT_ONCE, copy=False).buffer)
        return frames

    def _send(self, frames: Sequence[Buffer]) -> None:
        socket, last = self.socket, len(frames) - 1
        for index, frame in enumerate(frames):
            flags = _MORE_FOLLOWS if index < last else _AT_ONCE
            socket.send(frame, flags, copy=len(frame) < COPY_BELOW)

    def close(self, linger: float = 0.0) -> None:
        """Close; wait at most `linger` seconds for what was sent to leave."""
        if self._socket is not None and self._context is not None:
            if self._finalizer is not None:
                self._finalizer.detach()
            self._socket.close(linger=int(linger * 1000))
            self._context.term()
            self._socket = self._context = None

    def __enter__(self) -> _Socket:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Router(_Socket):
    """The end that binds, and knows its peers by identity."""

    kind = zmq.ROUTER

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._paths: list[str] = []

    def _set_options(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)

    def bind(self, address: str) -> str:
        """Bind; return the address with the port that was chosen for a `:*`.

        Raises:
            ConfigError: The address is refused, or in use.
        """
        check_address(address)
        path = address.removeprefix("ipc://") if address.startswith("ipc://") else ""
        if path and _is_listening(path):
            raise ConfigError(f"cannot listen on {address}: another process does")
        try:
            self.socket.bind(address)
        except zmq.ZMQError as exc:
            raise ConfigError(f"cannot listen on {address}: {exc.strerror}") from exc
        if path:
            self._paths.append(path)
        return self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def close(self, linger: float = 0.0) -> None:
        """Close; wait at most `linger` seconds for what was sent to leave."""
        super().close(linger)
        while self._paths:
            Path(self._paths.pop()).unlink(missing_ok=True)

    def _receive_one(self) -> Received:
        sender = self.socket.recv(_AT_ONCE)
        return Received(sender, self._rest())

    def send(self, peer: bytes, frames: Sequence[Buffer]) -> bool:
        """Send to one peer; return False if it is gone."""
        try:
            self.socket.send(peer, _MORE_FOLLOWS)
        except zmq.ZMQError as exc:
            if exc.errno == zmq.EHOSTUNREACH:
                return False
            raise
        self._send(frames)
        return True


class Dealer(_Socket):
    """The end that connects; the order in which the ends start does not matter."""

    kind = zmq.DEALER

    def _set_options(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.IDENTITY, self.identity)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)

    def connect(self, address: str) -> None:
        """Connect, now or as soon as the other end is there.

        Raises:
            ConfigError: The address is refused.
        """
        self.socket.connect(check_address(address))

    def _receive_one(self) -> Received:
        return Received(b"", self._rest())

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send; what cannot leave yet is kept until the other end is there."""
        self._send(frames)


def wait(
    sockets: Sequence[_Socket], timeout: float | None, *, descriptors: Sequence[int] = ()
) -> None:
    """Sleep until something can be read, or `timeout` seconds passed (None: for ever).

    Args:
        sockets: Sockets to watch.
        timeout: Seconds, rounded up to whole milliseconds: a wait for 0.4 ms would spin.
        descriptors: Files to watch as well.
    """
    watched: list[tuple[Any, int]] = [(each.socket, _CAN_READ) for each in sockets]
    watched += [(descriptor, _CAN_READ) for descriptor in descriptors]
    zmq.zmq_poll(watched, -1 if timeout is None else max(0, math.ceil(timeout * 1000)))
