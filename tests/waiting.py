"""Waiting for something that must happen, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT = 60.0
PAUSE = 0.02


def wait_for(what: Callable[[], T], *, limit: float = LIMIT) -> T:
    """Return the first true value of `what`; fail if none comes within `limit` seconds."""
    deadline = time.monotonic() + limit
    while not (value := what()):
        assert time.monotonic() < deadline, f"it did not happen within {limit} s"
        time.sleep(PAUSE)
    return value
