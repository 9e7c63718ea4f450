"""Regenerate the tables and plots of docs/batching.md: policies on every kind of arrivals.

    python benchmarks/batching.py                 # all of it, about ten minutes on two cores
    python benchmarks/batching.py --quick --dry   # a look, nothing is written

Everything happens in virtual time, so the machine does not matter; seeds are range(n).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfrunner.simulator.arrivals import Poisson
from tfrunner.simulator.contestants import BEST_STATIC, CONTESTANTS, SHIPPED, Row, compare, contest
from tfrunner.simulator.plots import draw_comparison, draw_lines
from tfrunner.simulator.results import Summary
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.suite import PROCESSES, RESNET, setups, situation
from tfrunner.simulator.theory import latency_bound

DOCS = Path(__file__).parent.parent / "docs"
LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FACTORS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
WAY = 0.0003
"""Seconds to a worker and back in the second column of the bound."""


class Effort(NamedTuple):
    """How much is simulated."""

    seeds: int
    deadlines: float  # for so many of them requests come
    bound_seeds: int
    bound_requests: int
    seconds: float  # of each load in the overload


FULL = Effort(2, 40.0, 20, 20_000, 3.0)
QUICK = Effort(1, 20.0, 3, 20_000, 1.0)


class Work(NamedTuple):
    """One set of arrivals on one setup with one seed."""

    setup: str
    process: str
    seed: int
    deadlines: float


# --- simulating -----------------------------------------------------------------------------


def run_comparison(work: Work) -> list[Row]:
    """Return a row for each policy, the best static pair last."""
    scenario, arrivals, requests = situation(work.setup, work.process, work.deadlines)
    trace = arrivals.draw(requests, np.random.default_rng(work.seed))
    names = (*CONTESTANTS, BEST_STATIC)
    return compare(names, work.process, scenario, trace, seed=work.seed)


def run_bound(work: tuple[float, float, Effort]) -> tuple[float, float]:
    """Return mean latency and bound at one load: one worker, batches as large as they come."""
    load, way, effort = work
    rate = load / RESNET.per_row
    scenario = Scenario(RESNET, max_batch_size=4096, transfer=way, queue_requests=10**6)
    means = []
    for seed in range(effort.bound_seeds):
        trace = Poisson(rate).draw(effort.bound_requests, np.random.default_rng(seed))
        means.append(contest(SHIPPED, scenario, trace, seed=seed).summary().mean)
    return float(np.mean(means)), latency_bound(
        rate, base=RESNET.base + way, per_row=RESNET.per_row
    )


def run_overload(work: tuple[str, float, Effort]) -> tuple[float, float]:
    """Return goodput, and the longest time until a refusal, at a load."""
    name, factor, effort = work
    scenario = setups()["one"].scenario
    goodput, slowest = [], 0.0
    for seed in range(effort.seeds):
        arrivals = Poisson(factor * scenario.capacity)
        requests = int(effort.seconds * arrivals.rate)
        trace = arrivals.draw(requests, np.random.default_rng(seed))
        outcome = contest(name, scenario, trace, seed=seed)
        goodput.append(outcome.summary().goodput)
        slowest = max(slowest, float(np.nanmax(outcome.failed, initial=0.0)))
    return float(np.mean(goodput)), slowest


# --- summing up -----------------------------------------------------------------------------


def average(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the mean of each policy's numbers over the seeds; a best static loses its pair."""
    rows = []
    for same in zip(*runs, strict=True):
        numbers = np.mean([row.summary for row in same], axis=0)
        pairs = dict.fromkeys(row.policy for row in same)
        name = " / ".join(pairs)
        rows.append(Row(same[0].arrivals, name, Summary(*map(float, numbers))))
    return rows


def comparison_table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown; the highest goodput of each trace in bold."""
    lines = [
        "| arrivals | policy | in time/s | in time | mean | p50 | p99 | busy | refused | rows |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        s = row.summary
        best = max(r.summary.goodput for r in rows if r.arrivals == row.arrivals)
        shown = f"{s.goodput:.0f}"
        lines.append(
            f"| {row.arrivals} | {row.policy} | "
            + (f"**{shown}**" if s.goodput >= 0.999 * best else shown)
            + f" | {s.in_time:.1%} | {ms(s.mean)} | {ms(s.p50)} | {ms(s.p99)} "
            f"| {s.utilisation:.0%} | {s.refused:.1%} | {s.rows:.1f} |"
        )
    return "\n".join(lines)


def verdict_table(results: dict[str, list[Row]]) -> str:
    """Return the shipped policy's goodput as a share of others', for every setup and trace."""
    lines = [
        "| setup | arrivals | of the best static pair | of the best reference policy | that is |",
        "|---|---|---:|---:|---|",
    ]
    for setup, rows in results.items():
        for name in dict.fromkeys(row.arrivals for row in rows):
            own, others, static = contenders(rows, name)
            best = max(others, key=lambda row: row.summary.goodput)
            lines.append(
                f"| {setup} | {name} | {share(own, static)} | {share(own, best)} | {best.policy} |"
            )
    return "\n".join(lines)


def contenders(rows: Iterable[Row], arrivals: str) -> tuple[Row, list[Row], Row]:
    """Return the shipped policy's row, those of the references, and the best static pair's."""
    own, *others, static = (row for row in rows if row.arrivals == arrivals)
    return own, others, static


def share(own: Row, other: Row) -> str:
    """Return the goodput of one as a share of the other's; below its target in bold."""
    value = own.summary.goodput / other.summary.goodput
    least = 0.95 if other.policy.startswith("static ") else 0.98
    return f"{value:.1%}" if value >= least else f"**{value:.1%}**"


