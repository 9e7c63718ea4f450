"""Workers that are replaced because they served long enough: nobody notices."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.waiting import wait_for
from tfrunner.client import Client
from tfrunner.testing import ServedClient, serve
from tfrunner_workers.wear import Wear

CALLERS = 8


def wear(measure: Callable[[], int] = lambda: 0, **limits: int) -> Wear:
    """Return the wear of a worker that is ready, without jitter."""
    found = Wear(**limits, measure=measure, jitter=lambda: 0.0)
    found.begin()
    return found


def test_more_than_so_many_answers_wear_a_worker_out():
    """The limit itself is still allowed."""
    worn = wear(requests=10)
    worn.answered = 10
    assert worn.reason == ""
    worn.answered += 1
    assert worn.reason == "it has answered 11 requests"


def test_more_than_so_much_memory_wears_a_worker_out():
    """Looked at beside the batches, and no more than once a second."""
    sizes = [50_000_000, 101_000_000, 0, 0]
    worn = wear(lambda: sizes.pop(0), memory=100)
    assert worn.reason == ""
    worn.look()
    worn.look()
    assert worn.reason == "101 MB are resident"
    assert sizes == [0, 0]


def test_a_memory_limit_below_the_loaded_model_is_not_kept(caplog):
    """Otherwise such a worker would leave as soon as it comes, for ever."""
    with caplog.at_level(logging.WARNING, "tfrunner.worker"):
        worn = wear(lambda: 200_000_000, memory=100)
    worn.look()
    assert worn.reason == ""
    assert "more than --recycle-memory allows (100 MB)" in caplog.text


def test_without_limits_nothing_is_measured():
    """The default costs nothing."""

    def measure() -> int:
        raise AssertionError("the memory was looked at")

    worn = wear(measure)
    worn.look()
    worn.answered = 10**9
    assert worn.reason == ""


def test_jitter_lets_workers_of_one_age_leave_at_different_moments():
    """At most a tenth is added."""
    worn = Wear(requests=100, jitter=lambda: 1.0)
    worn.answered = 110
    assert worn.reason == ""
    worn.answered = 111
    assert worn.reason != ""


def test_workers_whose_models_seed_alike_leave_at_different_moments():
    """A Runnable may seed Python's random numbers when it is loaded."""
    lives = set()
    for _ in range(20):
        random.seed(0)
        worn = Wear(requests=10_000)
        while not worn.reason:
            worn.answered += 10
        lives.add(worn.answered)
    assert len(lives) > 1


def load(server: ServedClient, stop: threading.Event) -> list[int]:
    """Call until told to stop, each caller with rows of its own; return how many calls each made.

    Any failure, and any answer with another's row, is raised.
    """

    def call(caller: int) -> int:
        made = 0
        with Client(server.address) as client:
            while not stop.is_set():
                row = np.array([[caller, made]], "float32")
                np.testing.assert_array_equal(client.predict("echo", row), row)
                made += 1
        return made

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(call, range(CALLERS)))


def restarts(server: ServedClient) -> list[int]:
    """Return how often each worker was started again."""
    rows = server.status()["processes"]
    return [row["restarts"] for row in rows if row["kind"] == "worker"]


@pytest.mark.parametrize("workers", [1, 2])
def test_recycling_under_load_fails_nobody(workers: int):
    """Every worker is replaced twice, at once and one at a time; no call fails or is mixed up."""
    stop = threading.Event()
    with (
        serve("echo", echo=True, workers=workers, recycle_requests=150) as server,
        ThreadPoolExecutor(1) as background,
    ):
        # Else the first may be worn, and rightly leave, before the second has ever been ready.
        wait_for(lambda: server.status()["models"]["echo:1"]["workers"] == workers)
        calls = background.submit(load, server, stop)
        try:
            wait_for(lambda: calls.done() or min(restarts(server), default=0) >= 2)
        finally:
            stop.set()
        made = calls.result()
        model = server.status()["models"]["echo:1"]
        log = server.log.read_text()
    assert model["requests"] == {"ok": sum(made)}
    assert "leaves: it has answered" in log
    assert "ended (exit code 0); it is started again in" in log
    assert model["requeued"] == model["fenced"] == 0
    if workers == 2:
        assert never_both_away(log)


def never_both_away(log: str) -> bool:
    """Return whether one of two workers was ready whenever the other one left."""
    ready: set[str] = set()
    for line in log.splitlines():
        words = line.split()
        if "dispatcher" not in words or "worker" not in words:
            continue
        name = words[words.index("worker") + 1]
        if " is ready on " in line:
            ready.add(name)
        elif " leaves: " in line:
            if len(ready) < 2:
                return False
            ready.discard(name)
    return True


def test_a_worker_that_grows_is_replaced():
    """It needs about 40 MB when it is ready, and holds a request of 100 MB for 2.5 seconds."""
    with serve("echo", echo=True, recycle_memory=100) as server:
        held = np.full((64, 400_000), 2.5, "float32")

        def call() -> bool:
            return server.predict("echo", held, method="slow", timeout=60).shape == held.shape

        wait_for(lambda: call() and restarts(server)[0] > 0)
        assert "MB are resident" in server.log.read_text()
        assert server.status()["models"]["echo:1"]["requests"].keys() == {"ok"}
