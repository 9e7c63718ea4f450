"""Changes of what is served while a server runs, and whether new api processes answer.

Each new api process is given a listening socket of its own beside the common one: which
process answers a question at the common one, nobody can say.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tfrunner.config import ServerConfig
from tfrunner.supervisor.listener import listen_locally
from tfrunner.supervisor.placement import Placement
from tfrunner.supervisor.probe import Probe


class Change(NamedTuple):
    """What is to be served from now on.

    Args:
        server: How.
        placements: Where its workers run.
        is_whole: Whether its workers have to start anew too, not only its api processes.
    """

    server: ServerConfig
    placements: Sequence[Placement]
    is_whole: bool


class Changes(Protocol):
    """Who finds out what has changed."""

    def fileno(self) -> int:
        """Return the descriptor that is readable once there is a change, until `take`."""

    def take(self) -> Change | None:
        """Return the latest change since the last call; never wait."""


class NoChanges:
    """Nothing ever changes."""

    def fileno(self) -> int:
        """Return what is no descriptor."""
        return -1

    def take(self) -> Change | None:
        """Return that there is none."""
        return None


class Renewal:
    """The sockets of api processes that replaced others, and the questions to new ones.

    Args:
        folder: Where the sockets are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listeners: dict[str, socket.socket] = {}
        self._probes: dict[str, Probe] = {}

    def begin(self, names: Sequence[str], keep: Sequence[str]) -> None:
        """Listen for new processes, and ask them from now on.

        Args:
            names: Their slots.
            keep: All slots that there are.
        """
        self._close_probes()
        for name in set(self._listeners) - set(keep):
            self._listeners.pop(name).close()
        for name in names:
            path = self._folder / name
            self._listeners[name] = listen_locally(path)
            self._probes[name] = Probe("localhost", 0, path=str(path))

    def descriptor(self, name: str) -> int | None:
        """Return the listening socket of a slot's process, None if it has none of its own."""
        listener = self._listeners.get(name)
        return None if listener is None else listener.fileno()

    def ask(self, now: float) -> bool:
        """Ask those that have not answered; return whether the last one has, now."""
        for name, probe in list(self._probes.items()):
            if probe.ask(now) is not None:
                self._probes.pop(name).close()
                if not self._probes:
                    return True
        return False

    def next_wakeup(self) -> float | None:
        """Return the monotonic moment at which `ask` has something to do, None if there is none."""
        return min((each.next_wakeup() for each in self._probes.values()), default=None)

    def descriptors(self) -> list[int]:
        """Return what becomes readable with an answer."""
        found = (each.fileno() for each in self._probes.values())
        return [each for each in found if each is not None]

    def _close_probes(self) -> None:
        for probe in self._probes.values():
            probe.close()
        self._probes.clear()

    def close(self) -> None:
        """Close everything."""
        self._close_probes()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
