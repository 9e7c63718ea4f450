"""Records when requests came, how many rows they had, what they share, and whose they were.

One JSON line for each request, as `tfrunner simulate` reads it. No contents, no names: a client
is a keyed hash, whose key is lost with the process. Part of the shell: it writes, decides nothing.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from tfrunner.errors import ConfigError
from tfrunner.protocol import Request

FLUSH_BYTES = 32_768
FLUSH_SECONDS = 1.0
"""Lines are written when there are so many bytes of them, or after so long."""


class Line(msgspec.Struct, frozen=True):
    """One request of a trace.

    Args:
        time: Seconds since any moment; never falling within a file.
        rows: At least 1.
        key: Model, method and a checksum of the layout: equal for what may share a batch.
        client: Equal for the requests of one client; "" where it is not known.
    """

    time: float
    rows: int = 1
    key: str = ""
    client: str = ""


class Recorder:
    """Appends requests to a file, whole lines at a time.

    A file that cannot be written ends the recording, never the serving.

    Args:
        path: The file; one that exists is continued, as after a restart of the process.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._secret = secrets.token_bytes(16)
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._bytes = 0
        self._since = 0.0

    def open(self) -> None:
        """Open the file.

        Raises:
            ConfigError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as exc:
            text = f"requests cannot be recorded in {self._path}: {exc.strerror}."
            raise ConfigError(text) from exc

    def record(self, requests: Iterable[Request], now: float) -> str:
        """Take in requests that came at `now`; return a line for the log, "" usually."""
        if self._descriptor is None:
            return ""
        for request in requests:
            self._add(request, now)
        if self._bytes >= FLUSH_BYTES or now - self._since >= FLUSH_SECONDS:
            self._since = now
            return self._write()
        return ""

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._write()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _add(self, request: Request, now: float) -> None:
        client = request.client
        if client:
            client = blake2b(client.encode(), key=self._secret, digest_size=4).hexdigest()
        key = f"{request.model}/{request.method}/{zlib.crc32(request.layout):08x}"
        line = self._encode(Line(round(now, 6), max(1, request.rows), key, client)) + b"\n"
        self._lines.append(line)
        self._bytes += len(line)

    def _write(self) -> str:
        """Append the lines; where that fails, give up and say so."""
        text = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        if self._descriptor is None or not text:
            return ""
        try:
            written = os.write(self._descriptor, text)
            reason = "" if written == len(text) else f"{written} of {len(text)} bytes were written"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        if not reason:
            return ""
        os.close(self._descriptor)
        self._descriptor = None
        return f"the recording in {self._path} ends: {reason}"

    def __repr__(self) -> str:
        state = "open" if self._descriptor is not None else "closed"
        return f"<Recorder {self._path} [{state} | {len(self._lines)} lines to write]>"
