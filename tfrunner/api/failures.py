"""The log of failed requests: a line for each, and a count where there are too many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from tfrunner.errors import TFRunnerError

LINES_PER_SECOND = 20
"""More would cost an overloaded server more than its refusals do."""

logger = logging.getLogger("tfrunner.api")


class FailureLog:
    """Writes a line for every request that failed with a status of 500 or above.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._written = 0
        self._passed_over = 0

    def write(self, error: TFRunnerError, *, request_id: bytes, where: str) -> None:
        """Write the line of one request; the traceback too if the error is one of ours.

        Args:
            error: What it was answered with.
            request_id: The id that its caller knows.
            where: The model's tag, or the path where no model is known.
        """
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
            if self._passed_over:
                logger.warning("%d more requests failed just before", self._passed_over)
                self._passed_over = 0
        if self._written >= LINES_PER_SECOND:
            self._passed_over += 1
            return
        self._written += 1
        is_ours = type(error) is TFRunnerError and error.__cause__ is not None
        logger.log(
            logging.ERROR if is_ours else logging.WARNING,
            "request %s failed: %s, %d %s: %s",
            request_id.decode(),
            where,
            error.status,
            error.code,
            error.message,
            exc_info=error.__cause__ if is_ours else None,
        )
