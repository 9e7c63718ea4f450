"""Answers that leave piece by piece, as an endpoint's function yields them.

1. The head leaves with the first piece: what fails before has a status of its own.
2. Each piece must come within the timeout; the time that the client takes to read counts not.
3. A client that goes away, a piece that is late, and an error end the function's iterator.
4. Once the head has left, an error can only end the connection without the end of the body:
   so the client knows that something is missing. The log has the request's id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from tfrunner.api.calls import Calls, Place, result_of
from tfrunner.api.replies import Receive, Send
from tfrunner.deadlines import begin_request
from tfrunner.errors import DeadlineExceeded

END = object()

CLOSE_SECONDS = 5.0
"""Given to an iterator to end."""


class Broken(Exception):
    """The answer has begun and cannot be finished; its cause says why."""


def is_stream(value: Any) -> bool:
    """Return whether a function gave pieces instead of a whole."""
    return any(hasattr(value, name) for name in ("__anext__", "__aiter__", "__next__"))


async def in_threads(pieces: Iterator[Any], calls: Calls, place: Place) -> AsyncIterator[Any]:
    """Yield what an iterator yields; it runs in threads, and is closed in one.

    Args:
        pieces: The user's.
        calls: Has the threads.
        place: Of the request.
    """

    def pull() -> Any:
        return next(pieces, END)

    def close() -> None:
        if (end := getattr(pieces, "close", None)) is not None:
            end()

    def close_after(done: asyncio.Future[Any]) -> None:
        calls.in_thread(close, place)
        place.leave()

    pulling: asyncio.Future[Any] | None = None
    try:
        while True:
            pulling = calls.in_thread(pull, place)
            piece = await asyncio.shield(pulling)
            if piece is END:
                return
            yield piece
    finally:
        if pulling is None or pulling.done():
            await calls.in_thread(close, place)
        else:  # a generator cannot be closed while it runs
            place.hold()  # else the pull is the last to leave, and the place is free before the end
            calls.give_up(pulling)
            pulling.add_done_callback(close_after)


class Streamed:
    """One answer on its way.

    Args:
        pieces: What the function yields.
        write: Turns a piece into bytes.
        timeout: Seconds for each piece.
        deadline: Moment by which the first piece must be there.
        what: What is late, for the message.
    """

    def __init__(
        self,
        pieces: AsyncIterator[Any],
        write: Callable[[Any], bytes],
        *,
        timeout: float,
        deadline: float,
        what: str,
    ) -> None:
        self._pieces = pieces
        self._write = write
        self._timeout = timeout
        self._due: float | None = deadline  # None: the client has to read first
        self._what = what
        self._has_begun = False

    def __repr__(self) -> str:
        return f"<Streamed {self._what} [{'begun' if self._has_begun else 'not begun'}]>"

    async def run(self, head: Callable[[], dict[str, Any]], receive: Receive, send: Send) -> None:
        """Send the answer; return when it is whole, or its client gone.

        Args:
            head: Gives the ASGI message that begins the answer.
            receive: ASGI's.
            send: ASGI's.

        Raises:
            Broken: It has begun and cannot be finished.
            DeadlineExceeded: The first piece was late.
            Exception: What the function raised before its first piece.
        """
        pump = asyncio.ensure_future(self._pump(head, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await self._watch(pump, gone)
        except Exception as exc:
            if self._has_begun:
                raise Broken from exc
            raise
        finally:
            gone.cancel()
            pump.cancel()
            await asyncio.wait((pump, gone), timeout=CLOSE_SECONDS)

    async def _watch(self, pump: asyncio.Future[None], gone: asyncio.Future[None]) -> None:
        clock = asyncio.get_running_loop().time
        while not pump.done() and not gone.done():
            left = self._timeout if self._due is None else self._due - clock()
            if left <= 0:
                raise DeadlineExceeded(f"{self._what} gave no piece within {self._timeout:g} s")
            await asyncio.wait((pump, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            result_of(pump)

    async def _pump(self, head: Callable[[], dict[str, Any]], send: Send) -> None:
        """Send what comes, in one task: the iterator may hold on to the task it runs in."""
        clock = asyncio.get_running_loop().time
        try:
            async for piece in self._pieces:
                data = self._write(piece)
                self._due = None
                await self._begin(head, send)
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                self._due = clock() + self._timeout
                begin_request(self._timeout)  # calls of models have as long as the next piece
        finally:
            self._due = None
            if (close := getattr(self._pieces, "aclose", None)) is not None:
                await close()
        await self._begin(head, send)
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, head: Callable[[], dict[str, Any]], send: Send) -> None:
        if not self._has_begun:
            message = head()
            self._has_begun = True
            await send(message)


async def _until_gone(receive: Receive) -> None:
    """Wait for the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
