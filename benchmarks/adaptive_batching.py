"""Draw the plot of docs/adaptive-batching.md: latency and batch sizes, from no load to full load.

    python benchmarks/adaptive_batching.py

In virtual time, with the dispatcher's own core: the same tree draws the same plot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfrunner.simulator.arrivals import Poisson
from tfrunner.simulator.contestants import contest
from tfrunner.simulator.results import Summary
from tfrunner.simulator.suite import setups

PICTURE = Path(__file__).parent.parent / "docs" / "adaptive-batching.png"
LOADS = (0.02, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94)
LINES = {
    "tfrunner: nothing to set": ("tfrunner", "#d1495b"),
    "64 rows, or 5 ms": ("static:64,5ms", "#30638e"),
    "64 rows, or 20 ms": ("static:64,20ms", "#66a182"),
    "no batching": ("static:1,0ms", "#8d99ae"),
}
REQUESTS = 12_000
KEEPS_UP = 0.99


def main() -> None:
    """Simulate every line, and draw them."""
    scenario = setups()["one"].scenario
    rates = [load * scenario.capacity for load in LOADS]
    traces = [Poisson(rate).draw(REQUESTS, np.random.default_rng(0)) for rate in rates]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, (policy, colour) in LINES.items():
        found = [contest(policy, scenario, trace).summary() for trace in traces]
        held = [summary for summary in found if summary.in_time >= KEEPS_UP]
        across = rates[: len(held)]
        upper.plot(across, [each.mean * 1e3 for each in held], "o-", color=colour, label=name, ms=4)
        lower.plot(across, [each.rows for each in held], "o-", color=colour, ms=4)
        print(f"{name:26}", *(cell(rate, each) for rate, each in zip(rates, found, strict=True)))
    upper.set_ylabel("mean latency, ms")
    lower.set_ylabel("rows in a batch")
    lower.set_xlabel("requests/s")
    upper.legend(frameon=False)
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(PICTURE, format="png", dpi=110)


def cell(rate: float, summary: Summary) -> str:
    """Return rate, mean latency and rows of a batch, to be read."""
    return f"{rate:.0f}:{summary.mean * 1e3:.1f}ms/{summary.rows:.1f}"


if __name__ == "__main__":
    main()
