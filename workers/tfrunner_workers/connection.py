"""A worker's end of `backend`: one Dealer, and the hellos that go on while a batch runs.

Two threads use the socket, one at a time, under a lock. The main thread holds the lock while
it waits, reads and sends, and says hello itself when one is due; it lets go while the model
loads or runs, and then the second thread says hello. So a batch never passes from thread to
thread. (Measured for a lone request: a thread that owned the socket and handed batches over
through a queue and an eventfd cost 30 to 80 us more.)
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

from tfrunner import metrics
from tfrunner.config import WorkerConfig
from tfrunner.errors import ProtocolError
from tfrunner.metric_series import Reporter
from tfrunner.processes import StopSignals
from tfrunner.protocol import (
    HELLO_SECONDS,
    BatchDone,
    Decoder,
    Leave,
    Message,
    MethodState,
    Stop,
    ToWorker,
    Welcome,
    WorkerHello,
    encode,
)
from tfrunner.transport import Dealer, wait
from tfrunner_workers.wear import Wear

logger = logging.getLogger("tfrunner.worker")

ABANDONED_SECONDS = 2.0
"""A worker that leaves, and has had no Welcome for so long, waits for no Stop."""


class Connection:
    """What a worker says to the dispatcher, and hears from it.

    Args:
        config: The worker's name, address, model and device.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._wear = Wear(requests=config.recycle_requests, memory=config.recycle_memory)
        self._next_wish = 0.0
        self._config = config
        self._dealer = Dealer(config.name)
        self._reporter = Reporter(metrics.CATALOGUE, config.name)
        self._decoder = Decoder(ToWorker)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="hello", daemon=True)
        self._epoch = ""
        self._methods: tuple[MethodState, ...] = ()
        self._ready = False
        self._serves = False
        self._load_error = ""
        self._device_class = ""
        self._due = 0.0
        self._heard = 0.0
        self._arrived: list[Message] = []
        self._signals: StopSignals | None = None
        self._leaving = ""

    def __repr__(self) -> str:
        state = "leaving" if self._leaving else "ready" if self._ready else "loading"
        return f"<Connection {self._config.name} [{state} | epoch {self._epoch or 'unknown'}]>"

    def open(self) -> None:
        """Connect and say hello, not ready yet; hellos go on from now."""
        with self._lock:
            self._dealer.open()
            self._dealer.connect(self._config.backend)
            self._announce()
        self._thread.start()

    def become_ready(
        self, methods: tuple[MethodState, ...], signals: StopSignals, *, device_class: str = ""
    ) -> None:
        """Say that the model is loaded and warm, and how its methods are run.

        Args:
            methods: What warm-up found out.
            signals: From now on a signal means: leave.
            device_class: What is equal for devices on which a batch costs the same.
        """
        self._device_class = device_class
        self._wear.begin()
        with self._lock:
            self._methods, self._ready, self._signals = methods, True, signals
            self._serves = True
            self._announce()

    def report_load_error(self, reason: str) -> None:
        """Say that the model cannot be served, and why."""
        with self._lock:
            self._load_error = reason
            self._announce()

    def receive(self, *, block: bool, wakers: Sequence[int] = ()) -> list[Message]:
        """Return what arrived: RunBatch, Stop, and Welcome where its epoch is a new one.

        Called by the main thread, once ready.

        Args:
            block: Wait until something arrives, the next hello is due, or a waker rings.
            wakers: Descriptors that are readable when they ring.
        """
        descriptors = list(wakers)
        if self._signals and not self._leaving:
            descriptors.append(self._signals.fileno())
        with self._lock:
            now = time.monotonic()
            if now >= self._due:
                self._announce()
            if block and not self._arrived:
                wait([self._dealer], self._due - now, descriptors=descriptors)
            self._read()
            messages, self._arrived = self._arrived, []
            if self._leaving and now - self._heard > ABANDONED_SECONDS:
                messages.append(Stop())  # nobody is left who could say it
        if self._signals and self._signals.count:
            self.leave("a signal")
        if reason := self._wear.reason:
            self._wish_to_leave(reason)
        return messages

    def _wish_to_leave(self, reason: str) -> None:
        """Ask to be replaced, now and then; serve on until the dispatcher says Stop."""
        now = time.monotonic()
        with self._lock:
            if not self._leaving and now >= self._next_wish:
                self._next_wish = now + HELLO_SECONDS
                self._dealer.send(encode(Leave(reason, may_wait=True)))

    def leave(self, reason: str) -> None:
        """Ask for no more batches; the dispatcher says Stop once it knows of none held here.

        To exit at once would lose a batch that is on its way.
        """
        with self._lock:
            if not self._leaving:
                self._leaving, self._ready = reason, False
                self._dealer.send(encode(Leave(reason)))

    def send(self, message: Message) -> None:
        """Send a message. Called by the main thread."""
        frames = encode(message)
        if isinstance(message, BatchDone):
            self._wear.answered += sum([len(each.block.spans) for each in message.blocks])
        with self._lock:
            self._dealer.send(frames)

    def close(self, linger: float) -> None:
        """Close; wait at most `linger` seconds for what was sent to leave."""
        self._closed.set()
        self._thread.join()
        with self._lock:
            self._report()
        self._dealer.close(linger)

    def _announce(self) -> None:
        """Say hello. The caller holds the lock."""
        config = self._config
        hello = WorkerHello(
            config.name,
            self._epoch,
            config.model.tag,
            os.getpid(),
            config.device,
            self._ready,
            self._methods,
            self._load_error,
            self._device_class,
        )
        self._dealer.send(encode(hello))
        self._report()
        self._due = time.monotonic() + HELLO_SECONDS

    def _report(self) -> None:
        """Tell what users' own metrics count. The caller holds the lock."""
        report = self._reporter.report(self._epoch, self._dealer.identity)
        if report is not None:
            self._dealer.send(encode(report))

    def _read(self) -> None:
        """Take in what has arrived. The caller holds the lock."""
        for received in self._dealer.receive():
            try:
                message = self._decoder.decode(received.frames)
            except ProtocolError as exc:
                logger.error("%s", exc)
                continue
            if isinstance(message, Welcome):
                self._heard = time.monotonic()
                if message.epoch == self._epoch:
                    continue
                self._epoch = message.epoch
                self._announce()
                if self._leaving:
                    self._dealer.send(encode(Leave(self._leaving)))
            self._arrived.append(message)

    def _beat(self) -> None:
        """Say hello when it is due and the main thread does not. Runs in the second thread.

        A lock that is held means that the main thread is here, and says hello itself.
        """
        while not self._closed.wait(HELLO_SECONDS / 2):
            self._wear.look()
            if not self._lock.acquire(blocking=False):
                continue
            try:
                if not self._serves:
                    self._read()
                    self._leave_if_stopped()
                if time.monotonic() >= self._due:
                    self._announce()
            finally:
                self._lock.release()

    def _leave_if_stopped(self) -> None:
        """End the process if a Stop came while the model loads.

        Nothing is held then, and TensorFlow cannot be interrupted in another way.
        """
        if any(isinstance(message, Stop) for message in self._arrived):
            logger.info("stopped while loading")
            os._exit(0)
