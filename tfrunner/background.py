"""A gateway in a thread of its own, for callers that have no event loop.

The runner outside a Service and the synchronous client both use it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tfrunner.casting import Call
from tfrunner.errors import StateError
from tfrunner.gateway import Answer, Gateway
from tfrunner.specs import MethodSpec, ModelSpec


class BackgroundGateway:
    """A gateway, its event loop, and the thread that runs it; safe to call from any thread.

    Args:
        address: The dispatcher's frontend.
        name: Name of the gateway; its identity begins with it.
        find: Says where the dispatcher listens by now, asked while it does not answer.
    """

    def __init__(
        self, address: str, *, name: str = "client", find: Callable[[], str] | None = None
    ) -> None:
        self.gateway = Gateway(address, name=name, find=find)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self.gateway.address

    def __repr__(self) -> str:
        return f"<BackgroundGateway {self.address} [{'open' if self._loop else 'closed'}]>"

    def start(self, timeout: float = 10.0) -> None:
        """Start the thread and connect; wait for the dispatcher at most `timeout` seconds.

        Raises:
            Unavailable: No dispatcher answered.
            StateError: It is started already.
        """
        if self._loop is not None:
            raise StateError("The connection is open already.")
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_serve, args=(loop,), name="tfrunner-gateway", daemon=True
        )
        self._loop = loop
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.gateway.open(timeout), loop).result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the gateway and end the thread; what is unanswered fails. Safe to repeat."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        try:
            asyncio.run_coroutine_threadsafe(self._close_gateway(loop), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _close_gateway(self, loop: asyncio.AbstractEventLoop) -> None:
        await self.gateway.close()
        await loop.shutdown_default_executor()

    def submit(
        self,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
    ) -> Future[Answer]:
        """Send a call; return the future of its answer. Cancelling it cancels the request.

        Raises:
            StateError: The connection is not open.
        """
        loop = self._running()
        future: Future[Answer] = Future()

        def send() -> None:
            if not future.cancelled():
                inner = self.gateway.submit(model, method, call, timeout=timeout, client=client)
                inner.add_done_callback(lambda done: _settle(future, done))
                future.add_done_callback(lambda outer: _forward_cancel(loop, outer, inner))

        def start() -> None:
            try:
                send()
            except BaseException as exc:
                future.set_exception(exc)

        loop.call_soon_threadsafe(start)
        return future

    def ask(self, timeout: float = 2.0) -> dict[str, Any]:
        """Return the dispatcher's state as plain data.

        Raises:
            StateError: The connection is not open.
            Unavailable: No dispatcher answered in time.
        """
        loop = self._running()
        return asyncio.run_coroutine_threadsafe(self.gateway.ask(timeout), loop).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise StateError("The connection is not open: call start() first.")
        return self._loop

    def __enter__(self) -> BackgroundGateway:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the event loop; runs in the gateway's thread."""
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _settle(future: Future[Answer], done: asyncio.Future[Answer]) -> None:
    """Hand an answer to the thread that waits for it; runs in the gateway's thread."""
    if done.cancelled():
        future.cancel()
        return
    error = done.exception()
    if not future.set_running_or_notify_cancel():
        return  # the caller stopped waiting; else, from here on, it cannot be cancelled
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())


def _forward_cancel(
    loop: asyncio.AbstractEventLoop, outer: Future[Answer], inner: asyncio.Future[Answer]
) -> None:
    if outer.cancelled() and not inner.done() and not loop.is_closed():
        loop.call_soon_threadsafe(inner.cancel)
