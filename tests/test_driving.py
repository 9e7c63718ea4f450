"""Callers that drive the gateway themselves: who polls, who follows, and what may go wrong."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client_world import ROWS, Dispatcher, dispatcher, method, model, rows
from tfrunner import casting
from tfrunner.background import BackgroundGateway
from tfrunner.driving import Driver, Hooks
from tfrunner.errors import DeadlineExceeded, Overloaded, Unavailable
from tfrunner.promises import Promise
from tfrunner.protocol import Hello, Submit
from tfrunner.specs import MethodSpec

LIMIT = 20.0


@pytest.fixture
def server(run_root: Path) -> Iterator[Dispatcher]:
    """Run a dispatcher that answers every request with its input."""
    with dispatcher(run_root) as running:
        yield running


@pytest.fixture
def gateway(server: Dispatcher) -> Iterator[BackgroundGateway]:
    """Give an open gateway."""
    with BackgroundGateway(server.address) as opened:
        yield opened


def arguments(gateway: BackgroundGateway, value: Any, name: str = "__call__") -> tuple[Any, ...]:
    """Return model, method and call, as `run` and `submit` take them."""
    spec = gateway.find("echo")
    wanted: MethodSpec = spec.methods[name]
    return spec, wanted, casting.cast(wanted, (value,), {})


def run(gateway: BackgroundGateway, value: Any, name: str = "__call__", *, timeout: float = LIMIT):
    """Wait for an answer."""
    return gateway.run(*arguments(gateway, value, name), timeout=timeout)


def submit(gateway: BackgroundGateway, value: Any, name: str = "__call__"):
    """Return the future of an answer."""
    return gateway.submit(*arguments(gateway, value, name), timeout=LIMIT)


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.001)


def in_thread(act: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Do something in a thread of its own; return the future of what it returns."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def perform() -> None:
        try:
            future.set_result(act())
        except BaseException as exc:
            future.set_exception(exc)

    threading.Thread(target=perform).start()
    return future


def test_a_lone_caller_gets_its_answer_in_its_own_thread(gateway: BackgroundGateway) -> None:
    """No other thread takes part: the callback of a future runs in the one that waits for it."""
    threads: list[int] = []
    for value in range(20):
        future = submit(gateway, rows(1) + value)
        gateway.drive(future, LIMIT)
        future.add_done_callback(lambda _: threads.append(threading.get_ident()))
        np.testing.assert_array_equal(future.result(), rows(1) + value)
    assert threads == [threading.get_ident()] * 20


def test_a_caller_that_waits_long_serves_the_others(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """One thread drives, for a request without an answer; the others get theirs."""
    slow = in_thread(lambda: run(gateway, rows(), "silent", timeout=5.0))
    assert server.waited_for.wait(LIMIT)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        values = [rows() + number for number in range(200)]
        for value, answer in zip(
            values, threads.map(lambda each: run(gateway, each), values), strict=True
        ):
            np.testing.assert_array_equal(answer, value)
    assert not slow.done()
    with pytest.raises(DeadlineExceeded):
        slow.result(LIMIT)


def test_a_shorter_deadline_of_a_follower_wakes_who_drives(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """Deadlines are kept by whoever drives, also those that come while it sleeps."""
    slow = in_thread(lambda: run(gateway, rows(), "silent", timeout=4.0))
    assert server.waited_for.wait(LIMIT)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"gave no answer within 0\.1 s"):
        run(gateway, rows(), "silent", timeout=0.1)
    assert not slow.done(), f"it came after {time.monotonic() - begin} s"
    with pytest.raises(DeadlineExceeded):
        slow.result(LIMIT)


def test_futures_that_nobody_waits_for_are_answered(gateway: BackgroundGateway) -> None:
    """The keeper drives, with callbacks and with `concurrent.futures.wait`."""
    called: concurrent.futures.Future[Any] = concurrent.futures.Future()
    submit(gateway, rows()).add_done_callback(called.set_result)
    np.testing.assert_array_equal(called.result(LIMIT).result(), rows())
    futures = [submit(gateway, rows() + number) for number in range(300)]
    done, waiting = concurrent.futures.wait(futures, LIMIT)
    assert len(done) == 300
    assert not waiting
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(), rows() + number)


def test_requests_that_begin_together_leave_together(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """The first leaves at once; those that follow while it is under way share messages."""
    server.pause()
    try:
        futures = [submit(gateway, rows() + number) for number in range(200)]
    finally:
        server.resume()
    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(LIMIT), rows() + number)
    together = [len(each.requests) for each in server.messages if isinstance(each, Submit)]
    assert sum(together) == 200
    assert together[0] == 1
    assert len(together) <= 20, together


def test_a_callback_may_call_again(gateway: BackgroundGateway) -> None:
    """In whatever thread it runs: the keeper's, or that of a caller that waits."""
    again: list[concurrent.futures.Future[Any]] = [concurrent.futures.Future() for _ in range(2)]
    submit(gateway, rows()).add_done_callback(
        lambda done: again[0].set_result(run(gateway, done.result() + 1))
    )
    np.testing.assert_array_equal(again[0].result(LIMIT), rows() + 1)
    first, second = submit(gateway, rows()), submit(gateway, rows() + 5)
    first.add_done_callback(lambda done: again[1].set_result(run(gateway, done.result() + 2)))
    np.testing.assert_array_equal(second.result(LIMIT), rows() + 5)
    np.testing.assert_array_equal(again[1].result(LIMIT), rows() + 2)


