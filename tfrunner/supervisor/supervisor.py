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
from tfrunner.rundir import RunDirectory
from tfrunner.supervisor import events
from tfrunner.supervisor.children import Children, measure, measure_private
from tfrunner.supervisor.core import Core
from tfrunner.supervisor.crew import Addresses, Crew, parameters_file
from tfrunner.supervisor.listener import listen, url
from tfrunner.supervisor.placement import Placement
from tfrunner.supervisor.probe import Probe
from tfrunner.supervisor.slots import Slot
from tfrunner.supervisor.states import Phase

log = logging.getLogger("tfrunner.supervisor")

NAME = "supervisor"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MEASURE_SECONDS = 1.0
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
) -> int:
    """Run a server until somebody wants its end; return the exit code. Only in the main thread.

    Args:
        config: What is served.
        placements: Where each worker runs.
        root: Folder of the run directories.
        audience: Who is told how the start goes on.

    Raises:
        ConfigError: The port is in use, or there can be no run directory.
    """
    crew = Crew(config, placements)
    core = Core(
        crew.slots, name=NAME, grace=config.grace, strict=config.strict, jitter=random.random
    )
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(config.host, config.port))
        run = stack.enter_context(RunDirectory(root))
        signals = stack.enter_context(StopSignals(STOP_SIGNALS, wakers=(signal.SIGCHLD,)))
        write_parameters(config, run.path)
        audience.begin()
        stack.callback(audience.close)
        life = Life(core, crew, listener=listener, run=run, audience=audience)
        stack.callback(life.close)
        life.go_on(signals)
    return core.exit_code


def write_parameters(config: ServerConfig, folder: Path) -> None:
    """Put the parameters of Runnables where only workers of this user find them."""
    for model in config.models:
        if model.runnable is not None:
            path = parameters_file(str(folder), model.tag)
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
    """

    def __init__(
        self,
        core: Core,
        crew: Crew,
        *,
        listener: socket.socket,
        run: RunDirectory,
        audience: Audience,
    ) -> None:
        self.core = core
        self.crew = crew
        self.listener = listener
        self.run = run
        self.audience = audience
        self.children = Children()
        self.dealer = transport.Dealer(NAME)
        self.host, self.port = listener.getsockname()[:2]
        self.probe = Probe(self.host, self.port)
        self.decoder = protocol.Decoder(protocol.ToSupervisor)
        self.next_measure = 0.0
        self.uss: dict[int, int] = {}  # bytes, by pid
        self.turn = 0

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
            self._measure(now)
            self._wait(signals)

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.children.kill_all()
        self.probe.close()
        self.dealer.close(LINGER_SECONDS)

    def _what_happened(self, signals: StopSignals, now: float) -> list[events.Event]:
        happened: list[events.Event] = [events.StopAsked(number) for number in signals.take()]
        happened += [events.Exited(slot, code) for slot, code in self.children.reap()]
        happened += self._messages()
        if not self.core.is_announced:
            status = self.probe.ask(now)
            if status is not None:
                happened.append(events.Answered(status))
        return happened

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
        moments = [self.core.next_wakeup(), self.next_measure]
        descriptors = [signals.fileno()]
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
                self.listener.close()
            case events.Publish():
                self.run.publish(self._run_file())
            case events.Announce():
                self.audience.ready(self._run_file())

    def _start(self, slot: Slot) -> None:
        command = self.crew.command(slot, self._addresses())
        pid = self.children.start(slot.name, command)
        if pid is not None:
            log.info("%s started with pid %d", slot.process, pid)

    def _give(self, slot: Slot, spare: str) -> None:
        role = self.crew.role(slot, self._addresses())
        pid = self.children.give(spare, slot.name, role=role)
        if pid is not None:
            log.info("%s started from %s, pid %d", slot.process, spare, pid)

    def _addresses(self) -> Addresses:
        return Addresses(
            frontend=(self.run.frontend, *self.crew.config.direct),
            backend=self.run.backend,
            listener=self.listener.fileno(),
            parent=os.getpid(),
            run_directory=str(self.run.path),
        )

    def _run_file(self) -> RunFile:
        return RunFile(
            pid=os.getpid(),
            http=url(self.host, self.port),
            frontend=(self.run.frontend, *self.crew.config.direct),
            models=tuple(model.tag for model in self.crew.config.models),
        )

    def _measure(self, now: float) -> None:
        """Tell the dispatcher, once a second, what each process uses."""
        if now < self.next_measure:
            return
        self.next_measure = now + MEASURE_SECONDS
        rows = [_row(NAME, "supervisor", os.getpid())]
        for slot in self.core.slots.values():
            row = _row(slot.process, slot.kind, self.children.pid(slot.name))
            row |= {"slot": slot.name, "model": slot.model}
            row |= {"state": slot.state.value, "restarts": slot.restarts}
            rows.append(row)
        self._measure_private(rows)
        self.dealer.send(protocol.encode(protocol.Processes(tuple(rows))))

    def _measure_private(self, rows: list[dict[str, Any]]) -> None:
        """Add the private memory: of one process anew each time, in turn, because it is slow."""
        pids = [row["pid"] for row in rows if row["pid"]]
        self.uss = {pid: self.uss[pid] for pid in pids if pid in self.uss}
        self.turn = (self.turn + 1) % len(pids)
        chosen = next((pid for pid in pids if pid not in self.uss), pids[self.turn])
        if (private := measure_private(chosen)) is not None:
            self.uss[chosen] = private
        for row in rows:
            row["uss"] = self.uss.get(row["pid"], 0)


def _row(name: str, kind: str, pid: int | None) -> dict[str, Any]:
    """Return a row of the process table; without a process it has neither memory nor CPU."""
    row = {"name": name, "slot": name, "kind": kind, "pid": pid or 0}
    row |= {"restarts": 0, "state": "running"}
    used = measure(pid) if pid else {}
    return {**row, "rss": 0, "cpu_seconds": 0.0, **used}
