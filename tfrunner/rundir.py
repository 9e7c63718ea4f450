"""The run directory of a server: its sockets, its lock, and `run.json` for discovery.

One folder for each running server below `config.run_root()`, mode 0700. Whoever holds the
lock owns the folder; a folder whose lock is free belongs to a server that is gone, and is
removed by its dispatcher, which outlives it by a moment, or else by the next server. (ZeroMQ
lets a second bind steal a socket path silently: the lock is what prevents it.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tfrunner.config import RunFile
from tfrunner.errors import ConfigError, NotFound

ROOM = 4096
"""Bytes that `run.json` may need. They are taken at once: a full disk is found out before a model
is loaded."""


class RunDirectory:
    """A locked run directory; use it with `with`."""

    def __init__(self, root: Path) -> None:
        self.path = root / secrets.token_hex(4)
        self._lock: int | None = None

    @property
    def frontend(self) -> str:
        """Where gateways connect."""
        return f"ipc://{self.path}/frontend"

    @property
    def backend(self) -> str:
        """Where workers and the supervisor connect."""
        return f"ipc://{self.path}/backend"

    def __enter__(self) -> RunDirectory:
        root = self.path.parent
        with explained(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = root.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise ConfigError(
                f"{root} must belong to you alone (mode 0700): "
                f"run `chmod 700 {root}`, or set TFRUNNER_RUN_DIR to another folder."
            )
        try:
            with explained(root):
                self._make()
        except ConfigError:
            self.__exit__()
            raise
        if self._lock is None:
            raise ConfigError(f"the run directory {self.path} is locked by another server")
        return self

    def _make(self) -> None:
        """Make the folder and lock it."""
        with _alone(self.path.parent):
            remove_stale(self.path.parent)
            self.path.mkdir(mode=0o700, exist_ok=True)  # the lock says whose it is
            self._lock = _try_lock(self.path, os.O_CREAT)
        if self._lock is not None:
            self._temporary.write_bytes(bytes(ROOM))

    @property
    def _temporary(self) -> Path:
        return self.path / "run.json.new"

    def publish(self, run_file: RunFile) -> None:
        """Write `run.json`; clients find the server from now on.

        Raises:
            ConfigError: It cannot be written.
        """
        with explained(self.path.parent):
            self._temporary.write_bytes(msgspec.json.encode(run_file))
            self._temporary.replace(self.path / "run.json")

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Say what to do where a folder of run directories cannot be used.

    Raises:
        ConfigError: It cannot.
    """
    try:
        yield
    except OSError as exc:
        raise ConfigError(
            f"the run directory below {root} cannot be used: {exc.strerror or exc}. Make room "
            "there, or set TFRUNNER_RUN_DIR to another folder."
        ) from exc


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let one server at a time clean up and make its folder.

    Otherwise a folder whose lock exists but is not held yet would look stale to another.
    """
    descriptor = os.open(root / "starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(path: Path, flags: int = 0, *, how: int = fcntl.LOCK_EX) -> int | None:
    """Return the descriptor of the folder's lock, None if another process holds it.

    Who only looks makes no lock where a server removes its folder just now (the folder would
    stay), and shares the one of a dead server with others who look (they would take it for alive).
    """
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def remove_stale(root: Path) -> None:
    """Remove the run directories of servers that are gone."""
    for path in root.iterdir():
        remove_if_stale(path)


def remove_if_stale(path: Path) -> None:
    """Remove a run directory unless its server runs."""
    if not (path / "lock").exists():
        return
    with contextlib.suppress(FileNotFoundError):  # another process may remove it as well
        descriptor = _try_lock(path)
        if descriptor is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)


def running_servers(root: Path) -> list[RunFile]:
    """Return the servers that run now."""
    found = []
    for path in sorted(root.glob("*/run.json")) if root.is_dir() else []:
        try:
            descriptor = _try_lock(path.parent, how=fcntl.LOCK_SH)
            if descriptor is not None:
                os.close(descriptor)
                continue
            found.append(msgspec.json.decode(path.read_bytes(), type=RunFile))
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def find_server(root: Path) -> RunFile:
    """Return the one running server.

    Raises:
        NotFound: None runs, or several do.
    """
    servers = running_servers(root)
    if len(servers) == 1:
        return servers[0]
    if not servers:
        raise NotFound("No tfrunner server runs here. Start one with `tfrunner serve <model>`.")
    addresses = ", ".join(server.http for server in servers)
    raise NotFound(f"{len(servers)} servers run here: {addresses}. Say which one to call.")
