"""Who waits for an answer in a thread: a caller that stands still, or a future for later."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Protocol, Union

from tfrunner.padding import Short


class Standing:
    """A caller that waits and does nothing else; cheaper than a future.

    (Measured: a future of the standard library costs 4 us, made, set and read.)
    """

    __slots__ = ("_error", "_gate", "_is_done", "_result", "cuts", "id")

    def __init__(self) -> None:
        self.id = 0
        self.cuts: tuple[Short, ...] = ()
        self._is_done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._gate: threading.Lock | None = None

    def done(self) -> bool:
        """Whether there is an answer."""
        return self._is_done

    def set_result(self, result: Any, /) -> None:
        """Put the answer in."""
        self._result = result
        self._end()

    def set_exception(self, exception: BaseException, /) -> None:
        """Put an error in."""
        self._error = exception
        self._end()

    def _end(self) -> None:
        self._is_done = True
        if self._gate is not None:
            self._gate.release()

    def follow(self, timeout: float | None) -> None:
        """Wait while another thread drives."""
        gate = threading.Lock()
        gate.acquire()
        self._gate = gate
        if not self._is_done:  # else it was set before it could see the gate
            gate.acquire(timeout=-1 if timeout is None else timeout)

    def result(self) -> Any:
        """Return the answer, once `done`."""
        if self._error is not None:
            raise self._error
        return self._result


class Desk(Protocol):
    """What a promise needs of its gateway."""

    def drive(self, promise: Promise, timeout: float | None) -> None:
        """Wait until it is kept, at most so many seconds."""

    def hasten(self) -> None:
        """Let somebody drive at once."""

    def drop(self, id: int) -> None:
        """Forget a request; the dispatcher is told."""


Rescue = Callable[["Promise", BaseException], Union[BaseException, None]]
"""Told what an attempt came to; returns what the caller gets, None if there is another attempt."""


class Promise(Future[Any]):
    """The future of one request; who waits for it drives the gateway meanwhile.

    Cancelling it cancels the request. Its result has Python's form.

    Attributes:
        rescue: Asked once, when the request fails, whether there is another attempt.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.id = 0
        self.cuts: tuple[Short, ...] = ()
        self.rescue: Rescue | None = None
        self._desk = desk

    def set_exception(self, exception: BaseException | None) -> None:
        """Put an error in, unless there is another attempt; that one sets the outcome."""
        rescue, self.rescue = self.rescue, None
        if exception is not None and rescue is not None:
            exception = rescue(self, exception)
            if exception is None:
                return
        super().set_exception(exception)

    def result(self, timeout: float | None = None) -> Any:
        """Return the outputs; wait for them at most so many seconds.

        Raises:
            TimeoutError: They did not come.
            TFRunnerError: What the request came to.
        """
        try:
            return super().result(0)
        except FutureTimeout:
            if self.done():
                raise  # the gateway's own DeadlineExceeded
        self._desk.drive(self, timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the request came to, None for outputs; otherwise as `result`."""
        if not self.done():
            self._desk.drive(self, timeout)
        return super().exception(0)

    def follow(self, timeout: float | None) -> None:
        """Wait while another thread drives."""
        with contextlib.suppress(FutureTimeout, CancelledError):
            super().exception(timeout)

    def cancel(self) -> bool:
        """Cancel; the dispatcher is told."""
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()  # who waits for several futures is told
        self._desk.drop(self.id)
        return True

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call back with the answer, in whatever thread drives then."""
        super().add_done_callback(fn)
        if not self.done():
            self._desk.hasten()
