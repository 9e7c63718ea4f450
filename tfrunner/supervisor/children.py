"""Child processes: started by name, signalled, reaped, measured."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import psutil

from tfrunner.config import NewRole, child_environment, to_argument
from tfrunner.supervisor.handover import Letterbox, handed_over, nameless_file

log = logging.getLogger("tfrunner.supervisor")

ADVICE = {
    errno.E2BIG: "its environment and arguments are too long: unset what no process needs",
    errno.EAGAIN: "raise the number of processes: `ulimit -u`, `--pids-limit`, or TasksMax",
    errno.EMFILE: "raise the number of open files: `ulimit -n`",
    errno.ENFILE: "the whole system has too many open files",
    errno.ENOMEM: "the machine has no memory left",
}
"""What to do where the system does not start a process, by the number of the error."""

CANNOT_START = 126
"""Reported as the exit code of a process that the system would not start."""


class Command(msgspec.Struct, frozen=True):
    """How a child process is started.

    Args:
        module: What `python -m` runs.
        config: Its one argument.
        name: What the process is called.
        environment: What its environment has to say beside ours.
        descriptors: File descriptors that it inherits.
        is_told: Whether it waits for a line on its standard input.
    """

    module: str
    config: msgspec.Struct
    name: str
    environment: Mapping[str, str] = {}
    descriptors: tuple[int, ...] = ()
    is_told: bool = False


class Children:
    """The child processes, by the name of their slot.

    `start` must be called in the main thread: a child asks the kernel to be killed when the
    thread that started it ends.
    """

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._letterboxes: dict[int, Letterbox] = {}  # by pid
        self._unstarted: list[tuple[str, int]] = []

    def start(self, slot: str, command: Command) -> int | None:
        """Start a process; return its pid, None if the system would not start it.

        It gets a session of its own: Ctrl-C in the terminal reaches the supervisor alone.
        """
        letterbox = _letterbox() if command.is_told else None
        try:
            process = _start(command, letterbox)
        except OSError as exc:
            advice = ADVICE.get(exc.errno or 0, "")
            log.error("%s cannot be started: %s%s", slot, exc, advice and f"; {advice}")
            self._unstarted.append((slot, CANNOT_START))
            if letterbox is not None:
                letterbox.close()
            return None
        self._processes[slot] = process
        if letterbox is not None:
            self._letterboxes[process.pid] = letterbox
        return process.pid

    def give(self, spare: str, slot: str, *, role: NewRole) -> int | None:
        """Let the process of one slot belong to another, and tell it what it is from now on.

        A process that has just ended, or does not take its role, is reaped as the other slot's.

        Returns:
            Its pid, None if there is none.
        """
        process = self._processes.pop(spare, None)
        if process is None:  # the system would not start it
            self._unstarted = [each for each in self._unstarted if each[0] != spare]
            self._unstarted.append((slot, CANNOT_START))
            return None
        self._processes[slot] = process
        try:
            _tell(process, self._line(process.pid, role))
        except OSError as exc:
            log.error("%s cannot be told that it is %s: %s", spare, slot, exc)
            process.kill()
        return process.pid

    def _line(self, pid: int, role: NewRole) -> str:
        """Return the line by which a process learns its role.

        Raises:
            OSError: There is no room for what a line is too short for.
        """
        letterbox = self._letterboxes.pop(pid, None)
        if letterbox is None:
            return to_argument(role)
        with contextlib.closing(letterbox):
            return letterbox.put(role, role.config.name)

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        """Close what connects us with a process that has been reaped."""
        if process.stdin is not None:
            process.stdin.close()
        letterbox = self._letterboxes.pop(process.pid, None)
        if letterbox is not None:
            letterbox.close()

    def signal(self, slot: str, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        process = self._processes.get(slot)
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def reap(self) -> list[tuple[str, int]]:
        """Return the slots whose process ended since the last call, with the exit code."""
        ended, self._unstarted = self._unstarted, []
        for slot, process in list(self._processes.items()):
            code = process.poll()
            if code is not None:
                del self._processes[slot]
                self._forget(process)
                ended.append((slot, code))
        return ended

    def pid(self, slot: str) -> int | None:
        """Return the pid of the slot's process, None if it has none."""
        process = self._processes.get(slot)
        return None if process is None else process.pid

    def kill_all(self) -> None:
        """Kill and reap whatever is left."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            self._forget(process)
        self._processes.clear()


def _start(command: Command, letterbox: Letterbox | None) -> subprocess.Popen[bytes]:
    """Return a new process.

    Raises:
        OSError: The system does not start it.
    """
    boxes = () if letterbox is None else (letterbox.descriptor,)
    with handed_over(command.config, command.name) as argument:
        return subprocess.Popen(
            [sys.executable, "-m", command.module, argument.text],
            stdin=subprocess.PIPE if command.is_told else subprocess.DEVNULL,
            env=child_environment(**command.environment),
            pass_fds=(*command.descriptors, *argument.descriptors, *boxes),
            start_new_session=True,
        )


def _letterbox() -> Letterbox | None:
    """Return the letterbox of a process that is told later what it is; None: there can be none."""
    try:
        return Letterbox(nameless_file())
    except OSError:
        return None


def _tell(process: subprocess.Popen[bytes], line: str) -> None:
    """Write a line and close; never wait: the process may not read yet.

    Raises:
        OSError: It has ended, or the line does not fit.
    """
    if process.stdin is None:
        raise BrokenPipeError("it has no standard input")
    content = line.encode() + b"\n"
    descriptor = process.stdin.fileno()
    os.set_blocking(descriptor, False)
    written = os.write(descriptor, content)
    if written < len(content):
        raise BlockingIOError(f"only {written} of {len(content)} bytes were taken")
    process.stdin.close()


def measure_private(pid: int) -> int | None:
    """Return the bytes that would be free without this process, None if it ended.

    The kernel walks through all its pages for it: some milliseconds for a large process.
    """
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:
        return None


def measure(pid: int) -> dict[str, Any]:
    """Return a process's resident memory in bytes and its CPU time in seconds, {} if it ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {"rss": process.memory_info().rss, "cpu_seconds": times.user + times.system}
    except psutil.Error:
        return {}
