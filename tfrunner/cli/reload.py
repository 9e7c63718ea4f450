"""`tfrunner serve --reload`: watches the files of Services, and says what is to be served now."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import watchfiles

from tfrunner.cli.arrange import Arrangement
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.supervisor.renewal import Change

PATTERNS = ("*.py",)
QUIET_MILLISECONDS = 200
"""Changes that follow each other faster are one: editors and git write several files."""

STOP_MILLISECONDS = 200
"""How often it is looked whether the server ends."""

log = logging.getLogger("tfrunner.supervisor")


class Watcher:
    """Watches the folders of Services' modules in a thread; the supervisor's `Changes`.

    Args:
        arrangement: What is served at first.
        again: Returns what would be served now; imports users' modules in other processes.
        sockets: Two ends of a connection, by which the thread wakes the supervisor.
        patterns: Names of the files that count.
    """

    def __init__(
        self,
        arrangement: Arrangement,
        again: Callable[[], Arrangement],
        *,
        sockets: tuple[socket.socket, socket.socket],
        patterns: Sequence[str] = PATTERNS,
    ) -> None:
        self.folders = sorted({str(Path(file).parent) for file in arrangement.targets.files})
        self._served = arrangement
        self._again = again
        self._patterns = tuple(patterns)
        self._change: Change | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._sockets = sockets

    def __repr__(self) -> str:
        return f"<Watcher of {', '.join(self.folders)}>"

    def fileno(self) -> int:
        """Return the descriptor that is readable once there is a change, until `take`."""
        return self._sockets[0].fileno()

    def take(self) -> Change | None:
        """Return the latest change since the last call; never wait."""
        with self._lock:
            change, self._change = self._change, None
            if change is not None:
                self._sockets[0].recv(1)
        return change

    def run(self) -> None:
        """Watch until `end`. Runs in a thread of its own."""
        try:
            self._watch()
        except (OSError, RuntimeError) as exc:  # the folder is gone, or the system has no room
            log.error("the files of Services are watched no more: %s", exc)

    def _watch(self) -> None:
        for changes in watchfiles.watch(
            *self.folders,
            watch_filter=lambda _, path: counts(path, self._patterns),
            step=QUIET_MILLISECONDS,
            rust_timeout=STOP_MILLISECONDS,
            stop_event=self._end,
            raise_interrupt=False,
        ):
            self._look(frozenset(path for _, path in changes))

    def end(self) -> None:
        """Have `run` end."""
        self._end.set()

    def close(self) -> None:
        """Close the sockets; nobody looks or waits any more."""
        for each in self._sockets:
            each.close()

    def _look(self, paths: frozenset[str]) -> None:
        """Say what is to be served now; if it cannot be, the old goes on."""
        names = ", ".join(sorted(Path(path).name for path in paths))
        try:
            found = self._again()
        except TFRunnerError as exc:
            text = " ".join(exc.message.split())
            log.warning("%s changed, and the server goes on as before: %s", names, text)
            return
        log.info("%s changed", names)
        is_whole = must_restart(self._served, found, paths)
        self._served = found
        with self._lock:
            if self._change is None:
                self._sockets[1].send(b".")
            else:
                is_whole = is_whole or self._change.is_whole
            self._change = Change(found.server, found.placements, is_whole)


def counts(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a change of a file matters."""
    return any(fnmatch(Path(path).name, pattern) for pattern in patterns)


def must_restart(old: Arrangement, new: Arrangement, paths: frozenset[str]) -> bool:
    """Return whether workers have to start anew too.

    They have if other models are served, or in other ways, or if the class that a worker hosts
    stands in a file that has changed.
    """
    hosted = {each.runnable.file for each in new.server.models if each.runnable is not None}
    return (
        old.server.models != new.server.models
        or old.placements != new.placements
        or not hosted.isdisjoint(paths)
    )


@contextlib.contextmanager
def watching(
    arrangement: Arrangement, again: Callable[[], Arrangement], *, include: Sequence[str] = ()
) -> Iterator[Watcher]:
    """Watch until the end of the block.

    Args:
        arrangement: What is served at first.
        again: Returns what would be served now.
        include: Further names of files that count, as `*.yaml`.

    Raises:
        ConfigError: No Service is served.
    """
    sockets = socket.socketpair()
    watcher = Watcher(arrangement, again, sockets=sockets, patterns=(*PATTERNS, *include))
    if not watcher.folders:
        watcher.close()
        raise ConfigError("--reload watches the modules of Services; none is served.")
    thread = threading.Thread(target=watcher.run, name="reload", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.end()
        thread.join()
        watcher.close()
