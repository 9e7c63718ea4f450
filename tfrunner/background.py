"""A gateway for callers that have no event loop: any number of threads share it.

The runner outside a Service and the synchronous client both use it.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from tfrunner.casting import Call
from tfrunner.deliveries import Outcomes, deliver, is_settled
from tfrunner.driving import Driver, Hooks
from tfrunner.errors import DeadlineExceeded, StateError, TFRunnerError
from tfrunner.exchange import Exchange, check_positive
from tfrunner.forks import OfProcess
from tfrunner.link import no_status, nobody_there
from tfrunner.promises import Promise, Rescue, Standing
from tfrunner.shared_memory import SEGMENT_BYTES
from tfrunner.specs import MethodSpec, ModelSpec

MANY = 64
"""So many requests leave at once; fewer wait for others, while the dispatcher has work."""

OPEN_SECONDS = 10.0
"""How long the dispatcher is waited for at most."""

SLACK_SECONDS = 0.5
"""How long after a request's timeout its gateway is given up: its own timer answers before."""


class BackgroundGateway:
    """A gateway that callers' threads share and drive; safe to call from any thread.

    In a process that was forked meanwhile it connects anew, with its first use.

    Args:
        address: The dispatcher's frontend.
        name: Name of the gateway; its identity begins with it.
        find: Says where the dispatcher listens by now, asked while it does not answer.
        shared: Bytes of shared memory for large bodies; 0: none.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str = "client",
        find: Callable[[], str] | None = None,
        shared: int = SEGMENT_BYTES,
    ) -> None:
        self._shared = shared
        self._name = name
        self._find = find
        self._given = address
        self._process = 0
        self._ready_in = 0  # the process that is connected; set last, so that threads may share it
        self._moving: OfProcess[threading.Lock] = OfProcess(threading.Lock)
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._exchange: Exchange | None = None
        self._driver: Driver | None = None
        self._outcomes: Outcomes = deque()
        self._inherited: list[object] = []
        self._parents_last_id = 0
        self.gate = threading.RLock()  # of promises; a signal's handler may look at one

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._given if self._exchange is None else self._exchange.link.address

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """What the dispatcher serves, by tag; right after a fork, what it served the parent."""
        if self._exchange is None:
            raise _not_open()
        return self._exchange.models

    def __repr__(self) -> str:
        return f"<BackgroundGateway {self.address} [{'open' if self._driver else 'closed'}]>"

    def start(self, timeout: float = OPEN_SECONDS) -> None:
        """Connect; wait for the dispatcher at most `timeout` seconds.

        Raises:
            Unavailable: No dispatcher answered.
            StateError: It is started already.
        """
        if self._driver is not None:
            raise StateError("The connection is open already.")
        self._connect(timeout)

    def _connect(self, timeout: float) -> None:
        self._process = os.getpid()
        exchange = Exchange(
            self._given,
            self._name,
            deliver=self._outcomes.append,
            find=self._find,
            owns=True,
            shared=self._shared,
            last_id=self._parents_last_id,
        )
        driver = Driver(
            Hooks(
                exchange.flush,
                exchange.restore,
                functools.partial(deliver, exchange, self._outcomes),
                functools.partial(is_settled, exchange, self._outcomes),
            )
        )
        driver.start()
        self._exchange, self._driver = exchange, driver
        self._finalizer = weakref.finalize(self, _let_go, exchange, driver, self._name)
        self._finalizer.atexit = False
        try:
            opened = Standing()
            with driver.lock:
                if driver.is_closed:  # by another thread
                    raise _not_open()
                driver.begin()
                exchange.open(driver.agenda, opened)
                driver.end()
            driver.drive(opened, timeout)
            if not opened.done():
                raise nobody_there(self.address, timeout)
            opened.result()
        except BaseException:
            self.close()
            raise
        self._ready_in = os.getpid()

    def close(self) -> None:
        """Close; what is unanswered fails. Safe to repeat."""
        driver, exchange = self._driver, self._exchange
        if driver is None or exchange is None:
            return
        self._given = exchange.link.address
        self._driver = self._exchange = None
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._process == os.getpid():
            _close(exchange, driver)

    def find(self, name: str, version: str | None = None) -> ModelSpec:
        """Return a served model; see `Gateway.find`."""
        return self._running()[0].find(name, version)

    def run(
        self,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
    ) -> Any:
        """Send a call; return its outputs in Python's form.

        Args:
            model: From `find`.
            method: Of the model.
            call: From `casting.cast`.
            timeout: Seconds.
            client: Whose fair share the request is counted against.

        Raises:
            StateError: The connection is not open.
            TFRunnerError: What the request came to.
        """
        exchange, driver = self._running(timeout)
        check_positive(timeout)
        caller = Standing()
        with driver.lock:
            driver.begin()
            exchange.submit(caller, model, method, call, timeout=timeout, client=client)
            driver.end()
        try:
            driver.drive(caller, timeout + SLACK_SECONDS)
        finally:
            if not caller.done():  # it was interrupted, or the gateway does not move
                self.drop(caller.id)
        if not caller.done():
            raise DeadlineExceeded(f"no answer from {self.address} within {timeout:.3g} s")
        return caller.result()

    def submit(
        self,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
        rescue: Rescue | None = None,
    ) -> Future[Any]:
        """As `run`, but return a future of the outputs. Cancelling it cancels the request.

        Args:
            model: As for `run`; so are the others.
            method: Of the model.
            call: From `casting.cast`.
            timeout: Seconds.
            client: Whose fair share the request is counted against.
            rescue: See `Promise`.

        Raises:
            StateError: The connection is not open.
        """
        exchange, driver = self._running(timeout)
        check_positive(timeout)
        promise = Promise(self)
        if rescue is not None:
            promise.rescue = rescue
        with driver.lock:
            driver.begin()
            exchange.submit(promise, model, method, call, timeout=timeout, client=client)
            driver.push(is_due=exchange.pending.fills(MANY))
            driver.end()
        if self._outcomes:
            driver.deliver()
        return promise

    def ask(self, timeout: float = 2.0) -> dict[str, Any]:
        """Return the dispatcher's state as plain data.

        Raises:
            StateError: The connection is not open.
            Unavailable: No dispatcher answered in time.
        """
        exchange, driver = self._running(timeout)
        reply = Standing()
        with driver.lock:
            driver.begin()
            try:
                id = exchange.link.ask(reply)
            except TFRunnerError:
                driver.end()
                raise
            driver.end()
        try:
            driver.drive(reply, timeout)
        finally:
            exchange.link.forget(id)
        if not reply.done():
            raise no_status(timeout)
        state: dict[str, Any] = reply.result()
        return state

    def drive(self, promise: Promise, timeout: float | None) -> None:
        """Wait until a promise is kept, at most so many seconds.

        Raises:
            StateError: It is the parent's of this process, which was forked.
        """
        driver = self._driver
        if promise.id <= self._parents_last_id or self._process not in (0, os.getpid()):
            raise StateError(
                "This request began before its process was forked: the answer comes to the "
                "parent. Call again here."
            )
        if driver is None:
            promise.follow(timeout)
        else:
            driver.drive(promise, timeout)

    def hasten(self) -> None:
        """Let nobody wait for a thread that would drive of itself."""
        if self._driver is not None and self._process == os.getpid():
            self._driver.hasten()

    def drop(self, id: int) -> None:
        """Forget a request; the dispatcher is told."""
        exchange, driver = self._exchange, self._driver
        if exchange is None or driver is None or self._process != os.getpid():
            return
        with driver.lock:
            driver.begin()
            exchange.pending.drop(id)
            exchange.flush()
            driver.end()
        driver.deliver()

    def _running(self, timeout: float = OPEN_SECONDS) -> tuple[Exchange, Driver]:
        if self._ready_in != os.getpid():  # looked at before what it speaks of
            self._move(timeout)
        exchange, driver = self._exchange, self._driver
        if exchange is None or driver is None:
            raise _not_open()
        return exchange, driver

    def _move(self, timeout: float) -> None:
        """Connect a process that was forked; one thread of it does, the others wait."""
        with self._moving.get():
            exchange, driver = self._exchange, self._driver
            if exchange is None or driver is None:
                raise _not_open()
            if self._process != os.getpid():
                self._connect_child(exchange, driver, min(timeout, OPEN_SECONDS))

    def _connect_child(self, exchange: Exchange, driver: Driver, timeout: float) -> None:
        """Connect anew: socket and threads are the parent's.

        The old socket is kept: to close it would reach into the parent's. Where nobody
        answers, the next use tries again.
        """
        parent = self._process
        self._parents_last_id = exchange.leave_to_parent()
        self._inherited += [exchange, driver, self._outcomes]
        if self._finalizer is not None:
            self._finalizer.detach()
        self._given = exchange.link.address
        self._outcomes = deque()
        self.gate = threading.RLock()
        try:
            self._connect(timeout)
        except BaseException:
            self._process, self._exchange, self._driver = parent, exchange, driver
            raise

    def __enter__(self) -> BackgroundGateway:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _let_go(exchange: Exchange, driver: Driver, name: str) -> None:
    """Have what nobody has closed closed by the thread that keeps it.

    A garbage collector may call this in any thread, whatever locks that holds.
    """
    driver.abandon(functools.partial(_close, exchange, driver))
    warnings.warn(f"{name} at {exchange.link.address} was not closed", ResourceWarning, 2)


def _close(exchange: Exchange, driver: Driver) -> None:
    exchange.link.close(driver.close(exchange.stop))


def _not_open() -> StateError:
    return StateError("The connection is not open: call start() first.")
