"""What a connection is told that is one too many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tfrunner.api.replies import Receive, Scope, Send, send_error
from tfrunner.api.state import RETRY_SECONDS, ProcessState
from tfrunner.errors import Overloaded

ALWAYS = frozenset(("/livez", "/healthz", "/readyz", "/metrics"))
"""Answered on any connection: a busy process must not look like a dead one."""


class Surplus:
    """The ASGI application of a connection above the limit.

    A refusal, and not a connection that waits to be accepted: callers learn at once what is
    the matter, also where they have set no timeout.

    Args:
        app: Answers what is always answered.
        state: The process's.
    """

    def __init__(self, app: Callable[..., Awaitable[Any]], state: ProcessState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503; the whole body is read first, as unread bytes would reset the answer."""
        if scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
            return
        while (message := await receive())["type"] == "http.request":
            if not message.get("more_body", False):
                break
        else:
            return
        limit = self._state.bounds.max_connections
        error = Overloaded(
            f"this process has its most connections, {limit}. Try again, keep fewer open, or "
            "raise the server's --max-connections.",
            retry_after=RETRY_SECONDS,
        )
        request_id = self._state.ids.take(dict(scope["headers"]).get(b"x-request-id"))
        self._state.count("http_refused", error.code)
        self._state.failures.write(error, request_id=request_id, where=scope["path"])
        if self._state.guard is not None:
            guard, where = self._state.guard, (scope["method"], scope["path"])
            guard.note_refusal(scope["client"], error.status, error, request_id, where=where)
        await send_error(send, error, request_id=request_id)
