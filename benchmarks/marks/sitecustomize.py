"""Notes in the processes of a server when each step of a request begins, for the profile.

Python imports this module at its start where PYTHONPATH says so; TFRUNNER_MARKS names the
folder in which each process leaves its notes when it ends, one file each: lines of a moment
(nanoseconds of the system's monotonic clock, which all processes share) and a name. A note
costs 0.3 us. Nothing else is changed.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

notes: list[tuple[int, str]] = []


def note(name: str) -> None:
    """Note that something happens now."""
    notes.append((time.monotonic_ns(), name))


def mark_sockets(transport: Any) -> None:
    """Note every send before it begins, and every receive that found something."""
    for kind in (transport.Router, transport.Dealer):
        kind.send = _marked_send(kind.send)
    transport._Socket.receive = _marked_receive(transport._Socket.receive)


def _marked_send(send: Callable[..., Any]) -> Callable[..., Any]:
    def marked(self: Any, *args: Any) -> Any:
        note(f"{_name(self)} send")
        return send(self, *args)

    return marked


def _marked_receive(receive: Callable[..., Any]) -> Callable[..., Any]:
    def marked(self: Any, *args: Any) -> Any:
        received = receive(self, *args)
        if received:
            note(f"{_name(self)} receive")
        return received

    return marked


def _name(socket: Any) -> str:
    """Return what a socket is called: by its identity, without number and random part."""
    name = str(socket.identity.decode().split(".")[0])
    return name.split("-")[0]


def mark_model(loop: Any) -> None:
    """Note when a worker runs the model, and when that has ended."""
    entries = loop.entries

    def marked_entries(*args: Any, **options: Any) -> Any:
        return {
            name: entry._replace(run=_marked_run(entry.run))
            for name, entry in entries(*args, **options).items()
        }

    loop.entries = marked_entries


def _marked_run(run: Callable[..., Any]) -> Callable[..., Any]:
    def marked(arrays: Any) -> Any:
        note("model begin")
        try:
            return run(arrays)
        finally:
            note("model end")

    return marked


def mark_connections(connection: Any) -> None:
    """Note when an api process is given bytes, and when it writes."""
    kind = connection.Connection
    made, received = kind.connection_made, kind.data_received

    def connection_made(self: Any, transport: Any) -> None:
        made(self, Marked(transport))

    def data_received(self: Any, data: bytes) -> None:
        note("http receive")
        received(self, data)

    kind.connection_made, kind.data_received = connection_made, data_received


class Marked:
    """A transport whose writes are noted."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        """Write."""
        note("http send")
        self._transport.write(data)


CHANGES: dict[str, Callable[[Any], None]] = {
    "tfrunner.transport": mark_sockets,
    "tfrunner_workers.loop": mark_model,
    "tfrunner.api.connection": mark_connections,
}


class Finder(importlib.abc.MetaPathFinder):
    """Changes modules of CHANGES right after they were imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module that is to be changed, None for all others."""
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def leave(folder: str) -> None:
    """Write the notes of this process."""
    name = "-".join(sys.orig_argv[1:4]).replace("/", "_")[:60]
    with open(os.path.join(folder, f"{os.getpid()} {name}"), "w") as file:
        file.writelines(f"{moment} {text}\n" for moment, text in notes)


def install() -> None:
    """Change the modules that this process imports from now on."""
    sys.meta_path.insert(0, Finder())


if folder := os.environ.get("TFRUNNER_MARKS"):
    install()
    atexit.register(leave, folder)
