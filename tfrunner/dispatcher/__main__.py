"""The dispatcher process: `python -m tfrunner.dispatcher '<DispatcherConfig as JSON>'`.

The shell around the core. One turn: read both sockets (bounded), let the core step, perform
its sends, sleep until something comes or the core wants to be woken. It decides nothing, and
it trusts no sender: a message that the protocol refuses is logged and dropped.
"""

from __future__ import annotations

import logging
import secrets
import signal
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil

from tfrunner.config import DispatcherConfig, from_argument
from tfrunner.dispatcher.checks import check
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.learned import Learned
from tfrunner.dispatcher.outbox import BACKEND, FRONTEND, PeerGone
from tfrunner.dispatcher.predictive import Predictive
from tfrunner.dispatcher.recorder import Recorder
from tfrunner.errors import ConfigError, ProtocolError
from tfrunner.processes import CONFIG_ERROR, StopSignals, configure_logging, die_with_parent
from tfrunner.protocol import Decoder, FromBackend, FromGateway, Submit, encode
from tfrunner.rundir import remove_if_stale
from tfrunner.transport import Router, wait

READ_LIMIT = 200
"""Messages read from each socket in one turn."""

CLOSE_SECONDS = 1.0
"""So long a stopping dispatcher waits for what it sent to leave."""

KEEP_SECONDS = 1.0
"""So long it tries to keep what it has learned."""

ORPHAN_SECONDS = 1.0
"""So long a dispatcher that was told to end without a drain looks whether its parent is gone."""

log = logging.getLogger(__name__)


class Shell:
    """The two sockets of the dispatcher, and the core that they serve.

    Args:
        core: Decides everything.
        stop: Readable, and counted, once the process shall end.
        learned: Keeps what the core learns.
        recorder: Takes down when which requests came, if anybody wants to know.
    """

    def __init__(
        self, core: Core, stop: StopSignals, learned: Learned, recorder: Recorder | None = None
    ) -> None:
        self._core = core
        self._stop = stop
        self._learned = learned
        self._recorder = recorder
        self._routers = {FRONTEND: Router("frontend"), BACKEND: Router("backend")}
        self._decoders = {FRONTEND: Decoder(FromGateway), BACKEND: Decoder(FromBackend)}

    def open(self, config: DispatcherConfig) -> None:
        """Bind; begin to record.

        Raises:
            ConfigError: An address is refused, or in use, or the recording cannot be written.
        """
        if self._recorder is not None:
            self._recorder.open()
        for link, addresses in ((FRONTEND, config.frontend), (BACKEND, (config.backend,))):
            self._routers[link].open()
            for address in addresses:
                log.info("%s listens on %s", link, self._routers[link].bind(address))

    def run(self) -> None:
        """Serve until a signal says stop."""
        routers = tuple(self._routers.values())
        while not self._stop.count:
            self._read()
            has_news = self._perform()
            for note in self._core.take_notes():
                log.info("%s", note)
            self._learned.save_in_time(monotonic())
            wait(routers, 0.0 if has_news else self._rest(), descriptors=(self._stop.fileno(),))

    def close(self) -> None:
        """Close the sockets, whose files are removed; keep what was learned."""
        self._learned.close(KEEP_SECONDS)
        if self._recorder is not None:
            self._recorder.close()
        for router in self._routers.values():
            router.close(CLOSE_SECONDS)

    def _rest(self) -> float | None:
        """Return how many seconds the core can be left alone, None for any number."""
        wakeup = self._core.next_wakeup()
        return None if wakeup is None else max(0.0, wakeup - monotonic())

    def _read(self) -> None:
        """Tell the core what has arrived; the rest of a flood wakes `wait` at once."""
        now = monotonic()
        for link, router in self._routers.items():
            decode = self._decoders[link].decode
            for sender, frames in router.receive(READ_LIMIT):
                try:
                    message = decode(frames)
                except ProtocolError as exc:
                    log.warning("%s %s: %s", link, sender.decode(errors="replace"), exc)
                    continue
                if self._recorder is not None and isinstance(message, Submit):
                    self._note(self._recorder.record(message.requests, now))
                self._core.handle(sender, message, now)

    def _note(self, line: str) -> None:
        if line:
            log.warning("%s", line)

    def _perform(self) -> bool:
        """Let the core step, and send; return whether it must step again at once."""
        has_news = False
        for link, peer, message in self._core.step(monotonic()):
            if not self._routers[link].send(peer, encode(message)):
                self._core.handle(peer, PeerGone(link), monotonic())
                has_news = True
        return has_news


def main(arguments: list[str]) -> int:
    """Run the process; return its exit status.

    Args:
        arguments: The configuration, as `config.to_argument` writes it.
    """
    try:
        config = from_argument(DispatcherConfig, arguments[0] if arguments else "")
        check(config)
        die_with_parent(config.parent, by=signal.SIGTERM)
        configure_logging(config.log_level, "dispatcher")
        epoch = secrets.token_hex(8)
        with StopSignals() as stop:
            core = Core(config, Predictive(), epoch=epoch, now=monotonic())
            learned = Learned(config.home, core.books(), now=monotonic())
            shell = Shell(core, stop, learned, Recorder(config.record) if config.record else None)
            try:
                learned.load()
                shell.open(config)
                log.info("epoch %s, %d models", epoch, len(config.models))
                shell.run()
            finally:
                shell.close()
                # Inside: the kernel may send its signal again as the parent's threads end.
                is_sudden = stop.count and not core.is_draining
                if config.run_directory and is_sudden and is_orphan(config.parent):
                    remove_if_stale(Path(config.run_directory))
    except ConfigError as exc:
        print(f"tfrunner dispatcher: {exc}", file=sys.stderr)
        return CONFIG_ERROR
    log.info("stopped")
    return 0


def is_orphan(parent: int) -> bool:
    """Return whether the process that started this one is gone, or goes right now.

    The kernel sends its signal while the parent's other threads still end, and with them the
    lock of the run directory. A server that ends regularly drains first, and is not asked.
    """
    deadline = monotonic() + ORPHAN_SECONDS
    while psutil.pid_exists(parent) and not _is_dead(parent):
        if monotonic() > deadline:
            return False
        sleep(0.01)
    return True


def _is_dead(pid: int) -> bool:
    """Whether every thread of a process has ended; one that nobody reaps counts as dead."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.Error:
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
