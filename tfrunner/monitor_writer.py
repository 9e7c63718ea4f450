"""The thread that writes what monitors log, and the bounded queue before it.

Nobody waits for a disk: what comes while the queue is full, or while the disk takes nothing, is
dropped, and one line in the log says so, and another one when it is over.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import orjson

from tfrunner.monitor_files import RotatedFile
from tfrunner.observation import Observation

MOST_WAITING = 8 * 2**20
"""Bytes that wait to be written, about."""

LARGEST_LINE = 2**20
"""Bytes of a line; larger ones are dropped."""

RETRY_SECONDS = 10.0
"""After which it is tried again to write where it failed."""

CLOSE_SECONDS = 2.0

log = logging.getLogger("tfrunner.monitor")

Columns = dict[str, tuple[str, str]]


class Item(NamedTuple):
    """What is to be written; `make` gives the lines, in the thread that writes."""

    monitor: str
    make: Callable[[], list[bytes]]
    size: int
    columns: Columns | None


class Trouble:
    """Records that were lost for one reason, and whether the log says so."""

    def __init__(self) -> None:
        self.lost = 0

    def add(self, count: int) -> bool:
        """Count lost records; return whether they are the first ones."""
        is_first = not self.lost
        self.lost += count
        return is_first

    def end(self) -> int:
        """Return how many were lost, and begin anew."""
        lost, self.lost = self.lost, 0
        return lost


class Writer:
    """Writes the lines of all monitors of this process.

    Args:
        place: Name of the process's place, which its files have.
        observation: Where to, and how much.
    """

    def __init__(self, place: str, observation: Observation) -> None:
        self._place = place
        self._observation = observation
        self._waiting: deque[Item] = deque()
        self._size = 0
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._files: dict[str, RotatedFile] = {}
        self._schemas: dict[str, Columns] = {}  # that are to be written
        self._retry_at: dict[str, float] = {}
        self._failed: dict[str, Trouble] = {}
        self._flood = Trouble()
        self._large = Trouble()

    def __repr__(self) -> str:
        return f"<Writer {self._place} [{len(self._waiting)} waiting, {self._size} bytes]>"

    def put(
        self,
        monitor: str,
        make: Callable[[], list[bytes]],
        *,
        size: int,
        columns: Columns | None = None,
    ) -> None:
        """Have lines written soon; returns at once.

        Args:
            monitor: Whose they are.
            make: Gives the lines; called in another thread.
            size: Bytes that they hold meanwhile, about.
            columns: What the schema says from now on; None: what it said.
        """
        with self._condition:
            if self._size + size > MOST_WAITING or self._is_closing:
                is_first = self._flood.add(1)
            else:
                is_first = False
                self._waiting.append(Item(monitor, make, size, columns))
                self._size += size
                self._condition.notify()
            if self._thread is None and not self._is_closing:
                self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        if is_first and not self._is_closing:
            text = "monitor %r: records come faster than they are written, and are dropped"
            log.warning(text, monitor)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Write what waits, for so many seconds at most; take nothing more."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(timeout)
            atexit.unregister(self.close)

    # --- in the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._is_closing:
                    self._condition.wait()
                items, self._waiting = self._waiting, deque()
                is_last = self._is_closing
            self._write_all(items)
            with self._condition:
                self._size -= sum(item.size for item in items)
                lost = self._flood.end() if not self._waiting and items else 0
            if lost:
                log.warning("monitors: %d records were dropped; they are written again", lost)
            if is_last and not self._waiting:
                break
        for file in self._files.values():
            file.close()

    def _write_all(self, items: deque[Item]) -> None:
        lines: dict[str, deque[bytes]] = {}
        for item in items:
            try:
                made = item.make()
            except Exception as exc:
                log.warning("monitor %r: a record cannot be written: %s", item.monitor, exc)
                continue
            fitting = [line for line in made if len(line) <= LARGEST_LINE]
            if len(fitting) < len(made) and self._large.add(len(made) - len(fitting)):
                text = "monitor %r: records above %d bytes are dropped; log less in one"
                log.warning(text, item.monitor, LARGEST_LINE)
            lines.setdefault(item.monitor, deque()).extend(fitting)
            if item.columns is not None:
                self._schemas[item.monitor] = item.columns
        for monitor, own in lines.items():
            self._write(monitor, own)

    def _write(self, monitor: str, lines: deque[bytes]) -> None:
        """Write the lines of one monitor, or drop them; never raises."""
        trouble = self._failed.setdefault(monitor, Trouble())
        if monotonic() < self._retry_at.get(monitor, 0.0):
            trouble.add(len(lines))
            return
        folder = Path(self._observation.monitor_folder) / monitor
        file = self._files.get(monitor)
        if file is None:
            file = self._files[monitor] = RotatedFile(
                *(folder, self._place),
                limit=self._observation.monitor_bytes,
                keep=self._observation.monitor_files,
            )
        try:
            file.write(lines)
            if monitor in self._schemas:
                write_schema(folder, monitor, self._schemas[monitor], place=self._place)
                del self._schemas[monitor]
        except OSError as exc:
            self._retry_at[monitor] = monotonic() + RETRY_SECONDS
            if trouble.add(len(lines)):
                log.error(
                    "monitor %r: %s cannot be written (%s): its records are dropped until it can, "
                    "which is tried every %g s",
                    *(monitor, file.path, exc.strerror or exc, RETRY_SECONDS),
                )
            return
        if lost := trouble.end():
            log.warning("monitor %r is written again; %d records were dropped", monitor, lost)


def write_schema(folder: Path, monitor: str, columns: Columns, *, place: str) -> None:
    """Add columns to what the schema of a monitor says; processes may do so at the same time.

    Raises:
        OSError: It cannot be written.
    """
    path = folder / "schema.json"
    try:
        known = {each["name"]: each for each in orjson.loads(path.read_bytes())["columns"]}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    wanted = dict(known)
    for name, (role, data_type) in columns.items():
        wanted[name] = {"name": name, "role": role, "data_type": data_type}
    if wanted != known:
        data = orjson.dumps(
            {"monitor": monitor, "columns": list(wanted.values())}, option=orjson.OPT_INDENT_2
        )
        temporary = folder / f".schema.{place}.{os.getpid()}"
        temporary.write_bytes(data + b"\n")
        temporary.replace(path)
