"""Large tensors in shared memory through a real server: deaths, timeouts, and no slot too early.

`shared_memory_world` says how a slot that is used again too early would show.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.faults import server as s
from tests.shared_memory_world import (
    COLUMNS,
    PATIENCE,
    Caller,
    caller,
    maps,
    row,
    wait_until_running,
)
from tests.waiting import wait_for
from tfrunner.errors import DeadlineExceeded, TFRunnerError
from tfrunner.pending import Pending
from tfrunner.testing import ServedClient, serve

OVERWRITES = -1.0
"""The mark that ends a worker which sleeps over a slot that is written again."""


def model(server: ServedClient) -> dict[str, Any]:
    """Return what the dispatcher counted."""
    state: dict[str, Any] = server.status()["models"]["echo:1"]
    return state


def check_no_worker_died(server: ServedClient) -> None:
    """No worker has read what was not meant for it."""
    counted = model(server)
    assert (counted["requeued"], counted["poisoned"], s.restarts(server, "worker")) == (0, 0, 0)


def test_a_body_goes_through_shared_memory_and_its_slot_is_used_again():
    """One slot of room serves any number of requests, one after the other."""
    with serve("echo", echo=True) as server, caller(server, rows=1) as it:
        assert it.way_of(row(1.0)) == "shared"
        for number in range(50):
            array = row(number)
            assert np.array_equal(it.submit(array).result(PATIENCE), array)
        assert it.way_of(row(2.0)) == "shared"
        assert it.ways() == {"shared": 52}
        (worker,) = s.processes(server, "worker")
        assert [name.split(":")[0] for name in maps(worker.pid)] == ["tfrunner"]


def test_where_there_is_no_room_bodies_are_frames():
    """A burst that needs four times the room is answered like any other."""
    with serve("echo", echo=True, max_batch_size=4) as server, caller(server, rows=8) as it:
        arrays = [row(number, seconds=0.01) for number in range(32)]
        (worker,) = s.processes(server, "worker")
        worker.suspend()  # else a slot is free again where this thread was kept waiting
        futures = [it.submit(array) for array in arrays]
        worker.resume()
        for array, future in zip(arrays, futures, strict=True):
            assert np.array_equal(future.result(PATIENCE), array)
        assert it.ways() == {"shared": 8, "no_room": 24}
        assert it.way_of(row(1.0)) == "shared"


def test_rows_of_an_oversize_request_are_read_from_one_slot_by_two_workers():
    """Row ranges: the slot is free once the last part is done."""
    options = {"workers": 2, "max_batch_size": 4}
    with serve("echo", echo=True, **options) as server, caller(server, rows=10) as it:
        array = np.concatenate([row(number) for number in range(10)])
        for _ in range(5):
            assert it.way_of(array) == "shared"


def time_out(it: Caller) -> None:
    """Let a request time out, and wait until that is known."""
    late = it.submit(row(1.0, seconds=5.0), timeout=2.0)
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE)


def cancel(it: Caller) -> None:
    """Cancel a request that runs."""
    assert it.submit(row(1.0, seconds=3.0)).cancel()


def nobody_reuses(server: ServedClient, it: Caller, leave: Any) -> None:
    """While a worker sleeps over the only slot, others go as frames; after that it is free."""
    assert it.way_of(row(0.0)) == "shared"
    held: list[Future[Any]] = []
    if leave is cancel:
        held.append(it.submit(row(1.0, seconds=3.0)))
        wait_until_running(server)
        assert held[0].cancel()
    else:
        leave(it)
    (worker,) = wait_until_running(server)
    assert it.way_of(row(2.0, mark=OVERWRITES)) == "no_room"
    wait_for(lambda: it.way_of(row(3.0)) == "shared")
    assert [each.pid for each in s.processes(server, "worker")] == [worker]
    check_no_worker_died(server)


@pytest.mark.parametrize("leave", [time_out, cancel], ids=["timeout", "cancellation"])
def test_a_slot_that_a_worker_holds_is_not_used_again(leave):
    """Who waits no more frees nothing: the worker is not done with it."""
    with serve("echo", echo=True) as server, caller(server, rows=1) as it:
        nobody_reuses(server, it, leave)


def test_freeing_at_the_timeout_would_be_found(monkeypatch):
    """The check above can fail: a worker reads another's bytes, and dies of them."""
    expire = Pending.expire

    def free_too_early(self: Pending[Any], now: float) -> list[Any]:
        late = expire(self, now)
        self.never_sent = {each.request.id for each in late}
        opened[0].gateway._exchange._lender.give_back(self.never_sent)
        return late

    opened: list[Caller] = []
    with serve("echo", echo=True) as server, caller(server, rows=1) as it:
        opened.append(it)
        monkeypatch.setattr(Pending, "expire", free_too_early)
        with pytest.raises(AssertionError):
            nobody_reuses(server, it, time_out)


