"""What the dispatcher counts for each model, as plain numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any

BOUNDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds of the histograms' buckets, in seconds."""


RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Upper bounds for actual over predicted time: 1 is a prediction that came true."""


class Histogram:
    """Counts of numbers, by default of durations in seconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, number: float) -> None:
        """Count one number."""
        self.counts[bisect_left(self.bounds, number)] += 1
        self.sum += number

    def quantile(self, share: float) -> float | None:
        """Return an upper bound of a quantile; None before anything was counted."""
        wanted = share * sum(self.counts)
        if not wanted:
            return None
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            wanted -= count
            if wanted <= 0:
                return bound
        return float("inf")

    def merge(self, other: Histogram) -> None:
        """Count what another one of the same bounds has counted."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class Ledger:
    """Counters of one model."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()  # "ok", an error code, "expired", "cancelled"
        self.refused: Counter[str] = Counter()  # by reason
        self.batch_rows: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()  # why batches were sent
        self.dropped: Counter[str] = Counter()  # why requests left the queue unanswered
        self.rows = 0
        self.padded_rows = 0
        self.batches = 0
        self.requeued = 0
        self.bisected = 0
        self.poisoned = 0
        self.late = 0
        self.fenced = 0
        self.out_of_memory = 0
        self.queue_seconds = Histogram()
        self.run_seconds: defaultdict[str, Histogram] = defaultdict(Histogram)  # by method
        self.prediction_ratio = Histogram(RATIOS)
        self.predicted_seconds = 0.0
        self.error_seconds = 0.0

    def count_run(self, method: str, rows: int, seconds: float) -> None:
        """Count a batch that was run."""
        self.batches += 1
        self.rows += rows
        self.batch_rows[rows] += 1
        self.run_seconds[method].add(seconds)

    def count_prediction(self, expected: float, seconds: float) -> None:
        """Count how good a prediction was."""
        self.prediction_ratio.add(seconds / expected)
        self.predicted_seconds += expected
        self.error_seconds += abs(seconds - expected)

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        run_seconds = Histogram()
        for of_method in self.run_seconds.values():
            run_seconds.merge(of_method)
        return {
            "requests": dict(self.outcomes),
            "refused": dict(self.refused),
            "batch_rows": {str(rows): count for rows, count in sorted(self.batch_rows.items())},
            "reasons": dict(self.reasons),
            "dropped": dict(self.dropped),
            "rows": self.rows,
            "padded_rows": self.padded_rows,
            "batches": self.batches,
            "requeued": self.requeued,
            "bisected": self.bisected,
            "poisoned": self.poisoned,
            "late": self.late,
            "fenced": self.fenced,
            "out_of_memory": self.out_of_memory,
            "queue_seconds": self.queue_seconds.as_data(),
            "run_seconds": run_seconds.as_data(),
            "prediction_ratio": self.prediction_ratio.as_data(),
            "predicted_seconds": self.predicted_seconds,
            "error_seconds": self.error_seconds,
        }
