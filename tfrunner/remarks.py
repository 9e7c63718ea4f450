"""Warnings that point at the user's line, however deep inside tfrunner they arise."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

OURS = ("tfrunner", "tfrunner_workers")


def remark(message: str) -> None:
    """Warn whoever called tfrunner: of what was done otherwise than they wrote it."""
    level = 2
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        level += 1
        frame = frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level - 1 if frame is None else level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in OURS