def test_a_killed_worker_s_slot_is_read_again_by_the_next(tmp_path: Path):
    """Kill -9 in mid batch: the request runs again from where it lies, then the slot is free."""
    with serve("echo", echo=True, workers=2) as server, caller(server, rows=2) as it:
        array = row(1.0, seconds=2.0)
        future = it.submit(array)
        os.kill(wait_until_running(server)[0], signal.SIGKILL)
        other = row(2.0, mark=OVERWRITES)
        assert np.array_equal(it.submit(other, "__call__").result(PATIENCE), other)
        assert np.array_equal(future.result(PATIENCE), array)
        assert model(server)["requeued"] == 1
        for number in range(4):
            assert it.way_of(row(number)) == "shared"


def test_the_slot_of_a_worker_that_stands_still_is_free_once_it_is_reaped():
    """SIGSTOP: it could read on at any moment, until it is killed."""
    with serve("echo", echo=True, workers=2) as server, caller(server, rows=1) as it:
        assert it.way_of(row(0.0)) == "shared"
        late = it.submit(row(1.0, seconds=5.0), timeout=1.0)
        (stopped,) = wait_until_running(server)
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            late.result(PATIENCE)
        assert it.way_of(row(2.0, mark=OVERWRITES)) == "no_room"
        assert psutil.pid_exists(stopped)
        wait_for(lambda: it.way_of(row(3.0)) == "shared")
        assert stopped not in [each.pid for each in s.processes(server, "worker")]


def test_a_new_dispatcher_is_told_of_new_memory():
    """Kill -9 of the dispatcher: what is unanswered is sent again, old slots are never used."""
    with serve("echo", echo=True) as server, caller(server, rows=2) as it:
        assert it.way_of(row(0.0)) == "shared"
        array = row(1.0, seconds=1.0)
        future = it.submit(array)
        (worker,) = wait_until_running(server)
        before = maps(worker)
        s.processes(server, "dispatcher")[0].kill()
        assert np.array_equal(future.result(PATIENCE), array)
        assert np.array_equal(it.submit(row(2.0)).result(PATIENCE), row(2.0))
        after = wait_for(lambda: found if (found := maps(worker)) != before else [])
        assert len(before) == len(after) == 1
        check_no_worker_died(server)


GATEWAY = f"""
import sys
from tests.shared_memory_world import Caller, row
it = Caller(sys.argv[1], 8)
it.gateway.start()
futures = [it.submit(row(number, seconds=0.5)) for number in range(8)]
print("sent", flush=True)
futures[0].result({PATIENCE})
"""


def test_a_killed_gateway_leaves_nothing():
    """Kill -9 of a caller with bodies at a worker: neighbours are answered, its memory is freed."""
    with serve("echo", echo=True, max_batch_size=4) as server, caller(server, rows=4) as it:
        process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, server.address], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "sent\n"
        (worker,) = wait_until_running(server)
        arrays = [row(number) for number in range(4)]
        futures = [it.submit(array) for array in arrays]
        process.kill()
        process.communicate()
        for array, future in zip(arrays, futures, strict=True):
            assert np.array_equal(future.result(PATIENCE), array)
        wait_for(lambda: len(maps(worker)) == 1)
        check_no_worker_died(server)
        (own,) = [link for link in links(worker) if "memfd" in link]
        assert own.endswith(maps(worker)[0])


def links(pid: int) -> list[str]:
    """Return what the descriptors of a process are."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:
            continue
    return found


def test_http_bodies_are_lent_too():
    """A binary body over HTTP goes the same way, and the metric says so."""
    with serve("echo", echo=True) as server, httpx.Client(base_url=server.http_address) as http:
        array = row(3.0)
        headers = {
            "content-type": "application/octet-stream",
            "x-tensor-dtype": "float32",
            "x-tensor-shape": f"1,{COLUMNS}",
        }
        path = "/v1/models/echo:predict"
        answer = http.post(path, content=array.tobytes(), headers=headers)
        assert answer.content == array.tobytes()
        line = 'tfrunner_large_bodies_total{way="shared"} 1.0'
        wait_for(lambda: line in http.get("/metrics").text)


def test_a_storm_of_callers_who_leave_corrupts_nothing():
    """Timeouts, cancellations and a killed worker, with slots that are used again all the time."""
    rng = random.Random(7)
    options = {"workers": 2, "max_batch_size": 4}
    with serve("echo", echo=True, **options) as server, caller(server, rows=6) as it:
        assert it.way_of(row(0.0)) == "shared"
        asked: list[tuple[np.ndarray[Any, Any], Future[Any]]] = []
        for number in range(300):
            timeout = rng.choice([0.02, 0.05, PATIENCE])
            if rng.random() < 0.5:
                array, method = row(number, seconds=rng.choice([0.0, 0.01])), "work"
            else:
                array, method = row(number, mark=OVERWRITES), "__call__"
            future = it.submit(array, method, timeout)
            if rng.random() < 0.2:
                future.cancel()
            else:
                asked.append((array, future))
            if number % 4 == 0:
                asked[-1][1].exception(PATIENCE)
        answered = 0
        for array, future in asked:
            if not isinstance(future.exception(PATIENCE), TFRunnerError):
                assert np.array_equal(future.result(), array)
                answered += 1
        assert answered > 50
        check_no_worker_died(server)
        assert it.ways()["shared"] > 50
        wait_for(lambda: it.way_of(np.concatenate([row(n) for n in range(4)])) == "shared")
