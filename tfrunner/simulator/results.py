"""What came of the requests of a simulation, and the few numbers that tell it."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tfrunner.protocol import Span
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.traces import Trace


class Summary(NamedTuple):
    """The numbers of one simulation.

    Attributes:
        goodput: Requests answered within their deadline, per second of arrivals.
        mean: Mean latency of the answered requests in seconds; NaN if there is none.
        p50: Its median.
        p99: Its 99th percentile.
        utilisation: Share of the workers' time that they ran batches.
        refused: Share of the requests that were refused or dropped with an error.
        in_time: Share of the requests that were answered within their deadline.
        rows: Mean rows of a batch.
    """

    goodput: float
    mean: float
    p50: float
    p99: float
    utilisation: float
    refused: float
    in_time: float
    rows: float


class Outcome:
    """What came of the requests of one model.

    Attributes:
        open: Requests that are neither answered nor failed.
        latency: Seconds until the last row was answered; NaN where it was not.
        failed: Seconds until an error was answered; NaN where none was.
        codes: How many errors of each code.
        sizes: How many batches of each size.
        busy: Seconds that workers ran batches.
        fenced: Workers that were killed because they seemed to hang.
    """

    def __init__(self, trace: Trace, scenario: Scenario) -> None:
        self._arrived: list[float] = trace.times.tolist()
        self._rows_left: list[int] = trace.rows.tolist()
        self._scenario = scenario
        self._answered = [math.nan] * len(trace)
        self._failed = [math.nan] * len(trace)
        self._asked = trace.seconds
        self._last = trace.seconds
        self.open = len(trace)
        self.codes: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()
        self.busy = 0.0
        self.fenced = 0

    # --- while it runs ------------------------------------------------------------------------

    def count_rows(self, span: Span, now: float) -> None:
        """Count rows of a request as answered; the last ones close it."""
        number = span.request & 0xFFFFFFFF
        self._rows_left[number] -= span.stop - span.start
        if self._rows_left[number] == 0:
            self._answered[number] = now
            self._last = now
            self.open -= 1

    def count_failure(self, number: int, code: str, now: float) -> None:
        """Count a request as refused or failed."""
        self._failed[number] = now
        self.codes[code] += 1
        self.open -= 1

    def count_batch(self, rows: int, seconds: float) -> None:
        """Count a batch that a worker runs."""
        self.sizes[rows] += 1
        self.busy += seconds

    # --- afterwards ---------------------------------------------------------------------------

    @property
    def latency(self) -> NDArray[np.float64]:
        """Seconds from arrival to the last row of each request."""
        return np.subtract(self._answered, self._arrived, dtype=np.float64)

    @property
    def failed(self) -> NDArray[np.float64]:
        """Seconds from arrival to the error of each request."""
        return np.subtract(self._failed, self._arrived, dtype=np.float64)

    @property
    def is_in_time(self) -> NDArray[np.bool_]:
        """Whether each request was answered within its deadline."""
        # The last digits of moments are noise: an answer at the very deadline is in time.
        return np.less_equal(self.latency, self._scenario.deadline * (1 + 1e-9))

    @property
    def seconds(self) -> float:
        """The moment of the last arrival or answer."""
        return self._last

    @property
    def batches(self) -> int:
        """How many batches were run."""
        return sum(self.sizes.values())

    def summary(self) -> Summary:
        """Return the numbers that tell it."""
        latency = self.latency
        answered = latency[~np.isnan(latency)]
        in_time = int(self.is_in_time.sum())
        nothing = not len(answered)
        p50, p99 = (math.nan, math.nan) if nothing else np.quantile(answered, (0.5, 0.99))
        return Summary(
            # By the arrivals' time: the answers to the last of them do not make it longer.
            goodput=in_time / (self._asked or self.seconds),
            mean=math.nan if nothing else float(answered.mean()),
            p50=float(p50),
            p99=float(p99),
            utilisation=self.busy / (self.seconds * len(self._scenario.speeds)),
            refused=self.codes.total() / len(latency),
            in_time=in_time / len(latency),
            rows=sum(r * n for r, n in self.sizes.items()) / max(1, self.batches),
        )
