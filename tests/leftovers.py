"""What a test run may leave behind: processes, sockets that listen, run directories, memory files.

A process of ours is known by a mark in its environment, which every child inherits: it is
found even if its parent is gone. Others may run on the same machine: what a living process
without the mark holds is not ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import msgspec
import psutil

MARK = "TFRUNNER_TEST_RUN"
MEMORY = Path("/dev/shm")


class Snapshot(msgspec.Struct, frozen=True):
    """What there is at one moment."""

    processes: frozenset[str]
    ports: frozenset[str]
    run_directories: frozenset[str]
    memory_files: frozenset[str]

    def since(self, earlier: Snapshot) -> list[str]:
        """Return in words what was not there earlier."""
        pairs = zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True)
        return [
            f"{kind.replace('_', ' ')}: {', '.join(sorted(now - getattr(earlier, kind)))}"
            for kind, now in pairs
            if now - getattr(earlier, kind)
        ]


def look(mark: str, run_root: Path) -> Snapshot:
    """Return what there is now.

    Args:
        mark: Value of MARK in the environment of the run's processes.
        run_root: The run's folder of run directories.
    """
    ours = marked_processes(mark)
    return Snapshot(
        processes=frozenset(_named(ours)),
        ports=frozenset(_ports([psutil.Process(), *ours])),
        run_directories=frozenset(map(str, run_directories(run_root))),
        memory_files=memory_files(mark),
    )


def memory_files(mark: str) -> frozenset[str]:
    """Return the named files in shared memory that no living process of somebody else holds."""
    found = set(map(str, MEMORY.iterdir() if MEMORY.is_dir() else ()))
    if found:  # to ask all processes takes a while
        found -= _memory_files_of_others(mark)
    return frozenset(filter(os.path.exists, found))  # others' may have gone meanwhile


def _memory_files_of_others(mark: str) -> set[str]:
    held = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) != mark:
                held.update(each.path for each in process.open_files())
                held.update(each.path for each in process.memory_maps())
        except psutil.Error:
            continue
    depth = len(MEMORY.parts) + 1
    return {str(Path(*Path(each).parts[:depth])) for each in held}


def run_directories(root: Path) -> list[Path]:
    """Return the run directories below a run root."""
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the living processes that carry the mark, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _named(processes: list[psutil.Process]) -> list[str]:
    names = []
    for process in processes:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            names.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return names


def _ports(processes: list[psutil.Process]) -> list[str]:
    ports = []
    for process in processes:
        try:
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN and each.family != socket.AF_UNIX:
                    ports.append(f"{each.laddr.port} of {process.pid}")
        except psutil.Error:
            continue
    return ports
