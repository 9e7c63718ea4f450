"""What every process of a server does about itself: its parent, its log, its signals."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any

CONFIG_ERROR = 2
"""Exit status of a process that cannot run with its configuration: do not restart it."""

LOAD_ERROR = 3
"""Exit status of a worker whose model cannot be served: try again much later."""

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, *, by: signal.Signals = signal.SIGKILL) -> None:
    """Make the kernel end this process when its parent ends. Called first by every child.

    Args:
        parent: Pid of the process that started this one; 0: it may outlive its parent.
        by: The signal that ends it.

    Raises:
        SystemExit: The parent is gone already.
    """
    if not parent:
        return
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(by), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it went before the kernel was told
        raise SystemExit(f"the parent process {parent} is gone")


def raise_descriptor_limit() -> int:
    """Let this process open as many files as the system allows it; return their number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS says "unlimited" and means less
        return soft
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


class _OwnStream(logging.StreamHandler):  # type: ignore[type-arg]  # no [] before 3.11
    """Closes its stream when it is replaced."""

    def close(self) -> None:
        super().close()
        self.stream.close()


def configure_logging(level: str, name: str) -> None:
    """Write one line for each event to stderr: time, level, process name, message.

    Args:
        level: "debug", "info", "warning" or "error".
        name: What the process is called in its log.
    """
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03d %(levelname)s {name.replace('%', '%%')} %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    # A descriptor of its own: what is done to fd 2 while TensorFlow loads holds no line back.
    handler = _OwnStream(os.fdopen(os.dup(2), "w", buffering=1, errors="replace"))
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class StopSignals:
    """Stop signals, remembered; `fileno` wakes whoever waits for it.

    A handler alone would not: a wait that a signal interrupts goes on afterwards. A signal
    that was ignored stays ignored (`nohup`, a shell's background command), SIGTERM apart. Use
    it with `with`, in the main thread.

    Args:
        numbers: The signals that mean: stop.
        wakers: Further signals that only wake.

    Attributes:
        count: How many stop signals came.
    """

    def __init__(
        self,
        numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT),
        *,
        wakers: tuple[int, ...] = (),
    ) -> None:
        self.count = 0
        self._numbers = numbers
        self._wakers = wakers
        self._received: list[int] = []
        self._before: dict[int, Any] = {}
        self._descriptor_before = -1
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def fileno(self) -> int:
        """Return the descriptor that is readable once a signal came, until `take`."""
        if self._ends is None:
            raise RuntimeError("use StopSignals with `with`")
        return self._ends[0].fileno()

    def take(self) -> list[int]:
        """Return the stop signals since the last call; never wait."""
        if self._ends is not None:
            with contextlib.suppress(BlockingIOError):
                while self._ends[0].recv(4096):
                    pass
        taken, self._received = self._received, []
        return taken

    def __enter__(self) -> StopSignals:
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        writer = self._ends[1].fileno()
        self._descriptor_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*self._numbers, *self._wakers):
            is_ignored = signal.getsignal(number) == signal.SIG_IGN
            if number in self._numbers and number != signal.SIGTERM and is_ignored:
                continue
            self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: object) -> None:
        if number in self._numbers:
            self.count += 1
            self._received.append(number)

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        for end in self._ends or ():
            end.close()
        self._ends = None
