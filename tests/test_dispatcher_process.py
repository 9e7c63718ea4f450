"""The dispatcher as a process: its shell around the core, its death, and who notices."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from tests.gateway_world import METHOD, MODEL, block, call, rows
from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel, to_argument
from tfrunner.dispatcher.__main__ import READ_LIMIT, Shell
from tfrunner.dispatcher.learned import Learned
from tfrunner.dispatcher.outbox import BACKEND, PeerGone, Send
from tfrunner.errors import NotFound
from tfrunner.gateway import Answer, Gateway
from tfrunner.processes import CONFIG_ERROR
from tfrunner.specs import encode_spec
from tfrunner.tensors import decode_layout, unpack
from tfrunner.transport import Dealer, wait

LIMIT = 30.0  # seconds, for what takes milliseconds or the start of a process


@pytest.fixture
def config() -> Iterator[DispatcherConfig]:
    """Give a configuration with one model and sockets at short paths."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        served = ServedModel(MODEL.tag, encode_spec(MODEL), max_batch_size=8)
        yield DispatcherConfig((f"ipc://{path}/f",), f"ipc://{path}/b", (served,))


def command(config: DispatcherConfig) -> list[str]:
    """Return the command line of the process."""
    return [sys.executable, "-m", "tfrunner.dispatcher", to_argument(config)]


