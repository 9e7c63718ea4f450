"""What queueing theory says of a batching server: a bound that no policy of ours may pass."""

from __future__ import annotations


def latency_bound(rate: float, *, base: float, per_row: float) -> float:
    """Return an upper bound of the mean latency of one server that always takes all that waits.

    Poisson arrivals, any batch size, a batch of b rows takes `base + per_row * b` seconds.
    Source: Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching: a
    closed-form characterization", Performance Evaluation 147 (2021), arXiv 1912.06322.

    Args:
        rate: Requests per second; `rate * per_row` is below 1.
        base: Seconds of a batch without rows, tau0.
        per_row: Seconds that each row adds, alpha.
    """
    load = rate * per_row
    busy = rate * base
    light = (per_row + base) / (2 * (1 - load)) * (1 + 2 * busy + (1 - busy) / (1 + load))
    heavy = 1.5 * base / (1 - load) + per_row / 2 * (load + 2) / (1 - load**2)
    return min(light, heavy)
