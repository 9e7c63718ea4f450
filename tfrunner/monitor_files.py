"""The files of monitors: JSON lines, rotated by size, one file for each process.

    <folder>/<monitor>/api-0.jsonl        the newest lines
    <folder>/<monitor>/api-0.jsonl.1      those before, and so on
    <folder>/<monitor>/schema.json        what the columns are

A process that starts again goes on with the file of its place. Two that share a place, of two
servers, do not share a file: who comes second writes `api-0-2.jsonl`. A line is whole or not
there: what a full disk has cut is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections import deque
from pathlib import Path

MOST_NAMESAKES = 100


class RotatedFile:
    """The file of one monitor and one process. Everything may raise OSError.

    Args:
        folder: The monitor's.
        place: Name of the process's place.
        limit: Bytes of a file after which the next one is begun.
        keep: Files that are kept, this one included.
    """

    def __init__(self, folder: Path, place: str, *, limit: int, keep: int) -> None:
        self._folder = folder
        self._place = place
        self._limit = limit
        self._keep = keep
        self._lock = -1
        self._file = -1
        self._size = 0
        self.path = folder / f"{place}.jsonl"

    def __repr__(self) -> str:
        state = "open" if self._file >= 0 else "closed"
        return f"<RotatedFile {self.path} [{state} | {self._size} bytes]>"

    def write(self, lines: deque[bytes]) -> None:
        """Append whole lines, and take those that are written from the queue.

        Raises:
            OSError: What is left in the queue could not be written.
        """
        self._open()
        while lines:
            if self._size and self._size + len(lines[0]) > self._limit:
                self._rotate()
            count, size = 1, len(lines[0])
            for line in itertools.islice(lines, 1, None):
                if self._size + size + len(line) > self._limit:
                    break
                count, size = count + 1, size + len(line)
            self._append(b"".join(itertools.islice(lines, count)))
            for _ in range(count):
                lines.popleft()

    def close(self) -> None:
        """Close the file; let another process have its name."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _open(self) -> None:
        if self._file >= 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._lock < 0:
            self._take_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o640)
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            self._append(b"\n")  # a process was killed in the middle of a line

    def _take_name(self) -> None:
        """Take the first name that no other process has."""
        for number in range(1, MOST_NAMESAKES + 1):
            name = self._place if number == 1 else f"{self._place}-{number}"
            lock = os.open(self._folder / f".{name}.lock", os.O_WRONLY | os.O_CREAT, 0o640)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                continue
            self._lock, self.path = lock, self._folder / f"{name}.jsonl"
            return
        raise OSError(f"{MOST_NAMESAKES} processes write files of that name")

    def _append(self, data: bytes) -> None:
        """Write all, or nothing."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        """Begin a new file; the oldest one goes."""
        os.close(self._file)
        self._file = -1
        if self._keep == 1:
            self.path.unlink()
        for number in range(self._keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = older.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        self._open()
