"""Signals as events: a handler only appends; a descriptor becomes readable."""

from __future__ import annotations

import signal
import socket
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Collects signals while it is entered; only in the main thread.

    A stop signal that was ignored stays ignored (`nohup`, a shell's background command).
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}
        self._reader: socket.socket | None = None
        self._writer: socket.socket | None = None
        self._descriptor_before = -1

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(
            self._writer.fileno(), warn_on_full_buffer=False
        )
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._append)
        return self

    def _append(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._received.append(number)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a signal or a child's end came."""
        return self._reader.fileno() if self._reader is not None else -1

    def take(self) -> list[int]:
        """Return the stop signals since the last call; never wait."""
        if self._reader is not None:
            try:
                while self._reader.recv(4096):
                    pass
            except BlockingIOError:
                pass
        taken, self._received = self._received, []
        return taken

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        if self._reader is not None and self._writer is not None:
            self._reader.close()
            self._writer.close()
