"""One predict request of a connection and its answer, without ASGI and without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tfrunner.answer import Answer
from tfrunner.api.access_log import GONE
from tfrunner.api.replies import error_body, write_error

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from tfrunner.api.guard import Visit
    from tfrunner.api.heads import Head
    from tfrunner.api.predict import Predict, Submitted
    from tfrunner.api.targets import Target
    from tfrunner.protocol import Buffer

CLOSE = b"\r\nconnection: close\r\n"


class Exchange:
    """One request and its answer.

    It stands where uvicorn has its own request cycle: a connection's latest one says whether
    the connection is busy, and whether it may stay open.

    Args:
        predict: Answers it.
        target: What its path stands for.
        head: What its head says.
        done: Called once, when its answer can be written.

    Attributes:
        visit: Its visit at the guard; None: there is no guard.
    """

    __slots__ = (
        "_done",
        "_error",
        "_predict",
        "_submitted",
        "_target",
        "head",
        "is_done",
        "keep_alive",
        "request_id",
        "response_complete",
        "response_started",
        "scope",
        "visit",
    )

    def __init__(
        self, predict: Predict, target: Target, head: Head, *, done: Callable[[], None]
    ) -> None:
        self._predict = predict
        self._target = target
        self._done = done
        self._submitted: Submitted | None = None
        self._error: Exception | None = None
        self.head = head
        self.request_id = predict.state.ids.take(head.request_id)
        self.keep_alive = head.keep_alive
        self.is_done = False
        self.response_started = False
        self.response_complete = False
        self.scope = None
        self.visit: Visit | None = None

    def __repr__(self) -> str:
        state = "answered" if self.response_complete else "done" if self.is_done else "waiting"
        return f"<Exchange {self.head.path} [{state}]>"

    def submit(self, body: bytes) -> None:
        """Send the request on its way; its body is whole."""
        try:
            client = "" if self.visit is None else self.visit.client
            self._submitted = self._predict.submit(
                self._target, self.head, body, client=client, request_id=self.request_id
            )
        except Exception as exc:
            self.fail(exc)
        else:
            self._submitted.future.add_done_callback(self._take)

    def fail(self, error: Exception) -> None:
        """Have it answered with an error."""
        self._error = error
        self.is_done = True
        self._done()

    def cancel(self) -> None:
        """Drop the request: its caller is gone."""
        self.response_complete = True
        if self.visit is not None:
            self.visit.end(GONE, 0, self.request_id)
        if self._submitted is None:
            return
        future = self._submitted.future
        if future.done():
            if not future.cancelled():
                future.exception()  # else asyncio complains that nobody looked at it
        else:
            future.cancel()

    def write(self) -> list[Buffer]:
        """Return the answer as it goes over the wire, the head apart."""
        self.response_started = self.response_complete = True
        # The connection keeps its latest exchange: it must not keep the answer too.
        submitted, self._submitted = self._submitted, None
        error, self._error = self._error, None
        if submitted is None:
            assert error is not None
            return self._write_error(error, is_submitted=False)
        try:
            written = submitted.write(submitted.future.result())
        except (Exception, asyncio.CancelledError) as exc:
            return self._write_error(exc, is_submitted=True)
        pieces, headers = written
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        begin = self._predict.state.first_lines(submitted.form.content_type)
        end = b"\r\n" if self.keep_alive else CLOSE
        if headers:
            end += b"".join(b"%s: %s\r\n" % header for header in headers)
        if self.visit is not None:
            end += b"".join(b"%s: %s\r\n" % header for header in self.visit.headers)
            self.visit.end(200, size, self.request_id)
        return [b"%s%d\r\nx-request-id: %s%s\r\n" % (begin, size, self.request_id, end), *pieces]

    def _write_error(self, exc: BaseException, *, is_submitted: bool) -> list[Buffer]:
        error = self._predict.understand(
            exc, self.request_id, path=self.head.path, is_submitted=is_submitted
        )
        lines = [] if self.keep_alive else [(b"connection", b"close")]
        default = self._predict.state.default_lines()
        if self.visit is not None:
            lines += self.visit.headers
            self.visit.end(error.status, len(error_body(error, self.request_id)), self.request_id)
        return [write_error(error, self.request_id, default=default, extra=lines)]

    def _take(self, future: asyncio.Future[Answer]) -> None:
        """Note that the answer is there."""
        if not self.response_complete:  # else it was cancelled
            self.is_done = True
            self._done()


def end_with(
    latest: RequestResponseCycle | Exchange, earlier: RequestResponseCycle | Exchange | None
) -> None:
    """Have the last of pipelined requests say that the connection ends, not the one before it."""
    latest.keep_alive = False
    if earlier is not None and not earlier.response_started:
        earlier.keep_alive = True
