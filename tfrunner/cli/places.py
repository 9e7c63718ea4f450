"""Whether a server could have what it asks for: its address, its files, its folders.

Looked at before anything is started, so that what is wrong is said in one line. Nothing is written
and nobody listens; another process may still be quicker.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

from tfrunner.config import DEFAULTS, ServerConfig
from tfrunner.errors import ConfigError
from tfrunner.rundir import explained
from tfrunner.supervisor.listener import check_port

LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""

RUN_NAMES = "/12345678/frontend"
"""What is added, at most, to the folder of run directories."""


def check_places(server: ServerConfig, run_root: Path) -> None:
    """Refuse what a server could not have.

    Raises:
        ConfigError: The port does not exist, the host is not one of this machine, a file or folder
            cannot be written, or the path of a socket would be too long.
    """
    check_port(server.port)
    check_host(server.host)
    check_run_root(run_root)
    if server.entrance.access_log_file:
        check_file(Path(server.entrance.access_log_file), "the access log")
    if server.record:
        check_file(Path(server.record), "the recording")
    observation = server.observation
    is_chosen = observation.monitor_folder != str(Path(DEFAULTS.monitor_folder).resolve())
    if observation.monitor or is_chosen:
        check_folder(Path(observation.monitor_folder), "the monitors' folder")


def check_host(host: str) -> None:
    """Refuse an address that is not one of this machine.

    Raises:
        ConfigError: It is not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.bind((host, 0))
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"cannot listen on {host}: {reason}. Expected an address or name of this "
            "machine, such as 127.0.0.1; 0.0.0.0 is all of them."
        ) from exc


def check_run_root(root: Path) -> None:
    """Refuse a folder in which no server could have its sockets.

    Raises:
        ConfigError: Their paths would be too long, or it cannot be written.
    """
    longest = len(os.fsencode(root)) + len(RUN_NAMES)
    if longest > LONGEST_SOCKET:
        raise ConfigError(
            f"the path of a socket below {root} would have {longest} bytes; at most "
            f"{LONGEST_SOCKET} are allowed. Set TFRUNNER_RUN_DIR to a folder with a shorter path."
        )
    with explained(root):
        _try(root)


def check_file(file: Path, what: str) -> None:
    """Refuse a file that cannot be written, whether it is there or not.

    Raises:
        ConfigError: It cannot.
    """
    try:
        kind = file.stat().st_mode
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise ConfigError(f"{what} {file}: there is no folder {file.parent}.") from None
        check_folder(file.parent, f"{what} {file}: the folder")
        return
    except OSError as exc:
        raise ConfigError(f"{what} {file}: {exc.strerror}.") from exc
    if stat.S_ISDIR(kind):
        raise ConfigError(f"{what} {file} is a folder; expected a file.")
    if not stat.S_ISREG(kind):
        return  # a terminal or a pipe: opening it might wait for its reader
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
    except OSError as exc:
        raise ConfigError(f"{what} {file} cannot be written: {exc.strerror}.") from exc


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder that cannot be written, or not be made.

    Raises:
        ConfigError: It cannot.
    """
    try:
        _try(folder)
    except OSError as exc:
        raise ConfigError(f"{what} {folder} cannot be written: {exc.strerror}.") from exc


def _try(folder: Path) -> None:
    """Write a file without a name into a folder, or into the one that it would be made in."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
