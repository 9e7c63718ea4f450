"""Whether and when a failed call is made again. `Attempts` decides, and is told `now`.

A call is repeated while it is Unavailable, within the caller's timeout, where that is safe:
the method may run twice, or the server certainly has not begun it. It certainly has not if
nothing was sent, or if the server refused the request.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from tfrunner.errors import DeadlineExceeded, TFRunnerError, Unavailable, WorkerLost

T = TypeVar("T")

OPEN_SECONDS = 10.0
"""How long a first call waits for a server, if its timeout is not shorter."""

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 1.0
"""Bounds of the back-off, which doubles."""

LEAST_SECONDS = 0.05
"""An attempt that would have less than this is not made: the error of the one before says more."""

DRAW = random.SystemRandom().random
"""Users may seed Python's own random numbers, and each process alike."""


class Attempts:
    """The attempts of one call.

    Args:
        timeout: Seconds that the call may take.
        now: The monotonic moment at which it begins.
        is_enabled: Whether there may be a second attempt.
        patience: Seconds after which a server that was never met is not waited for any more.
        draw: Gives numbers from 0 to 1 that spread the attempts of many callers.

    Attributes:
        is_repeatable: Whether the call may run twice; set by who learns which method it is.
        may_have_run: Whether the server may have begun the last attempt; set by who made it.
        is_alone: Whether the last attempt met no server; set by who made it.
    """

    __slots__ = (
        *("_count", "_draw", "_is_too_late", "_last", "deadline", "is_alone", "is_enabled"),
        *("is_repeatable", "may_have_run", "meet_by", "timeout"),
    )

    def __init__(
        self,
        timeout: float,
        *,
        now: float,
        is_enabled: bool = True,
        patience: float = float("inf"),
        draw: Callable[[], float] = DRAW,
    ) -> None:
        self.timeout = timeout
        self.deadline = now + timeout
        self.meet_by = now + min(timeout, patience)
        self.is_enabled = is_enabled
        self.is_repeatable = True
        self.may_have_run = False
        self.is_alone = False
        self._draw = draw
        self._count = 0
        self._is_too_late = False
        self._last: TFRunnerError | None = None

    def left(self, now: float) -> float:
        """Return the seconds that are left for an attempt of which nothing was sent yet.

        Raises:
            DeadlineExceeded: There are none.
        """
        self._is_too_late = now >= self.deadline
        return seconds_left(self.deadline, now)

    def pause(self, error: TFRunnerError, now: float) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is none, or no time.

        Args:
            error: What the last attempt came to.
            now: The monotonic moment of its end.
        """
        if not (self.is_enabled and isinstance(error, Unavailable) and self._is_safe(error)):
            return None
        longest: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0**self._count)
        seconds = longest * (0.5 + self._draw() / 2)
        if error.retry_after is not None:
            seconds = max(seconds, error.retry_after * (1 + self._draw() / 4))
        if now + seconds + LEAST_SECONDS > (self.meet_by if self.is_alone else self.deadline):
            return None
        self._count += 1
        self._last = error
        self.is_alone = self.may_have_run = False
        return seconds

    def outcome(self, error: TFRunnerError) -> TFRunnerError:
        """Return what the caller is told, once there is no other attempt."""
        last = self._last
        if self._is_too_late and last is not None:
            return last
        if isinstance(error, Unavailable) and not self._is_safe(error) and self.may_have_run:
            return _reworded(error, f"{error.message} It may have run; it was not sent again.")
        if isinstance(error, DeadlineExceeded) and last is not None:
            text = f"{error.message}; the attempt before failed: {last.message}"
            return _reworded(error, text, request_id=error.request_id or last.request_id)
        return error

    def pause_or_raise(self, error: TFRunnerError, now: float) -> float:
        """Return what `pause` does; where there is no other attempt, raise the `outcome`."""
        seconds = self.pause(error, now)
        if seconds is not None:
            return seconds
        outcome = self.outcome(error)
        if outcome is error:
            raise error
        raise outcome from error

    def _is_safe(self, error: Unavailable) -> bool:
        return self.is_repeatable or not (self.may_have_run or isinstance(error, WorkerLost))


def seconds_left(deadline: float, now: float) -> float:
    """Return the seconds that are left.

    Raises:
        DeadlineExceeded: There are none.
    """
    left = deadline - now
    if left <= 0:
        raise DeadlineExceeded("the timeout passed before the request could be sent")
    return left


def first_attempt(timeout: float, *, is_enabled: bool, has_met: bool) -> Attempts:
    """Return the attempts of a client's call that begins now.

    A server that the client has met is waited for; where nobody was ever met there may never
    be one.

    Args:
        timeout: Seconds.
        is_enabled: Whether there may be a second attempt.
        has_met: Whether a server has answered this client before.
    """
    patience = float("inf") if has_met else OPEN_SECONDS
    return Attempts(timeout, now=monotonic(), is_enabled=is_enabled, patience=patience)


def _reworded(
    error: TFRunnerError, message: str, *, request_id: str | None = None
) -> TFRunnerError:
    request_id = request_id or error.request_id
    return type(error)(message, retry_after=error.retry_after, request_id=request_id)


def repeat(attempts: Attempts, act: Callable[[float], T], *, sleep: Callable[[float], object]) -> T:
    """Return what `act`, given the seconds left, returns; again while that is of use.

    Raises:
        TFRunnerError: What the last attempt raised.
    """
    while True:
        try:
            return act(attempts.left(monotonic()))
        except TFRunnerError as exc:
            seconds = attempts.pause_or_raise(exc, monotonic())
        sleep(seconds)


async def async_repeat(
    attempts: Attempts,
    act: Callable[[float], Awaitable[T]],
    *,
    sleep: Callable[[float], Awaitable[object]],
) -> T:
    """As `repeat`, in an event loop."""
    while True:
        try:
            return await act(attempts.left(monotonic()))
        except TFRunnerError as exc:
            seconds = attempts.pause_or_raise(exc, monotonic())
        await sleep(seconds)
