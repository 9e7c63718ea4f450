"""The supervisor's shell: performs what the core decides. Runs in the main thread."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tfrunner import protocol, transport
from tfrunner.config import RunFile, ServerConfig
from tfrunner.errors import ProtocolError
from tfrunner.processes import StopSignals
from tfrunner.rundir import RunDirectory, explained
from tfrunner.supervisor import events
from tfrunner.supervisor.children import Children
from tfrunner.supervisor.core import Core
from tfrunner.supervisor.crew import Addresses, Crew, parameters_file
from tfrunner.supervisor.gauge import Gauge
from tfrunner.supervisor.listener import listen, listen_locally, url
from tfrunner.supervisor.machine import allow_open_files
from tfrunner.supervisor.notify import notify
from tfrunner.supervisor.placement import Placement
from tfrunner.supervisor.probe import Probe
from tfrunner.supervisor.renewal import Change, Changes, NoChanges, Renewal
from tfrunner.supervisor.slots import Slot
from tfrunner.supervisor.states import Phase

log = logging.getLogger("tfrunner.supervisor")

NAME = "supervisor"
LOCAL = "api"
"""The socket in the run directory at which api processes are asked where there is TLS."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LINGER_SECONDS = 0.2
"""How long the last messages to a dispatcher that has probably ended are kept."""


class Audience(Protocol):
    """Who is told how the start goes on."""

    def begin(self) -> None:
        """The processes are about to start."""

    def watch(self, state: dict[str, Any]) -> None:
        """Take the dispatcher's state, each second until the server is ready."""

    def ready(self, server: RunFile) -> None:
        """The server answers requests."""

    def close(self) -> None:
        """The server ends."""


def serve(
    config: ServerConfig,
    placements: Sequence[Placement],
    *,
    root: Path,
    audience: Audience,
    changes: Changes | None = None,
) -> int:
    """Run a server until somebody wants its end; return the exit code. Only in the main thread.

    Args:
        config: What is served.
        placements: Where each worker runs.
        root: Folder of the run directories.
        audience: Who is told how the start goes on.
        changes: Who finds out that something else is to be served; None: nobody does.

    Raises:
        ConfigError: The port is in use, there can be no run directory, or hardly any open files.
    """
    allow_open_files()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(config.host, config.port))
        run = stack.enter_context(RunDirectory(root))
        signals = stack.enter_context(StopSignals(STOP_SIGNALS, wakers=(signal.SIGCHLD,)))
        local = None
        if config.entrance.tls is not None:  # the probe has no certificate to show
            local = stack.enter_context(listen_locally(run.path / LOCAL))
        audience.begin()
        stack.callback(audience.close)
        change: Change | None = Change(config, placements, is_whole=True)
        while change is not None:
            life = make_life(change, listener, local, run=run, audience=audience, changes=changes)
            try:
                life.go_on(signals)
            finally:
                life.close()
            change = life.successor
    return life.core.exit_code


def make_life(
    change: Change,
    listener: socket.socket,
    local: socket.socket | None,
    *,
    run: RunDirectory,
    audience: Audience,
    changes: Changes | None,
) -> Life:
    """Return the life of a server; it keeps the sockets open if another one follows."""
    config = change.server
    write_parameters(config, run.path)
    crew = Crew(config, change.placements)
    core = Core(
        crew.slots, name=NAME, grace=config.grace, strict=config.strict, jitter=random.random
    )
    return Life(
        core,
        crew,
        listener=listener,
        run=run,
        audience=audience,
        local=local,
        changes=changes or NoChanges(),
    )


def write_parameters(config: ServerConfig, folder: Path) -> None:
    """Put the parameters of Runnables where only workers of this user find them.

    Raises:
        ConfigError: They cannot be written.
    """
    for model in config.models:
        if model.runnable is not None:
            path = parameters_file(str(folder), model.tag)
            with explained(folder.parent):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(model.runnable.parameters)


