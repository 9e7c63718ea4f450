"""The learned files: what batches cost, kept over restarts. Part of the shell.

`<home>/learned/<name>/<version>/<device class>.json`, written by the dispatcher alone, into a
temporary file that is then renamed. Losing one costs only a slower start: whatever is wrong with
a file or the disk is one line in the log, and serving goes on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tfrunner import learned_file
from tfrunner.dispatcher.costbook import CostBook

SAVE_SECONDS = 60.0
"""Files are written so often while batches run, and at the end."""

log = logging.getLogger(__name__)


class Learned:
    """Reads and writes the learned files of some models.

    Args:
        home: $TFRUNNER_HOME; "": nothing is kept.
        books: The cost tables by tag.
        now: The moment, in seconds of the monotonic clock.
    """

    def __init__(self, home: str, books: Mapping[str, CostBook], *, now: float) -> None:
        self._home = home
        self._books = books
        self._next = now + SAVE_SECONDS
        self._written: dict[Path, bytes] = {}
        self._is_failing = False
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Bring back what is known of every model; what cannot be used is logged."""
        if not self._home:
            return
        for tag, book in self._books.items():
            try:
                files = sorted(learned_file.folder(Path(self._home), tag).glob("*.json"))
            except OSError as exc:
                log.warning("what was learned of %s cannot be read: %s", tag, exc)
                continue
            for file in files:
                try:
                    self._load(file, tag, book)
                except (OSError, ValueError) as exc:
                    log.warning("%s is ignored: %s", file, exc)

    def _load(self, file: Path, tag: str, book: CostBook) -> None:
        kept = learned_file.read(file, tag)
        book.recall(kept.device_class, kept.methods)
        book.plans[kept.device_class] = dict(kept.plans)

    def save_in_time(self, now: float) -> None:
        """Write the files every SAVE_SECONDS, beside the serving: a disk may be slow."""
        if not self._home or now < self._next:
            return
        self._next = now + SAVE_SECONDS
        if self._thread is None or not self._thread.is_alive():
            contents = self._contents()
            self._thread = threading.Thread(target=self._write_all, args=(contents,), daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> None:
        """Write the files for the last time, for at most so many seconds."""
        if not self._home:
            return
        if self._thread is not None:
            self._thread.join(timeout)
        last = threading.Thread(target=self._write_all, args=(self._contents(),), daemon=True)
        last.start()
        last.join(timeout)

    def _contents(self) -> dict[Path, bytes]:
        """Return the files as they should be."""
        contents = {}
        for tag, book in self._books.items():
            folder = learned_file.folder(Path(self._home), tag)
            for device_class in book.device_classes():
                kept = learned_file.Kept(
                    learned_file.FORMAT,
                    tag,
                    device_class,
                    book.as_data(device_class),
                    book.plans.get(device_class, {}),
                )
                file = folder / learned_file.file_name(device_class)
                contents[file] = msgspec.json.encode(kept)
        return contents

    def _write_all(self, contents: dict[Path, bytes]) -> None:
        """Write the files that changed. Called in a thread of its own."""
        try:
            for file, data in contents.items():
                if self._written.get(file) != data:
                    write(file, data)
                    self._written[file] = data
        except OSError as exc:
            if not self._is_failing:
                log.warning("what was learned cannot be kept: %s", exc)
            self._is_failing = True
        else:
            self._is_failing = False


def write(file: Path, data: bytes) -> None:
    """Replace a file as a whole.

    Raises:
        OSError: It cannot be written; the one that was there is unchanged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