def ms(seconds: float) -> str:
    """Return seconds as milliseconds."""
    return "-" if math.isnan(seconds) else f"{seconds * 1e3:.1f} ms"


def bound_table(found: dict[tuple[float, float], tuple[float, float]]) -> str:
    """Return the mean latencies beside the bounds."""
    lines = [
        "| load | mean | bound | mean / bound | mean with transfer | bound | mean / bound |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for load in LOADS:
        cells = []
        for way in (0.0, WAY):
            mean, bound = found[load, way]
            cells += [f"{mean * 1e3:.3f} ms", f"{bound * 1e3:.3f} ms", f"{mean / bound:.3f}"]
        lines.append(f"| {load} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def effort_text(effort: Effort) -> str:
    """Return how much was simulated."""
    return (
        f"Simulated here: each trace lasts {effort.deadlines:g} deadlines, the mean of seeds 0 to "
        f"{effort.seeds - 1}; for the bound "
        f"{effort.bound_requests} requests, the mean of seeds 0 to {effort.bound_seeds - 1}; for "
        f"the overload {effort.seconds:g} s at each load."
    )


# --- writing --------------------------------------------------------------------------------


def put(text: str, name: str, body: str) -> str:
    """Return a document with what stands between the marks of a name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{body}\n{end}{tail}"


def main() -> None:
    """Simulate, then write the document and its plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests and seeds")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    parser.add_argument("--only", nargs="*", help="setups; none: only bound and overload")
    parser.add_argument("--processes", type=int, default=2, help="processes to simulate in")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    names = tuple(setups()) if options.only is None else tuple(options.only)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        results = compare_all(pool.map, names, effort)
        keys = [(load, way) for way in (0.0, WAY) for load in LOADS]
        bounds = dict(zip(keys, pool.map(run_bound, [(*k, effort) for k in keys]), strict=True))
        policies = tuple(CONTESTANTS)
        grid = [(name, factor, effort) for name in policies for factor in FACTORS]
        overload = dict(zip(grid, pool.map(run_overload, grid), strict=True))
    bodies = {
        "effort": effort_text(effort),
        "verdict": verdict_table(results),
        "bound": bound_table(bounds),
        "overload": overload_table(policies, effort, overload),
        **{setup: comparison_table(rows) for setup, rows in results.items()},
    }
    if options.dry:
        print("\n\n".join(f"{name}\n\n{body}" for name, body in bodies.items()))
        return
    path = DOCS / "batching.md"
    text = path.read_text()
    for name, body in bodies.items():
        text = put(text, name, body)
    path.write_text(text)
    draw(results, bounds, {f"{n}": [overload[n, f, effort] for f in FACTORS] for n in policies})


def compare_all(
    mapped: Callable[..., Iterable[Any]], names: Sequence[str], effort: Effort
) -> dict[str, list[Row]]:
    """Return the mean rows of every setup."""
    works = [
        Work(setup, process, seed, effort.deadlines)
        for setup in names
        for process in PROCESSES
        for seed in range(effort.seeds)
    ]
    runs: dict[tuple[str, str], list[list[Row]]] = {}
    for work, rows in zip(works, mapped(run_comparison, works), strict=True):
        runs.setdefault((work.setup, work.process), []).append(rows)
    results: dict[str, list[Row]] = {}
    for (setup, _), same in runs.items():
        results.setdefault(setup, []).extend(average(same))
    return results


def overload_table(
    policies: Sequence[str], effort: Effort, found: dict[Any, tuple[float, float]]
) -> str:
    """Return goodput at each load, and how long refusals took at the highest."""
    head = " | ".join(f"{factor:g} x" for factor in FACTORS)
    lines = [f"| policy | {head} | slowest error |", "|---|" + "---:|" * (len(FACTORS) + 1)]
    for name in policies:
        cells = [found[name, factor, effort] for factor in FACTORS]
        goodput = " | ".join(f"{cell[0]:.0f}" for cell in cells)
        lines.append(f"| {name} | {goodput} | {ms(max(cell[1] for cell in cells))} |")
    return "\n".join(lines)


def draw(
    results: dict[str, list[Row]],
    bounds: dict[tuple[float, float], tuple[float, float]],
    overload: dict[str, list[tuple[float, float]]],
) -> None:
    """Draw every plot of the document."""
    for setup, rows in results.items():
        draw_comparison(rows, DOCS / f"batching-{setup}.png", title=setups()[setup].text)
    lines = {
        "tfrunner": (LOADS, [bounds[load, 0.0][0] * 1e3 for load in LOADS]),
        "bound (Inoue)": (LOADS, [bounds[load, 0.0][1] * 1e3 for load in LOADS]),
    }
    draw_lines(
        lines,
        DOCS / "batching-bound.png",
        title="Mean latency of one worker, ResNet50, batches as large as they come",
        across="load: arrivals x time of a row",
        up="ms",
        is_log=True,
    )
    draw_lines(
        {name: (FACTORS, [cell[0] for cell in cells]) for name, cells in overload.items()},
        DOCS / "batching-overload.png",
        title=setups()["one"].text,
        across="arrivals as a share of the capacity",
        up="answered in time, requests/s",
    )


if __name__ == "__main__":
    main()
