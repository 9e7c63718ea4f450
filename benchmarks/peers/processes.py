"""A server's processes: started, waited for, measured, and ended with all that they started.

A server's processes are those that carry its mark in their environment: Triton's and Ray's
outlive the process that started them, so a tree of parents and children does not hold them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "TFRUNNER_BENCHMARK_MARK"
FOLDER = "TFRUNNER_BENCHMARK_FOLDER"
END_SECONDS = 8.0
POLL_SECONDS = 0.05
IDLE_SECONDS = 0.1
IDLE_LIMIT_SECONDS = 8.0
IDLE_SHARE = 0.3
"""Of a core: the clock of CPU time counts in steps of 10 ms, and some peers are never idle."""

MEGABYTE = 2**20
LOG_LINES = 12


class Command(NamedTuple):
    """How a server is started.

    Args:
        words: The command line.
        environment: Beside this process's own.
        port: Where it will answer.
        folder: Its working folder, removed by whoever made it; its log is in it.
    """

    words: list[str]
    environment: dict[str, str]
    port: int
    folder: Path


class Memory(NamedTuple):
    """What one process holds.

    Args:
        name: The process.
        anonymous: Megabytes of its own data. (What it alone maps, USS, would be less for a server
            beside others of its kind, since they share the pages of their libraries.)
        resident: Megabytes that are resident, the pages of libraries included.
    """

    name: str
    anonymous: float
    resident: float


class Server:
    """A server's processes.

    Args:
        command: How it is started.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.port = command.port
        self.log = command.folder / "log"
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; does not wait."""
        environment = {**os.environ, **self.command.environment}
        environment |= {MARK: self._mark, FOLDER: str(self.command.folder)}
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command.words,
                env=environment,
                cwd=self.command.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        """Return whether the process that was started has ended."""
        return self._process is None or self._process.poll() is not None

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def processes(self) -> list[psutil.Process]:
        """Return all processes that carry its mark."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark
        except psutil.Error:
            return False

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes, children that have ended included."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total

    def memory(self) -> list[Memory]:
        """Return what each of its processes holds."""
        return list(self._memory())

    def _memory(self) -> Iterator[Memory]:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                resident = process.memory_info().rss / MEGABYTE
                words = process.cmdline()
                name = next(
                    (word for word in words[1:] if not word.startswith("-")), process.name()
                )
                label = f"{process.name()} {Path(name).name}"[:60]
                yield Memory(label, _anonymous(process.pid), resident)

    def pause(self) -> None:
        """Stop its processes where they are, so that they take nothing from others."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def become_idle(self) -> None:
        """Wait, with a limit, until it has done with requests whose callers have gone."""
        deadline = time.monotonic() + IDLE_LIMIT_SECONDS
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(IDLE_SECONDS)
            now = self.cpu_seconds()
            if now - before <= IDLE_SHARE * IDLE_SECONDS:
                return
            before = now

    def stop(self) -> None:
        """End it: ask, wait with a limit, kill what is left."""
        if self._process is None:
            return
        self.resume()
        if self.has_ended():  # nobody is left to tell the others
            self._send(signal.SIGTERM)
        else:
            self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline and (not self.has_ended() or self.processes()):
            time.sleep(POLL_SECONDS)
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        self._process.wait()


def _anonymous(pid: int) -> float:
    """Return the megabytes of a process's anonymous memory, 0 for one that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 / MEGABYTE if found else 0.0
