"""Bars of text, for terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence

EIGHTHS = " ▏▎▍▌▋▊▉"
FULL = "█"


def bars(labels: Sequence[str], values: Sequence[float], texts: Sequence[str], width: int) -> str:
    """Return one line for each value: its label, a bar, its text.

    Args:
        labels: What stands at the left.
        values: The lengths; the largest fills the width, NaN and infinity have no bar.
        texts: What stands behind the bars.
        width: Columns of the longest bar.
    """
    left = max(map(len, labels), default=0)
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    lines = []
    for label, value, text in zip(labels, values, texts, strict=True):
        share = value / largest if largest > 0 and math.isfinite(value) else 0.0
        full, eighths = divmod(round(share * width * 8), 8)
        bar = FULL * full + EIGHTHS[eighths].strip()
        lines.append(f"{label:<{left}}  {bar:<{width}}  {text}".rstrip())
    return "\n".join(lines)