@contextmanager
def dispatcher(config: DispatcherConfig) -> Iterator[subprocess.Popen[str]]:
    """Run a dispatcher; it is killed at the end if it still runs."""
    process = subprocess.Popen(command(config), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stopped(process: subprocess.Popen[str]) -> str:
    """Stop a dispatcher as the supervisor does; return its log."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, log
    return log


class Worker:
    """A worker of one model, at a real socket; adds 1 to every element.

    Args:
        config: That of the dispatcher.
        name: What the dispatcher calls it.
    """

    def __init__(self, config: DispatcherConfig, name: str = "worker-0") -> None:
        self.name = name
        self.epoch = ""
        self.dealer = Dealer(name)
        self.dealer.open()
        self.dealer.connect(config.backend)
        self._decoder = p.Decoder(p.ToWorker)
        self._batches: list[p.RunBatch] = []

    def hello(self) -> None:
        """Say that the model is loaded."""
        methods = (p.MethodState("__call__", True, True),)
        message = p.WorkerHello(self.name, self.epoch, MODEL.tag, os.getpid(), "cpu", True, methods)
        self.dealer.send(p.encode(message))

    def next_batch(self) -> p.RunBatch:
        """Say hello until there is a batch, and return it."""
        until = monotonic() + LIMIT
        while not self._batches and monotonic() < until:
            self.hello()
            wait([self.dealer], 0.2)
            for received in self.dealer.receive():
                message = self._decoder.decode(received.frames)
                if isinstance(message, p.RunBatch):
                    self._batches.append(message)
                elif isinstance(message, p.Welcome):
                    self.epoch = message.epoch
        return self._batches.pop(0)

    def finish(self, batch: p.RunBatch) -> None:
        """Answer a batch."""
        layout = decode_layout(batch.layout)
        answers = []
        for group in batch.groups:
            arrays = [
                unpack(layout, part.bodies, part.rows)[0][part.start : part.stop]
                for part in group.parts
            ]
            spans = [(part.request, part.start, part.stop, part.rows) for part in group.parts]
            stacked = np.concatenate(arrays) + np.float32(1)
            answers.append(p.BlockFor(group.gateway, block(spans, stacked)))
        self.dealer.send(p.encode(p.BatchDone(batch.batch, batch.attempt, 0.001, tuple(answers))))


def submit(gateway: Gateway, start: int, stop: int) -> asyncio.Future[Answer]:
    """Submit rows `start` to `stop` of `rows`."""
    return gateway.submit(MODEL, METHOD, call(rows(start, stop)), timeout=LIMIT)


def test_requests_travel_to_a_worker_and_back(config: DispatcherConfig) -> None:
    """Two gateways, an oversize request among theirs; everybody gets the own rows."""

    async def story() -> None:
        a, b = Gateway(config.frontend[0], name="a"), Gateway(config.frontend[0], name="b")
        await a.open(LIMIT)
        await b.open(LIMIT)
        assert a.find("m") == MODEL
        futures = [submit(a, 0, 20), submit(b, 20, 21), submit(a, 30, 33)]
        worker, left = Worker(config), 24
        while left:
            batch = await asyncio.to_thread(worker.next_batch)
            assert batch.rows <= 8
            left -= batch.rows
            worker.finish(batch)
        answers = [await asyncio.wait_for(future, LIMIT) for future in futures]
        np.testing.assert_array_equal(answers[0].value(), rows(0, 20) + 1)
        np.testing.assert_array_equal(answers[1].value(), rows(20, 21) + 1)
        np.testing.assert_array_equal(answers[2].value(), rows(30, 33) + 1)
        state = await a.ask(LIMIT)
        assert state["models"]["m:v1"]["rows"] == 24
        worker.dealer.close()
        await a.close()
        await b.close()

    with dispatcher(config) as process:
        asyncio.run(story())
        stopped(process)
    assert not Path(config.backend.removeprefix("ipc://")).exists()


def test_garbage_is_logged_and_changes_nothing(config: DispatcherConfig) -> None:
    """A stranger's bytes, on both sockets, end nothing but themselves."""

    async def story() -> None:
        for address in (config.frontend[0], config.backend):
            stranger = Dealer("stranger")
            stranger.open()
            stranger.connect(address)
            stranger.send([b"\xc1 garbage"])
            stranger.send([b"", b"frame"])
            stranger.send(p.encode(p.Stop()))
            stranger.close(LIMIT)
        async with Gateway(config.frontend[0], name="a") as gateway:
            with pytest.raises(NotFound, match="m:v1"):
                await gateway.submit(
                    type(MODEL)("other", "1", 1, {}), METHOD, call(rows(0, 1)), timeout=LIMIT
                )

    with dispatcher(config) as process:
        asyncio.run(story())
        log = stopped(process)
    assert log.count("frontend stranger.") == 3
    assert log.count("backend stranger.") == 3
    assert all(" dispatcher " in line for line in log.splitlines())


def test_a_killed_dispatcher_costs_no_request(config: DispatcherConfig) -> None:
    """The next one takes over the sockets and gets what was unanswered, once."""

    async def story() -> None:
        with dispatcher(config) as first:
            gateway = Gateway(config.frontend[0], name="a")
            await gateway.open(LIMIT)
            futures = [submit(gateway, n, n + 1) for n in range(8)]
            await gateway.ask(LIMIT)
            first.kill()
        futures += [submit(gateway, n, n + 1) for n in range(8, 16)]
        with dispatcher(config) as second:
            worker, left = Worker(config), 16
            while left:
                batch = await asyncio.to_thread(worker.next_batch)
                left -= batch.rows
                worker.finish(batch)
            for number, future in enumerate(futures):
                answer = await asyncio.wait_for(future, LIMIT)
                np.testing.assert_array_equal(answer.value(), rows(number, number + 1) + 1)
            worker.dealer.close()
            await gateway.close()
            stopped(second)

    asyncio.run(story())


def test_a_second_dispatcher_does_not_take_the_sockets(config: DispatcherConfig) -> None:
    """It says so in one line, and its exit status says that a restart is useless."""

    async def story() -> None:
        async with Gateway(config.frontend[0], name="a"):
            done = subprocess.run(
                command(config), stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False
            )
            assert done.returncode == CONFIG_ERROR
            assert done.stderr.count("\n") == 1
            assert "another process does" in done.stderr
        async with Gateway(config.frontend[0], name="b"):
            pass

    with dispatcher(config) as process:
        asyncio.run(story())
        stopped(process)


def test_an_unreadable_configuration_is_one_line() -> None:
    """Nothing is started."""
    done = subprocess.run(
        [sys.executable, "-m", "tfrunner.dispatcher", "{}"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == CONFIG_ERROR
    assert done.stderr.count("\n") == 1
    assert "unreadable" in done.stderr


def test_it_ends_with_the_process_that_started_it(config: DispatcherConfig) -> None:
    """A supervisor that is killed leaves no dispatcher and no socket file behind."""
    starter = (
        "import os, subprocess, sys, time, msgspec;"
        "from tfrunner.config import DispatcherConfig, from_argument, to_argument;"
        "config = from_argument(DispatcherConfig, sys.argv[1]);"
        "config = msgspec.structs.replace(config, parent=os.getpid());"
        "child = subprocess.Popen([sys.executable, '-m', 'tfrunner.dispatcher',"
        " to_argument(config)]);"
        "child.wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, to_argument(config)], stderr=subprocess.PIPE, text=True
    )

    async def story() -> None:
        async with Gateway(config.frontend[0], name="a"):
            parent.kill()

    try:
        asyncio.run(story())
        # Its log is a pipe that the dispatcher holds too: it ends once both are gone.
        _, log = parent.communicate(timeout=LIMIT)
    finally:
        parent.kill()
        parent.wait()
    assert log.rstrip().endswith("stopped")
    assert not Path(config.backend.removeprefix("ipc://")).exists()


def test_it_does_not_start_without_the_process_that_started_it(
    config: DispatcherConfig,
) -> None:
    """A parent that is gone already, or another one, ends it at once."""
    orphan = DispatcherConfig(config.frontend, config.backend, config.models, parent=1)
    done = subprocess.run(
        command(orphan), stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode != 0
    assert "is gone" in done.stderr


def test_it_imports_neither_numpy_nor_tensorflow() -> None:
    """The dispatcher never opens a tensor; it starts in a blink."""
    code = "import sys, tfrunner.dispatcher.__main__; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "zmq" in roots
    assert roots.isdisjoint({"numpy", "tensorflow", "keras", "starlette", "uvicorn"})


class Stop:
    """What the shell asks whether to stop."""

    def __init__(self) -> None:
        self.count = 0
        self._ends = os.pipe()

    def fileno(self) -> int:
        """Return the descriptor that is readable once it has stopped."""
        return self._ends[0]

    def stop(self) -> None:
        """Stop, as a signal would."""
        self.count = 1
        os.write(self._ends[1], b"x")

    def close(self) -> None:
        """Close both ends."""
        for end in self._ends:
            os.close(end)


class FakeCore:
    """Records; once all came, sends to a peer that is not there, and stops when it is told."""

    def __init__(self, stop: Stop, expected: int) -> None:
        self.steps: list[list[tuple[bytes, object]]] = [[]]
        self._stop = stop
        self._expected = expected

    def handle(self, sender: bytes, message: object, now: float) -> None:
        """Record."""
        self.steps[-1].append((sender, message))

    def step(self, now: float) -> list[Send]:
        """Send one message in vain; stop in the step that knows it."""
        recorded = sum(map(len, self.steps))
        if recorded > self._expected:
            self._stop.stop()
        self.steps.append([])
        return [Send(BACKEND, b"nobody", p.Stop())] if recorded == self._expected else []

    def next_wakeup(self) -> float | None:
        """Never ask to be woken."""
        return None

    def take_notes(self) -> list[str]:
        """Say nothing."""
        return []


@pytest.mark.timeout(60)
def test_the_shell_reads_bounded_turns_and_reports_peers_that_are_gone(
    config: DispatcherConfig,
) -> None:
    """A flood does not keep the core from stepping; a vain send makes it step again at once."""
    flood = 3 * READ_LIMIT + 1
    stop = Stop()
    core = FakeCore(stop, expected=flood)
    shell = Shell(core, stop, Learned("", {}, now=0.0))  # type: ignore[arg-type]
    gateway = Dealer("api-0")
    gateway.open()
    gateway.connect(config.frontend[0])
    for number in range(flood):
        gateway.send(p.encode(p.Ask(number)))
    try:
        shell.open(config)
        shell.run()
    finally:
        shell.close()
        gateway.close()
        stop.close()
    handled = [each for step in core.steps for each in step]
    assert handled[-1] == (b"nobody", PeerGone(BACKEND))
    asks = [message for _, message in handled if isinstance(message, p.Ask)]
    assert asks == [p.Ask(number) for number in range(flood)]
    assert max(map(len, core.steps)) <= READ_LIMIT + 1
