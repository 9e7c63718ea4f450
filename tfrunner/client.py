"""Call a tfrunner server from Python: arrays in, arrays out.

    with Client() as client:
        outputs = client.predict("digits", images)

`Client` may be shared by any number of threads, and by the two sides of a fork; `AsyncClient`
belongs to one event loop.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar, Union

from tfrunner import config
from tfrunner.attempts import OPEN_SECONDS, Attempts, first_attempt, repeat
from tfrunner.client_address import describe, find_address, finder, is_http
from tfrunner.client_async import AsyncClient
from tfrunner.client_connection import HttpChannel, http_channel
from tfrunner.client_direct import DirectChannel
from tfrunner.client_models import ModelCall, ModelState, check_timeout, client_closed
from tfrunner.errors import DeadlineExceeded, NotFound, TFRunnerError, Unavailable
from tfrunner.forks import OfProcess
from tfrunner.renamed import Renamed

__all__ = ["AsyncClient", "Client", "ModelState", "find_address"]

SUBMIT_THREADS = 32
"""Threads in which `submit` calls over HTTP, and in which it makes further attempts."""

T = TypeVar("T")
Channel = Union[HttpChannel, DirectChannel]


class _Own:
    """What a process that was forked has to make anew."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal's handler may close what its thread opens
        self.threads: ThreadPoolExecutor | None = None


