"""A real worker process, with the dispatcher's part played by the test over a real Router."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import pytest

from tfrunner.config import ServedModel, WorkerConfig, to_argument
from tfrunner.protocol import (
    HELLO_SECONDS,
    BatchDone,
    BatchFailed,
    Decoder,
    FromWorker,
    Message,
    Part,
    PartsOf,
    RunBatch,
    Stop,
    Welcome,
    WorkerHello,
    encode,
)
from tfrunner.specs import encode_spec
from tfrunner.tensors import Layout, Leaf, decode_layout, encode_layout, unpack
from tfrunner.transport import Router, wait
from tfrunner_workers import echo

M = TypeVar("M", bound=Message)

LAYOUT = encode_layout(Layout((Leaf("float32", (None, 2)),)))
PATIENCE = 60.0
"""Seconds after which something that was waited for is taken to be missing."""


class Desk:
    """The dispatcher's end: binds, starts workers, reads what they say."""

    def __init__(self, folder: Path) -> None:
        self.address = f"ipc://{folder}/b"
        self.router = Router("dispatcher")
        self.processes: list[subprocess.Popen[str]] = []
        self.worker = b""
        self._decoder = Decoder(FromWorker)
        self._heard: list[Message] = []

    def start(self, model: ServedModel | None = None, **options) -> subprocess.Popen[str]:
        """Start a worker process; of the echo model if none is given."""
        served = model or echo.served()
        config = WorkerConfig("w1", self.address, served, parent=os.getpid(), **options)
        process = subprocess.Popen(
            [sys.executable, "-m", "tfrunner_workers", to_argument(config)],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def expect(self, kind: type[M], condition=lambda message: True) -> M:
        """Return the next message of a kind for which the condition holds; drop those before."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            while self._heard:
                message = self._heard.pop(0)
                if isinstance(message, kind) and condition(message):
                    return message
            wait([self.router], 1.0)
            for received in self.router.receive():
                self.worker = received.sender
                self._heard.append(self._decoder.decode(received.frames))
        raise AssertionError(f"no {kind.__name__} came")

    def ready(self) -> WorkerHello:
        """Return the hello of the worker that is ready."""
        return self.expect(WorkerHello, lambda hello: hello.ready)

    def send(self, message: Message) -> None:
        """Send to the worker that was heard last."""
        assert self.router.send(self.worker, encode(message))

    def close(self) -> None:
        """End what was started."""
        for process in self.processes:
            process.kill()
            process.communicate()
        self.router.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A dispatcher's end that listens."""
    with TemporaryDirectory(prefix="tw") as folder:
        desk = Desk(Path(folder))
        desk.router.open()
        desk.router.bind(desk.address)
        yield desk
        desk.close()


def part(request: int, *rows: float) -> Part:
    """Return a whole request; each row is a number twice."""
    body = np.repeat(np.float32(rows)[:, None], 2, axis=1).tobytes()
    return Part(request, 0, len(rows), len(rows), (body,))


def batch(number: int, *groups: tuple[bytes, tuple[Part, ...]], method: str = "__call__"):
    """Return a batch of these parts by gateway."""
    rows = sum(part.stop - part.start for _, parts in groups for part in parts)
    return RunBatch(number, 0, method, LAYOUT, rows, tuple(PartsOf(*group) for group in groups))


def rows_by_gateway(done: BatchDone) -> dict[bytes, list[float]]:
    """Return the first number of each row that goes to each gateway."""
    found = {}
    for gateway, block in ((addressed.gateway, addressed.block) for addressed in done.blocks):
        rows = sum(span.stop - span.start for span in block.spans)
        (array,) = unpack(decode_layout(block.layout), block.bodies, rows)
        found[gateway] = array[:, 0].tolist()
    return found


def test_a_worker_says_what_it_serves(desk: Desk):
    """The hello names worker, model, process and methods."""
    process = desk.start()
    first = desk.expect(WorkerHello)
    assert not first.ready and first.methods == ()
    hello = desk.ready()
    assert (hello.name, hello.model, hello.pid) == ("w1", "echo:1", process.pid)
    assert (hello.device, hello.epoch, hello.load_error) == ("cpu", "", "")
    assert {m.name: m.batchable for m in hello.methods} == dict.fromkeys(
        ("__call__", "fail", "die", "slow", "drop", "work", "hungry"), True
    )


def test_every_gateway_gets_its_own_rows(desk: Desk):
    """Three requests of two gateways are run as one batch."""
    desk.start()
    desk.ready()
    desk.send(batch(4, (b"a", (part(1, 1.0), part(2, 2.0, 3.0))), (b"b", (part(1, 9.0),))))
    done = desk.expect(BatchDone)
    assert (done.batch, done.attempt) == (4, 0)
    assert rows_by_gateway(done) == {b"a": [1.0, 2.0, 3.0], b"b": [9.0]}


def test_large_requests_travel_as_frames(desk: Desk):
    """Bodies beyond the inline limit come back whole."""
    desk.start()
    desk.ready()
    numbers = np.arange(50_000.0)
    desk.send(batch(1, (b"a", (part(1, *numbers), part(2, *numbers[::-1])))))
    (addressed,) = desk.expect(BatchDone).blocks
    (array,) = unpack(decode_layout(addressed.block.layout), addressed.block.bodies, 100_000)
    np.testing.assert_array_equal(array[:, 1], [*numbers, *numbers[::-1]])


def test_a_batch_that_raises_fails_and_the_worker_lives(desk: Desk):
    """The traceback is in the worker's log, with the batch's number."""
    process = desk.start()
    desk.ready()
    desk.send(batch(5, (b"a", (part(1, -1.0),)), method="fail"))
    failed = desk.expect(BatchFailed)
    assert failed == BatchFailed(5, 0, "model_error", "ValueError: an element is negative")
    desk.send(batch(6, (b"a", (part(1, 1.0),)), method="fail"))
    assert desk.expect(BatchDone).batch == 6
    desk.send(Stop())
    _, log = process.communicate(timeout=PATIENCE)
    assert "batch 5.0 of 'fail' (requests a/1) failed" in log
    assert "ValueError: an element is negative" in log


def test_what_is_no_message_is_ignored(desk: Desk):
    """Garbage on the socket ends nothing."""
    desk.start()
    desk.ready()
    for frames in ([b""], [b"\xc1"], [b"\x92\xa5Hello\x01"], [encode(Stop())[0], b"x"]):
        desk.router.send(desk.worker, frames)
    desk.send(batch(1, (b"a", (part(1, 1.0),))))
    assert rows_by_gateway(desk.expect(BatchDone)) == {b"a": [1.0]}


def test_a_model_that_ends_its_process_ends_the_worker(desk: Desk):
    """The `die` method is what death tests are made of."""
    process = desk.start()
    desk.ready()
    desk.send(batch(1, (b"a", (part(1, -1.0),)), method="die"))
    assert process.wait(PATIENCE) == echo.DIE_EXIT_CODE


def test_a_stop_ends_the_worker_after_what_it_holds(desk: Desk):
    """Two batches and a Stop at once: both are answered."""
    process = desk.start()
    desk.ready()
    desk.send(batch(1, (b"a", (part(1, 0.2),)), method="slow"))
    desk.send(batch(2, (b"a", (part(2, 2.0),))))
    desk.send(Stop())
    assert desk.expect(BatchDone).batch == 1
    assert desk.expect(BatchDone).batch == 2
    assert process.wait(PATIENCE) == 0


def test_sigterm_is_a_stop(desk: Desk):
    """The batch that runs is finished and answered."""
    process = desk.start()
    desk.ready()
    desk.send(batch(1, (b"a", (part(1, 8 * HELLO_SECONDS),)), method="slow"))
    desk.expect(WorkerHello)
    desk.expect(WorkerHello)  # the batch runs
    process.send_signal(signal.SIGTERM)
    assert desk.expect(BatchDone).batch == 1
    assert process.wait(PATIENCE) == 0


def test_sigterm_ends_an_idle_worker_and_ctrl_c_does_not(desk: Desk):
    """Ctrl-C reaches every process of a terminal; the supervisor decides what it means."""
    process = desk.start()
    desk.ready()
    process.send_signal(signal.SIGINT)
    desk.send(batch(1, (b"a", (part(1, 1.0),))))
    assert desk.expect(BatchDone).batch == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def test_hellos_go_on_while_a_long_batch_runs(desk: Desk):
    """A worker that computes is told from one that hangs."""
    desk.start()
    desk.ready()
    desk.send(batch(1, (b"a", (part(1, 4 * HELLO_SECONDS),)), method="slow"))
    heard: list[Message] = []
    while not any(isinstance(message, BatchDone) for message in heard):
        heard.append(desk.expect(Message))
    assert sum(isinstance(message, WorkerHello) for message in heard) >= 2


def test_a_new_epoch_is_answered_with_a_new_announcement(desk: Desk):
    """A restarted dispatcher learns what is there, at once and again."""
    desk.start()
    desk.ready()
    for epoch in ("e1", "e2"):
        desk.send(Welcome(epoch))
        hello = desk.expect(WorkerHello, lambda hello, epoch=epoch: hello.epoch == epoch)
        assert hello.ready and hello.methods
    desk.send(batch(1, (b"a", (part(1, 1.0),))))
    assert desk.expect(BatchDone).batch == 1


def test_the_announcement_comes_before_any_answer_in_the_new_epoch(desk: Desk):
    """So a dispatcher can tell answers to its own batches from late ones to another's."""
    desk.start()
    desk.ready()
    desk.send(Welcome("e1"))
    desk.send(batch(1, (b"a", (part(1, 1.0),))))
    heard: list[Message] = []
    while not any(isinstance(message, BatchDone) for message in heard):
        heard.append(desk.expect(Message))
    assert any(isinstance(message, WorkerHello) and message.epoch == "e1" for message in heard)


def test_batches_of_an_old_epoch_are_dropped(desk: Desk):
    """What a dead dispatcher staged is not run for the new one."""
    desk.start()
    desk.ready()
    desk.send(batch(1, (b"a", (part(1, 0.2),)), method="slow"))
    desk.send(batch(2, (b"a", (part(2, 2.0),))))
    desk.send(Welcome("e2"))
    desk.send(batch(3, (b"a", (part(3, 3.0),))))
    assert desk.expect(BatchDone, lambda done: done.batch != 1).batch == 3


def test_a_model_that_is_not_there_is_a_load_error(desk: Desk, tmp_path: Path):
    """The reason reaches the dispatcher, the exit code tells the supervisor not to restart."""
    process = desk.start(ServedModel("gone:1", b"", path=str(tmp_path / "gone")))
    hello = desk.expect(WorkerHello, lambda hello: hello.load_error != "")
    assert "gone" in hello.load_error and not hello.ready
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3
    assert "gone:1 cannot be served" in log
    assert "importing TensorFlow" not in log


def test_an_unreadable_configuration_is_one_line_and_exit_code_2():
    """Nothing is started with settings that are not understood."""
    run = subprocess.run(
        [sys.executable, "-m", "tfrunner_workers", "{}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "configuration" in run.stderr


STARTER = """
import os, subprocess, sys
from tfrunner.config import WorkerConfig, to_argument
from tfrunner_workers import echo
config = WorkerConfig("w1", sys.argv[1], echo.served(), parent=os.getpid())
command = [sys.executable, "-m", "tfrunner_workers", to_argument(config)]
worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
print(worker.pid, flush=True)
worker.wait()
"""


def test_a_worker_ends_with_its_parent(desk: Desk):
    """No kill -9 of the supervisor leaves a worker behind."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, desk.address], stdout=subprocess.PIPE, text=True
    )
    desk.processes.append(starter)
    assert starter.stdout is not None
    descriptor = os.pidfd_open(int(starter.stdout.readline()))
    desk.ready()
    starter.kill()
    ended = select.select([descriptor], [], [], PATIENCE)[0] == [descriptor]
    if not ended:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    os.close(descriptor)
    assert ended


def save_words_and_numbers() -> ServedModel:
    """Save a small model and return it as it is served: one method mixes the rows of a batch."""
    import tensorflow as tf

    import tfrunner.tensorflow

    class Small(tf.Module):
        """Two methods that declare themselves batchable; only one may."""

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": x * 2 + 1}

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def centre(self, x):
            return x - tf.reduce_mean(x, axis=0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def length(self, words):
            return tf.strings.length(words)

    batchable = {"batchable": True}
    signatures = dict.fromkeys(("__call__", "centre", "length"), batchable)
    saved = tfrunner.tensorflow.save(Small(), "small", signatures=signatures)
    spec = encode_spec(saved.spec)
    return ServedModel(str(saved.tag), spec, path=str(saved.path), max_batch_size=8)


@pytest.mark.tensorflow
def test_a_saved_model_is_loaded_warmed_probed_and_served(desk: Desk, home: Path):
    """From the store to an answer, hellos and a new epoch during the import included."""
    served = save_words_and_numbers()
    process = desk.start(served)
    desk.expect(WorkerHello)
    desk.send(Welcome("e1"))
    loading = desk.expect(WorkerHello, lambda hello: hello.epoch == "e1")
    assert not loading.ready
    states = {state.name: state for state in desk.ready().methods}
    assert states["__call__"].batchable and states["length"].batchable
    assert not states["centre"].batchable
    assert "depends on the rows beside it" in states["centre"].note
    desk.send(batch(1, (b"a", (part(1, 1.0),)), (b"b", (part(1, 2.0, 3.0),))))
    assert rows_by_gateway(desk.expect(BatchDone)) == {b"a": [3.0], b"b": [5.0, 7.0]}
    desk.send(Stop())
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    for line in ("importing TensorFlow", "loaded small", "__call__: warm: rows 1:", "ready"):
        assert line in log


@pytest.mark.tensorflow
def test_a_stop_ends_a_worker_that_still_loads(desk: Desk, home: Path):
    """Nothing is held then; there is no wait for TensorFlow."""
    process = desk.start(save_words_and_numbers())
    desk.expect(WorkerHello)
    desk.send(Stop())
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "stopped while loading" in log
    assert "loaded small" not in log


@pytest.mark.tensorflow
def test_a_saved_model_that_cannot_be_read_is_a_load_error(desk: Desk, home: Path):
    """The dispatcher learns why; the worker is not to be restarted."""
    served = save_words_and_numbers()
    (Path(served.path) / "saved_model" / "saved_model.pb").write_bytes(b"no model")
    process = desk.start(served)
    hello = desk.expect(WorkerHello, lambda hello: hello.load_error != "")
    assert "saved_model" in hello.load_error
    assert process.wait(PATIENCE) == 3
