"""The access log: a line for every request.

    2026-01-31T12:00:00.123Z 127.0.0.1 POST /v1/models/m:predict 200 0.001234 18 4f2a-1 anna

time, client address, method, path, status, seconds from the request's head to its answer,
bytes of the answer's body, request id, name of the API key; `-` for what is not known. Lines are
collected for a moment: a system call for each would cost more than making them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

import orjson

from tfrunner.errors import ConfigError

FLUSH_SECONDS = 0.1
MOST_LINES = 256
"""Lines that are collected, at most."""

PIECE = 4096
"""Bytes that a pipe takes as a whole: lines of several processes do not get mixed."""

LONGEST_PATH = 1000
PLAIN = "/:@!$&'()*+,;=-._~%"
GONE = 499
"""Noted as the status where the caller went away before its answer."""

logger = logging.getLogger("tfrunner.api")


class Line(NamedTuple):
    """One request and its answer."""

    address: str
    method: str
    path: str
    status: int
    seconds: float
    size: int
    request_id: bytes
    key: str = ""


class AccessLog:
    """Writes a line for every request.

    Args:
        form: "text" or "json".
        path: The file, made if there is none and opened again if it was moved away; "":
            standard error.
        clock: Gives seconds since 1970.
    """

    def __init__(
        self, form: str, *, path: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._form = _as_json if form == "json" else _as_text
        self._path = path
        self._clock = clock
        self._second = -1
        self._date = ""
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1
        self._place: tuple[int, int] | None = None
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<AccessLog {self._path or 'stderr'} [{len(self._lines)} lines to write]>"

    def open(self) -> None:
        """Open the file.

        Raises:
            ConfigError: It cannot be written to.
        """
        try:
            self._open()
        except OSError as exc:
            raise ConfigError(f"the access log {self._path}: {exc.strerror}.") from exc

    def _open(self) -> None:
        if not self._path:
            self._descriptor = os.dup(2)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        status = os.fstat(self._descriptor)
        self._place = (status.st_dev, status.st_ino)

    def add(self, line: Line) -> None:
        """Take a line; it is written within FLUSH_SECONDS. Called in the event loop."""
        moment = self._clock()
        second = int(moment)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._date}.{int((moment - second) * 1000):03d}Z"
        self._lines.append(self._form(stamp, line))
        if len(self._lines) >= MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what was collected; what cannot be written is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        try:
            self._follow()
            for piece in _pieces(lines):
                _write(self._descriptor, piece)
        except OSError as exc:
            if not self._is_failing:
                logger.error("the access log cannot be written: %s", exc.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _follow(self) -> None:
        """Open the file again if another one, or none, has its name now."""
        if not self._path:
            return
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._place:
            self._close()
            self._open()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def close(self) -> None:
        """Write what is left, and close."""
        if self._descriptor >= 0:
            self.flush()
            self._close()


def _as_text(stamp: str, line: Line) -> str:
    return (
        f"{stamp} {line.address} {line.method} {_plain(line.path)} {line.status} "
        f"{line.seconds:.6f} {line.size} {line.request_id.decode() or '-'} {line.key or '-'}\n"
    )


def _as_json(stamp: str, line: Line) -> str:
    found = {
        "time": stamp,
        "address": line.address,
        "method": line.method,
        "path": _plain(line.path),
        "status": line.status,
        "seconds": round(line.seconds, 6),
        "bytes": line.size,
        "request_id": line.request_id.decode(),
        "key": line.key,
    }
    return orjson.dumps(found).decode() + "\n"


def _plain(path: str) -> str:
    """Return a path on one line and without blanks, as clients may write what they like."""
    if path.isascii() and path.isprintable() and " " not in path:
        return path if len(path) <= LONGEST_PATH else path[:LONGEST_PATH] + "..."
    return _plain(quote(path, safe=PLAIN))


def _pieces(lines: list[str]) -> list[bytes]:
    """Return whole lines joined to pieces that are written at once."""
    pieces: list[bytes] = []
    joined: list[str] = []
    size = 0
    for line in lines:
        if joined and size + len(line) > PIECE:
            pieces.append("".join(joined).encode())
            joined, size = [], 0
        joined.append(line)
        size += len(line)
    if joined:
        pieces.append("".join(joined).encode())
    return pieces


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