def test_a_cancelled_future_cancels_its_request(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """The dispatcher is told; the others go on."""
    silent = submit(gateway, rows(), "silent")
    assert server.waited_for.wait(LIMIT)
    assert silent.cancel()
    assert silent.cancel()
    assert server.cancelled.wait(LIMIT)
    with pytest.raises(concurrent.futures.CancelledError):
        silent.result()
    np.testing.assert_array_equal(run(gateway, rows()), rows())


def test_an_error_is_that_of_its_request(gateway: BackgroundGateway) -> None:
    """With the name that the server's logs give to it."""
    failing, passing = submit(gateway, rows(), "fail"), submit(gateway, rows())
    assert isinstance(failing.exception(LIMIT), Overloaded)
    with pytest.raises(Overloaded) as caught:
        failing.result()
    assert str(caught.value.request_id).startswith("client.")
    np.testing.assert_array_equal(passing.result(LIMIT), rows())


def test_what_is_unanswered_fails_when_the_gateway_is_closed(server: Dispatcher) -> None:
    """Whoever drives, follows, or holds a future; no thread is left."""
    before = threading.active_count()
    gateway = BackgroundGateway(server.address)
    gateway.start()
    waiting = [in_thread(lambda: run(gateway, rows(), "silent")) for _ in range(3)]
    waiting.append(submit(gateway, rows(), "silent"))
    exchange = gateway._exchange
    assert exchange is not None
    eventually(lambda: len(exchange.pending) == 4)
    gateway.close()
    for each in waiting:
        with pytest.raises(Unavailable, match="closed"):
            each.result(LIMIT)
    eventually(lambda: threading.active_count() == before)


def test_a_silent_gateway_says_hello(gateway: BackgroundGateway, server: Dispatcher) -> None:
    """The keeper does what is due while nobody calls."""

    def hellos() -> int:
        return sum(isinstance(each, Hello) for each in server.messages)

    before = hellos()
    eventually(lambda: hellos() >= before + 2)


class Interrupted(Exception):
    """What the test's signal raises in the main thread."""


def test_a_turn_that_is_cut_short_loses_nobodys_answer(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """A signal's handler may raise anywhere in the thread that drives; the others go on."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    stop = threading.Event()
    main = threading.get_ident()
    cut = 0

    def call_on() -> int:
        count = 0
        while not stop.is_set():
            np.testing.assert_array_equal(run(gateway, rows() + count), rows() + count)
            count += 1
        return count

    others = [in_thread(call_on) for _ in range(2)]
    try:
        for number in range(60):
            alarm = threading.Timer(
                0.0007 * (number % 7), lambda: signal.pthread_kill(main, signal.SIGUSR1)
            )
            try:
                alarm.start()
                while True:
                    run(gateway, rows())
            except Interrupted:
                cut += 1
            alarm.join()
        np.testing.assert_array_equal(run(gateway, rows()), rows())
    finally:
        stop.set()
        signal.signal(signal.SIGUSR1, before)
    assert cut == 60
    assert all(each.result(LIMIT) > 0 for each in others)


def test_a_turn_without_an_end_is_made_up_for(
    gateway: BackgroundGateway, server: Dispatcher
) -> None:
    """The next one connects anew, and sends again what is unanswered."""
    exchange, driver = gateway._exchange, gateway._driver
    assert exchange is not None
    assert driver is not None
    identity = exchange.link.identity
    server.pause()
    patient = submit(gateway, rows())
    with driver.lock:
        driver.begin()  # and no end
    server.resume()
    np.testing.assert_array_equal(run(gateway, rows() + 1), rows() + 1)
    np.testing.assert_array_equal(patient.result(LIMIT), rows())
    assert exchange.link.identity != identity


def test_what_must_not_run_twice_fails_after_a_cut_turn(run_root: Path) -> None:
    """Nobody knows whether it was begun."""
    with dispatcher(run_root) as server:
        server.models = [model(silent=method("silent", ("x", ROWS), repeatable=False))]
        with BackgroundGateway(server.address) as gateway:
            future = submit(gateway, rows(), "silent")
            assert server.waited_for.wait(LIMIT)
            driver = gateway._driver
            assert driver is not None
            with driver.lock:
                driver.begin()  # and no end
            with pytest.raises(Unavailable, match="must not run twice"):
                future.result(LIMIT)


class Desk:
    """Something to drive: answers are put in by the test, and set by `deliver`."""

    def __init__(self) -> None:
        self.answers: list[Awaited] = []
        self.flushes = 0
        self.is_settled = True
        self.driver = Driver(Hooks(self.flush, lambda: None, self.deliver, lambda: self.is_settled))

    def flush(self) -> None:
        """Count the flushes."""
        self.flushes += 1

    def deliver(self) -> bool:
        """Set what has an answer."""
        answers, self.answers = self.answers, []
        for each in answers:
            each.set()
        return bool(answers)

    def __enter__(self) -> Desk:
        self.driver.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.driver.close(lambda: 0.0)


class Awaited:
    """A future that may only be waited for by driving."""

    def __init__(self, then: Callable[[], Any] | None = None) -> None:
        self._then = then
        self._is_done = False

    def set(self) -> None:
        """Set it, and call back."""
        self._is_done = True
        if self._then is not None:
            self._then()

    def done(self) -> bool:
        """Whether it is set."""
        return self._is_done

    def follow(self, timeout: float | None) -> None:
        """Refuse."""
        raise AssertionError("somebody else was thought to drive")


def test_an_answer_that_another_thread_reads_wakes_who_drives() -> None:
    """Whoever sends also reads, and may find the answer of the thread that sleeps."""
    with Desk() as desk:
        awaited = Awaited()
        driving = in_thread(lambda: desk.driver.drive(awaited, LIMIT))
        eventually(lambda: desk.flushes > 0)
        begin = time.monotonic()
        desk.answers = [awaited]
        desk.driver.deliver()
        driving.result(LIMIT)
        assert time.monotonic() - begin < LIMIT / 2, "it slept on"


def test_what_becomes_due_earlier_wakes_who_drives() -> None:
    """It sleeps until what was due next when it went to sleep."""
    with Desk() as desk:
        awaited, begin = Awaited(), time.monotonic()
        driving = in_thread(lambda: desk.driver.drive(awaited, LIMIT))
        eventually(lambda: desk.flushes > 0)
        with desk.driver.lock:
            desk.driver.agenda.call_later(0.01, awaited.set)
        driving.result(LIMIT)
        assert awaited.done()
        assert time.monotonic() - begin < LIMIT / 2, "it slept on"


def test_a_callback_of_who_drives_drives_on() -> None:
    """It holds the seat already; afterwards the outer wait goes on."""
    with Desk() as desk:
        inner = Awaited()

        def wait_again() -> None:
            desk.answers = [inner]
            desk.driver.drive(inner, LIMIT)

        outer = Awaited(wait_again)
        desk.answers = [outer]
        desk.driver.drive(outer, LIMIT)
        assert outer.done()
        assert inner.done()


@pytest.mark.parametrize("way", ["pushed", "hastened"])
def test_the_keeper_sees_to_what_nobody_waits_for(way: str) -> None:
    """Though no callback is due at any time."""
    with Desk() as desk:
        desk.is_settled = False
        if way == "hastened":
            desk.driver.hasten()
        else:
            with desk.driver.lock:
                desk.driver.push(is_due=False)
        eventually(lambda: desk.flushes > 0)
        desk.is_settled = True


class Helpful:
    """What a promise needs of its gateway, counting."""

    def __init__(self) -> None:
        self.hastened = 0
        self.gate = threading.RLock()

    def drive(self, promise: Promise, timeout: float | None) -> None:
        """Keep the promise."""
        promise.set_result(timeout)

    def hasten(self) -> None:
        """Count."""
        self.hastened += 1

    def drop(self, id: int) -> None:
        """Do nothing."""


def test_who_is_called_back_cannot_drive() -> None:
    """So the gateway is told that somebody must, unless the answer is there."""
    desk = Helpful()
    promise = Promise(desk)
    promise.add_done_callback(lambda done: None)
    assert desk.hastened == 1
    assert promise.result(3.0) == 3.0
    promise.add_done_callback(lambda done: None)
    assert desk.hastened == 1


FORKED = """
import os, sys
import numpy as np
from tfrunner.client import Client
client = Client(sys.argv[1], timeout=20)
x = np.arange(6, dtype="float32").reshape(3, 2)
future = client.submit("echo", x)
assert (client.predict("echo", x) == x).all()
reading, writing = os.pipe()
child = os.fork()
if not child:
    try:
        same = [bool((client.predict("echo", x + n) == x + n).all()) for n in range(50)]
        os.write(writing, b"y" if all(same) else b"n")
    finally:
        os._exit(0)
same = [bool((client.predict("echo", x - n) == x - n).all()) for n in range(50)]
os.waitpid(child, 0)
assert os.read(reading, 1) == b"y", "the child"
assert all(same) and (future.result(20) == x).all()
assert (client.predict("echo", x) == x).all()
client.close()
"""


def test_parent_and_child_of_a_fork_both_go_on(server: Dispatcher) -> None:
    """The child connects anew, and leaves the parent's socket alone."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, server.address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
