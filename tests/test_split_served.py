"""A server whose worker splits its batches: everybody gets their own rows, also if it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfrunner
from tests.waiting import wait_for
from tfrunner.client import Client
from tfrunner.dispatcher.costbook import CostBook
from tfrunner.dispatcher.learned import Learned
from tfrunner.learned_file import Plan
from tfrunner.testing import ServedClient, serve
from tfrunner_workers.devices import CPU, device_class

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) < 2, reason="one core has no second thread to split between"
    ),
]

CALLERS = 8
CALLS = 40


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Let the server have two cores, however many this process may use."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def model(home: Path, two_cores: None) -> Any:
    """A model in the store, of which it is known that its batches are to be split."""
    import tensorflow as tf

    tf.random.set_seed(1)
    layers = [tf.keras.layers.Dense(width, "tanh") for width in (256, 256, 3)]
    keras = tf.keras.Sequential([tf.keras.Input((16,)), *layers])
    saved = tfrunner.tensorflow.save(
        keras, "wide", signatures={"__call__": {"batchable": True, "batch_dim": 0}}
    )
    book = CostBook()
    own = device_class(CPU, 2)
    book.seed("__call__", own, [(1, 0.001)])
    book.note_plan("__call__", own, Plan("frozen, split batches", 1.5, "faster", cpu_seconds=0.05))
    Learned(str(home), {str(saved.tag): book}, now=0.0).close(10.0)
    return keras


@pytest.fixture
def server(model: Any) -> Iterator[ServedClient]:
    """A server of that model."""
    with serve("wide:latest") as running:
        yield running


def call(server: ServedClient, rows: np.ndarray[Any, Any], expected: Any, caller: int) -> None:
    """Call with one to nine rows at a time; any failure, and any row of another, is raised."""
    random = np.random.default_rng(caller)
    with Client(server.address) as client:
        for _ in range(CALLS):
            chosen = random.integers(0, len(rows), random.integers(1, 10))
            got = client.predict("wide", rows[chosen])
            np.testing.assert_allclose(got, expected[chosen], rtol=1e-4, atol=1e-5)


def call_all(server: ServedClient, model: Any) -> list[Any]:
    """Let all callers call; return their futures."""
    rows = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    expected = model(rows).numpy()
    with ThreadPoolExecutor(CALLERS) as pool:
        return [pool.submit(call, server, rows, expected, each) for each in range(CALLERS)]


def test_everybody_gets_their_own_rows(server: ServedClient, model: Any):
    """From batches of several callers, cut into parts where it suits the threads."""
    log = server.log.read_text()
    assert "plan frozen, split batches: it was chosen before" in log, log
    for future in call_all(server, model):
        future.result()
    told = server.status()["models"]
    (counts,) = told.values()
    assert counts["requests"] == {"ok": CALLERS * CALLS}
    assert counts["batches"] < CALLERS * CALLS


def test_a_worker_that_dies_with_two_batches_in_its_threads_loses_none(
    server: ServedClient, model: Any
):
    """Both are run again by its successor."""

    def kill() -> None:
        (worker,) = server.status()["workers"].values()
        os.kill(worker["pid"], signal.SIGKILL)

    with ThreadPoolExecutor(1) as background:
        called = background.submit(call_all, server, model)
        wait_for(lambda: server.status()["models"] and answered(server) > CALLS)
        kill()
        for future in called.result():
            future.result()
    assert answered(server) == CALLERS * CALLS
    # The last answers may have come before it died; its death is seen, and written, after it.
    wait_for(lambda: "signal 9" in server.log.read_text())


def answered(server: ServedClient) -> int:
    """Return how many requests were answered."""
    (counts,) = server.status()["models"].values()
    return int(counts["requests"].get("ok", 0))
