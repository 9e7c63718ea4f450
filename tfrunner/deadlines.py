"""When the request must be answered for which calls of models are made: in an endpoint.

Kept in the context of the task or thread, so that runners find it wherever they are called.
Nothing is waited for that nobody can be told any more: a thread that waits for a model is free
again when its request has timed out.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic

SLACK_SECONDS = 0.1
"""The request's own timer answers first."""

LEAST_SECONDS = 0.001

_deadline: ContextVar[float | None] = ContextVar("tfrunner_deadline", default=None)


def begin_request(timeout: float) -> None:
    """Note that what runs in this context is for a request; `timeout`: seconds from now.

    Again for each piece of a streamed answer, which has that long of its own.
    """
    _deadline.set(monotonic() + timeout)


def bounded(seconds: float) -> float:
    """Return the seconds that a call may take: those that it asks for, or what is left."""
    deadline = _deadline.get()
    if deadline is None:
        return seconds
    return min(seconds, max(LEAST_SECONDS, deadline - monotonic() + SLACK_SECONDS))
