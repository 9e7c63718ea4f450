"""Asks the server over HTTP whether it is ready, without waiting for the answer."""

from __future__ import annotations

import socket

CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 5.0
PAUSE_SECONDS = 0.1
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Probe:
    """One question at a time: `GET /readyz`.

    Args:
        host: Where the server listens.
        port: Its port.
        path: Where it also listens, for us alone; "": nowhere.
    """

    def __init__(self, host: str, port: int, *, path: str = "") -> None:
        self.host = WILDCARDS.get(host, host)
        self.port = port
        self.path = path
        self._socket: socket.socket | None = None
        self._next = 0.0  # ask again, or give up waiting, at this monotonic moment

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable with the answer, None if none is awaited."""
        return None if self._socket is None else self._socket.fileno()

    def next_wakeup(self) -> float:
        """Return the monotonic moment at which `ask` has something to do."""
        return self._next

    def ask(self, now: float) -> int | None:
        """Return the HTTP status if an answer has come; ask (again) when it is time."""
        status = self._read()
        if status is not None:
            self.close()
            self._next = now + PAUSE_SECONDS
        elif now >= self._next:
            self.close()
            self._open(now)
        return status

    def _open(self, now: float) -> None:
        question = f"GET /readyz HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n"
        try:
            self._socket = self._connect()
            self._socket.sendall(question.encode())
            self._socket.setblocking(False)
            self._next = now + ANSWER_SECONDS
        except OSError:
            self.close()
            self._next = now + PAUSE_SECONDS

    def _connect(self) -> socket.socket:
        if not self.path:
            return socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(CONNECT_SECONDS)
        try:
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        return made

    def _read(self) -> int | None:
        if self._socket is None:
            return None
        try:
            line = self._socket.recv(4096).split(b"\r\n", 1)[0].split()
        except BlockingIOError:
            return None
        except OSError:
            line = []
        if len(line) < 2 or not line[1].isdigit():
            self.close()  # the api process ended before it answered
            return None
        return int(line[1])

    def close(self) -> None:
        """Forget the question."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