class Client:
    """Calls a server; a context manager. A process that was forked connects for itself.

    Args:
        address: `http://host:port`, `ipc://path` or `tcp://127.0.0.1:port`; None: the server
            that TFRUNNER_ADDRESS names, else the one that runs on this machine.
        timeout: Seconds that a call may take, where the call does not say.
        retries: Whether a call is made again, within its timeout, while the server is full,
            starting again or gone. That happens only where it is safe: the method may run
            twice, or the server has certainly not begun it.
    """

    from_url = Renamed()

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = config.DEFAULTS.timeout,
        retries: bool = True,
    ) -> None:
        self.timeout = check_timeout(timeout)
        self.retries = retries
        self._given = address
        self._own: OfProcess[_Own] = OfProcess(_Own)
        self._channel: Channel | None = None
        self._opening: Channel | None = None
        self._has_met = False
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return describe(self, self._given, self._channel)

    @property
    def address(self) -> str:
        """The address that is called."""
        channel = self._channel
        return channel.address if channel is not None else find_address(self._given)

    def predict(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a model on these inputs.

        Args:
            model: `name`, or `name:version`.
            args: Inputs in the order of the method's arguments: arrays, lists, numbers,
                strings, nested structures. One dict of all arguments by name is also taken.
            method: Name of the method; None: the model's default one.
            timeout: Seconds until DeadlineExceeded.
            kwargs: Inputs by name.

        Returns:
            An array, or the dict, tuple or list of arrays that the model gives, with the
            model's dtypes. Arrays may be read-only: copy one to change it.

        Raises:
            InvalidInput: The input does not fit; nothing was run.
            NotFound: The server has no such model, version or method.
            ModelError: The model's own code raised.
            Unavailable: No server answers, or it cannot now; `retry_after` says when it may.
                WorkerLost, or "may have run": it was begun, and must not run twice.
            DeadlineExceeded: No answer came within the timeout.
        """
        call = ModelCall(model, method, args, kwargs)
        return self._call(lambda channel, *left: channel.predict(call, *left), timeout)

    def submit(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Begin what `predict` does, and return a future of its outputs.

        So one thread can have any number of requests under way; requests that begin together
        travel together. Cancelling the future cancels the request. Over HTTP at most
        `SUBMIT_THREADS` are under way at once, the others wait for their turn; only those that
        wait can be cancelled, and the interpreter does not end before all have ended.

        Args:
            model: `name`, or `name:version`.
            args: As for `predict`; so are the others.
            method: Name of the method.
            timeout: Seconds from now until DeadlineExceeded.
            kwargs: Inputs by name.

        Raises:
            InvalidInput: The input does not fit.
            NotFound: The server has no such model, version or method.
            Unavailable: No server answers.
        """
        call = ModelCall(model, method, args, kwargs)
        timeout = self.timeout if timeout is None else check_timeout(timeout)
        begun = time.monotonic()
        channel = self._channel
        if not isinstance(channel, DirectChannel):
            attempts = self._attempts(timeout)
            if channel is None:
                channel = self._repeat(attempts, lambda left: self._open(attempts, left))
            if not isinstance(channel, DirectChannel):
                return self._in_thread(call, attempts)
        rescue = functools.partial(self._rescue, call, timeout, begun)
        return channel.submit(call, begun + timeout, rescue)

    def _in_thread(self, call: ModelCall, attempts: Attempts, pause: float = 0.0) -> Future[Any]:
        """Perform a call in another thread; return the future of its outputs."""

        def run() -> Any:
            self._closed.wait(pause)
            return self._act(lambda channel, *left: channel.predict(call, *left), attempts)

        own = self._own.get()
        with own.lock:
            if own.threads is None:
                own.threads = ThreadPoolExecutor(SUBMIT_THREADS, "tfrunner-submit")
            return own.threads.submit(run)

    def _rescue(
        self,
        call: ModelCall,
        timeout: float,
        begun: float,
        promise: Future[Any],
        error: BaseException,
    ) -> BaseException | None:
        """Make further attempts for a request that failed, where that is of use.

        Called by whoever drives the gateway: the attempts are made in another thread. Nothing
        of them is made before: nearly all requests need none.
        """
        if not isinstance(error, TFRunnerError):
            return error
        attempts = Attempts(timeout, now=begun, is_enabled=self.retries)
        attempts.is_repeatable = call.is_repeatable
        pause = attempts.pause(error, time.monotonic())
        if pause is None or self._closed.is_set():
            return attempts.outcome(error)
        try:
            later = self._in_thread(call, attempts, pause)
        except RuntimeError:  # it is closed meanwhile
            return error
        later.add_done_callback(functools.partial(_hand_over, promise))
        return None

    def call(self, endpoint: str, value: Any, *, timeout: float | None = None) -> Any:
        """Send a value to an endpoint of a Service, and return what it answers; over HTTP only.

        Args:
            endpoint: Its route, for most the name of its function.
            value: Bytes; text or an array, in its own form where the endpoint takes that;
                anything else as JSON.
            timeout: Seconds until DeadlineExceeded.

        Returns:
            The value of JSON, text or a .npy file; else bytes.

        Raises:
            NotFound: The server has no such endpoint.
            StateError: The client does not speak HTTP to its server.
            TFRunnerError: What the endpoint answers instead of a value.
        """

        def act(channel: Channel, attempts: Attempts, left: float) -> Any:
            return http_channel(channel, HttpChannel).call(endpoint, value, attempts, left)

        return self._call(act, timeout)

    def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """Return every model version that the server knows, and its state."""
        return self._call(lambda channel, *left: channel.models(*left), timeout)

    def is_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Return whether the server, or one model of it, answers requests now."""
        try:
            return self._call(
                lambda channel, attempts, left: channel.is_ready(model, attempts, left),
                timeout,
                retries=False,
            )
        except (NotFound, Unavailable, DeadlineExceeded):
            return False

    def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's whole state as plain data: models, workers, counters."""
        return self._call(lambda channel, *left: channel.status(*left), timeout)

    def close(self) -> None:
        """Close the connections; calls that wait fail. Safe to repeat."""
        self._closed.set()
        opening = self._opening
        if opening is not None:
            opening.close()  # who opens it holds the lock
        own = self._own.get()
        with own.lock:
            channel, self._channel = self._channel, None
            threads, own.threads = own.threads, None
        if channel is not None:
            channel.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self,
        act: Callable[[Channel, Attempts, float], T],
        timeout: float | None,
        *,
        retries: bool | None = None,
    ) -> T:
        """Return what `act` returns with the open channel; again while that is of use."""
        return self._act(act, self._attempts(timeout, retries=retries))

    def _attempts(self, timeout: float | None, *, retries: bool | None = None) -> Attempts:
        return first_attempt(
            self.timeout if timeout is None else check_timeout(timeout),
            is_enabled=self.retries if retries is None else retries,
            has_met=self._has_met,
        )

    def _act(self, act: Callable[[Channel, Attempts, float], T], attempts: Attempts) -> T:
        def once(left: float) -> T:
            channel = self._open(attempts, left)
            return act(channel, attempts, attempts.left(time.monotonic()))

        return self._repeat(attempts, once)

    def _repeat(self, attempts: Attempts, once: Callable[[float], T]) -> T:
        try:
            return repeat(attempts, once, sleep=self._closed.wait)
        finally:
            self._has_met = self._has_met or not attempts.is_alone

    def _open(self, attempts: Attempts, timeout: float) -> Channel:
        """Return the open channel; the first call of all opens it."""
        if self._channel is not None:
            return self._channel
        lock = self._own.get().lock
        if not lock.acquire(timeout=timeout):
            raise DeadlineExceeded(f"no connection to {self._given} within {timeout:.3g} s")
        try:
            if self._closed.is_set():
                raise client_closed()
            if self._channel is None:
                attempts.is_alone = True
                address = find_address(self._given)
                channel: Channel
                if is_http(address):
                    channel = HttpChannel(address)
                else:
                    channel = DirectChannel(address, find=finder(self._given))
                self._opening = channel
                channel.open(min(timeout, OPEN_SECONDS))
                attempts.is_alone = False
                self._channel = channel
            return self._channel
        finally:
            self._opening = None
            lock.release()


def _hand_over(promise: Future[Any], done: Future[Any]) -> None:
    """Give a promise what its further attempts came to."""
    with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
        error = Unavailable("the client was closed") if done.cancelled() else done.exception()
        if error is not None:
            promise.set_exception(error)
        else:
            promise.set_result(done.result())
