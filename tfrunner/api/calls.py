"""Calls of one Service's functions: in the event loop or in threads, with deadlines and bounds.

A function that runs in a thread cannot be stopped. What is still running beyond its deadline, or
for a caller that is gone, keeps its place until it ends: so a handler that blocks takes the
threads of its own Service only, and further requests are refused instead of waiting for it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tfrunner.errors import DeadlineExceeded, Overloaded
from tfrunner.service import Service

T = TypeVar("T")

THREADS = 64
"""Of each Service: as many rows as a batch takes, so that they fill one."""

RETRY_SECONDS = 1.0
"""After which a refused caller may try again."""


class Place:
    """One of the requests that a Service works on, until all who work on it have left."""

    __slots__ = ("_calls", "_holders")

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._holders = 1

    def hold(self) -> None:
        """Take part: one more has to leave."""
        self._holders += 1

    def leave(self) -> None:
        """Leave; the last one lets another request have the place."""
        self._holders -= 1
        if not self._holders:
            self._calls.running -= 1


class Calls:
    """Runs the functions of one Service in this process.

    Args:
        service: Whose they are.

    Attributes:
        running: Requests that are worked on.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.running = 0
        self._abandoned = 0
        self._threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<Calls {self._service.name} [{self.running} running | {self._abandoned} late]>"

    def enter(self, *, needs_thread: bool) -> Place:
        """Take a place for a request.

        Args:
            needs_thread: Whether its function runs in one.

        Raises:
            Overloaded: There is none.
        """
        limit = self._service.max_concurrency
        if limit is not None and self.running >= limit:
            raise Overloaded(
                f"too many requests: the Service {self._service.name!r} works on {self.running}, "
                "and its max_concurrency allows no more",
                retry_after=RETRY_SECONDS,
            )
        if needs_thread and self._abandoned >= THREADS:
            raise Overloaded(
                f"all {THREADS} threads of the Service {self._service.name!r} are held by "
                "functions that run beyond their timeouts",
                retry_after=RETRY_SECONDS,
            )
        self.running += 1
        return Place(self)

    def in_loop(self, work: Coroutine[Any, Any, T], place: Place) -> asyncio.Future[T]:
        """Return the future of what runs in the event loop.

        Args:
            work: What a function of the user's does.
            place: Held until it has ended, even if nobody waits for it any more.
        """
        place.hold()
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: place.leave())
        return task

    def in_thread(self, work: Callable[[], T], place: Place) -> asyncio.Future[T]:
        """Return the future of what runs in a thread of the Service.

        Args:
            work: It must not raise StopIteration.
            place: Held until it has ended, even if nobody waits for it any more.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, f"worker-{self._service.name}")
        place.hold()
        loop = asyncio.get_running_loop()
        begun = self._threads.submit(contextvars.copy_context().run, work)
        future = asyncio.wrap_future(begun)

        def leave(done: asyncio.Future[T]) -> None:
            if begun.done():
                place.leave()
            else:  # cancelled, and runs
                self._abandoned += 1
                begun.add_done_callback(tell)

        def tell(done: concurrent.futures.Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(end)

        def end() -> None:
            self._abandoned -= 1
            place.leave()

        future.add_done_callback(leave)
        return future

    def give_up(self, future: asyncio.Future[Any]) -> None:
        """Count what runs in a thread as late until it ends, though it is not cancelled.

        Args:
            future: Of `in_thread`, not done; somebody has to know when it ends.
        """
        self._abandoned += 1
        future.add_done_callback(self._end_late)

    def _end_late(self, done: asyncio.Future[Any]) -> None:
        self._abandoned -= 1

    def close(self) -> None:
        """Begin nothing more; threads end with what they are doing."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


async def wait_until(future: asyncio.Future[T], deadline: float, *, what: str, timeout: float) -> T:
    """Return a future's result; cancel it if it is not there in time.

    Args:
        future: Of a call.
        deadline: Moment of the event loop's clock.
        what: What is late, for the message.
        timeout: Seconds that the caller was promised.

    Raises:
        DeadlineExceeded: The time is over.
    """
    left = deadline - asyncio.get_running_loop().time()
    try:
        done, _ = await asyncio.wait((future,), timeout=max(0.0, left))
    except asyncio.CancelledError:
        future.cancel()
        raise
    if not done:
        future.cancel()
        raise DeadlineExceeded(f"{what} gave no answer within {timeout:g} s")
    return result_of(future)


def result_of(future: asyncio.Future[T]) -> T:
    """Return the result of a future that is done and that nobody here has cancelled.

    Raises:
        RuntimeError: The function's own code has.
    """
    if future.cancelled():
        raise RuntimeError("the function was cancelled by what it called")
    return future.result()
