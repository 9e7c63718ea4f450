"""Whose request is being answered: known where it came in, needed where runners are called."""

from __future__ import annotations

from contextvars import ContextVar

CALLER: ContextVar[str] = ContextVar("tfrunner.caller", default="")
"""The name of the API key of the request that this task or thread answers; "" for none."""
