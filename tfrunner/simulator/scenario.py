"""What is simulated: a model, its workers, its bounds, the way to them and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfrunner.config import DEFAULTS
from tfrunner.simulator.models import Cost


@dataclass(frozen=True)
class Scenario:
    """Everything but the arrivals and the policy.

    Args:
        cost: What a batch takes on a worker of speed 1.
        speeds: The speed of each worker; those that are equal are of one device class.
        max_batch_size: Rows.
        deadline: Seconds that each request has; what is answered later counts for nothing.
        transfer: Seconds that a batch takes to the worker and back, half of them each way.
        queue_requests: Requests that may wait.
        first_run: Seconds that the first batch of each size takes longer on each worker.
        is_warm: Whether the workers ran and timed the powers of two before they said ready.
        alarm: Seconds to which the shell rounds its sleep up; 0: it wakes at the very moment.
        sizes: The sizes that the workers run, rising; other batches are padded; (): any.
    """

    cost: Cost
    speeds: tuple[float, ...] = (1.0,)
    max_batch_size: int = DEFAULTS.max_batch_size
    deadline: float = DEFAULTS.timeout
    transfer: float = 0.0
    queue_requests: int = DEFAULTS.queue_requests
    first_run: float = 0.0
    is_warm: bool = True
    alarm: float = 0.001
    sizes: tuple[int, ...] = ()

    @property
    def warmed(self) -> tuple[int, ...]:
        """The sizes that a worker warms."""
        return self.sizes or sizes_up_to(self.max_batch_size)

    def padded(self, rows: int) -> int:
        """Return the rows that a worker runs for a batch of so many."""
        return next((size for size in self.sizes if size >= rows), rows)

    @property
    def capacity(self) -> float:
        """The rows per second that all workers can run at the best size, once it has drifted."""
        sizes = self.sizes or range(1, self.max_batch_size + 1)
        rate = max(rows / self.cost.mean(rows, math.inf) for rows in sizes)
        return rate * sum(self.speeds)


def sizes_up_to(most: int) -> tuple[int, ...]:
    """Return the powers of two below `most`, and `most`."""
    return (*(2**power for power in range(most.bit_length()) if 2**power < most), most)