class Life:
    """One server while it runs: the processes, the link to the dispatcher, and the loop.

    Args:
        core: Decides.
        crew: Knows how each process is started.
        listener: The listening HTTP socket.
        run: The locked run directory.
        audience: Who is told how the start goes on.
        local: The socket at which the api processes are asked, where there is TLS.
        changes: Who finds out that something else is to be served.

    Attributes:
        successor: What is to be served after this life's end; None: nothing.
    """

    def __init__(
        self,
        core: Core,
        crew: Crew,
        *,
        listener: socket.socket,
        run: RunDirectory,
        audience: Audience,
        local: socket.socket | None = None,
        changes: Changes,
    ) -> None:
        self.core = core
        self.crew = crew
        self.listener = listener
        self.run = run
        self.audience = audience
        self.children = Children()
        self.dealer = transport.Dealer(NAME)
        self.host, self.port = listener.getsockname()[:2]
        self.local = local
        self.changes = changes
        self.successor: Change | None = None
        self.renewal = Renewal(run.path)
        path = "" if local is None else str(run.path / LOCAL)
        self.probe = Probe(self.host, self.port, path=path)
        self.scheme = "http" if local is None else "https"
        self.decoder = protocol.Decoder(protocol.ToSupervisor)
        self.gauge = Gauge()

    def go_on(self, signals: StopSignals) -> None:
        """Work until the last process is reaped."""
        self.dealer.open()
        self.dealer.connect(self.run.backend)
        while True:
            now = time.monotonic()
            for event in self._what_happened(signals, now):
                self.core.handle(event, now)
            for action in self.core.step(now):
                self._perform(action)
            if self.core.phase is Phase.STOPPED:
                return
            if (
                rows := self.gauge.measure(now, self.core.slots.values(), self.children)
            ) is not None:
                self.dealer.send(protocol.encode(protocol.Processes(rows)))
            self._wait(signals)

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.children.kill_all()
        self.probe.close()
        self.renewal.close()
        if self.successor is None:
            self._close_listeners()
        self.dealer.close(LINGER_SECONDS)

    def _what_happened(self, signals: StopSignals, now: float) -> list[events.Event]:
        happened: list[events.Event] = [events.StopAsked(number) for number in signals.take()]
        if happened and self.successor is not None:  # an end of whatever would follow too
            self.successor = None
            self._close_listeners()
        happened += [events.Exited(slot, code) for slot, code in self.children.reap()]
        happened += self._messages()
        if not self.core.is_announced:
            status = self.probe.ask(now)
            if status is not None:
                happened.append(events.Answered(status))
        happened += self._what_changed(now)
        return happened

    def _what_changed(self, now: float) -> list[events.Event]:
        """Return what is to be done because something else is to be served."""
        change = self.changes.take()
        if change is not None and self.successor is not None:
            self.successor = change  # it overtakes the one that this life ends for
        elif change is not None and self.core.phase is Phase.SERVING:
            if change.is_whole:
                self.successor = change
                return [events.StopAsked(signal.SIGTERM)]
            names = self.crew.renew(change.server)
            self.renewal.begin(names, keep=list(self.core.slots))
            return [events.Renew(names)]
        return [events.Renewed()] if self.renewal.ask(now) else []

    def _messages(self) -> list[events.Event]:
        """Return the dispatcher's messages; show people its state."""
        messages: list[events.Event] = []
        for received in self.dealer.receive():
            try:
                message = self.decoder.decode(received.frames)
            except ProtocolError as exc:
                log.error("a message of the dispatcher was refused: %s", exc)
                continue
            if isinstance(message, protocol.Status) and not self.core.is_announced:
                self.audience.watch(message.state)
            messages.append(message)
        return messages

    def _wait(self, signals: StopSignals) -> None:
        moments = [self.core.next_wakeup(), self.gauge.next_wakeup()]
        descriptors = [signals.fileno(), *self.renewal.descriptors()]
        if self.changes.fileno() >= 0:
            descriptors.append(self.changes.fileno())
        if (moment := self.renewal.next_wakeup()) is not None:
            moments.append(moment)
        if not self.core.is_announced:
            moments.append(self.probe.next_wakeup())
            descriptors += [each for each in [self.probe.fileno()] if each is not None]
        timeout = max(0.0, min(moments) - time.monotonic())
        transport.wait([self.dealer], timeout, descriptors=descriptors)

    def _perform(self, action: events.Action) -> None:
        match action:
            case events.Start(slot=name):
                self._start(self.core.slots[name])
            case events.Give(spare=spare, slot=name):
                self._give(self.core.slots[name], spare)
            case events.Signal(slot=name, signal=number):
                self.children.signal(name, number)
            case events.Send(message=message):
                self.dealer.send(protocol.encode(message))
            case events.Report(text=text):
                log.info(text)
            case events.CloseListener():
                if self.successor is None:  # else connections wait for it
                    self._close_listeners()
            case events.Publish():
                self.run.publish(self._run_file())
            case events.Announce():
                self.audience.ready(self._run_file())
                notify("READY=1")

    def _close_listeners(self) -> None:
        """Let new connections be refused: nobody will take them."""
        if self.listener.fileno() < 0:
            return
        notify("STOPPING=1")
        self.listener.close()
        if self.local is not None:
            self.local.close()

    def _start(self, slot: Slot) -> None:
        command = self.crew.command(slot, self._addresses(slot))
        pid = self.children.start(slot.name, command)
        if pid is not None:
            log.info("%s started with pid %d", slot.process, pid)

    def _give(self, slot: Slot, spare: str) -> None:
        role = self.crew.role(slot, self._addresses(slot))
        pid = self.children.give(spare, slot.name, role=role)
        if pid is not None:
            log.info("%s started from %s, pid %d", slot.process, spare, pid)

    def _addresses(self, slot: Slot) -> Addresses:
        local = self.renewal.descriptor(slot.name)
        if local is None:
            local = -1 if self.local is None else self.local.fileno()
        return Addresses(
            frontend=(self.run.frontend, *self.crew.config.direct),
            backend=self.run.backend,
            listener=self.listener.fileno(),
            parent=os.getpid(),
            run_directory=str(self.run.path),
            local=local,
        )

    def _run_file(self) -> RunFile:
        return RunFile(
            pid=os.getpid(),
            http=url(self.host, self.port, scheme=self.scheme),
            frontend=(self.run.frontend, *self.crew.config.direct),
            models=tuple(model.tag for model in self.crew.config.models),
        )
