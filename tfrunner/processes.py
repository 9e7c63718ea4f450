"""What every process of a server does about itself: its parent, its log, its signals."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import socket
import sys

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
    """Let this process open as many files and sockets as the system allows it; return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS says "unlimited" and means less
        return soft
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


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
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w", buffering=1, errors="replace"))
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class StopSignals:
    """SIGTERM and SIGINT, remembered; `fileno` wakes whoever waits for it.

    A handler alone would not: a wait that a signal interrupts goes on afterwards. Use it with
    `with`, in the main thread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def fileno(self) -> int:
        """Return the descriptor that is readable once a signal came."""
        if self._ends is None:
            raise RuntimeError("use StopSignals with `with`")
        return self._ends[0].fileno()

    def __enter__(self) -> StopSignals:
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: object) -> None:
        self.count += 1

    def __exit__(self, *exc: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        for end in self._ends or ():
            end.close()
        self._ends = None
