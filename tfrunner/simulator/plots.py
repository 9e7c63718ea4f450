"""Plots as PNG files. Needs the extra `plot`: matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrunner.errors import ConfigError
from tfrunner.simulator.contestants import Row
from tfrunner.simulator.results import Summary

COLOURS = ("#d1495b", "#30638e", "#66a182", "#edae49", "#7d5ba6", "#8d99ae", "#003d5b")
"""Of the policies, in the order in which they are named; told apart by the colour-blind too."""


def draw_comparison(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draw goodput, and mean and p99 latency, of each policy on each trace.

    Args:
        rows: The results; every trace has the same policies in the same order.
        path: The PNG file.
        title: What was simulated.

    Raises:
        ConfigError: matplotlib is missing, or the file cannot be written.
    """
    figure, (upper, lower) = _figure(2)
    traces = list(dict.fromkeys(row.arrivals for row in rows))
    by_trace = [[row for row in rows if row.arrivals == name] for name in traces]
    policies = [_family(row.policy) for row in by_trace[0]]
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        found = [each[number].summary for each in by_trace]
        places = [index + (number - (len(policies) - 1) / 2) * width for index in range(len(found))]
        colour = COLOURS[number % len(COLOURS)]
        upper.bar(places, [s.goodput for s in found], width, color=colour, label=policy)
        mean, p99 = ([each * 1e3 for each in both] for both in _latencies(found))
        lower.vlines(places, mean, p99, color=colour, linewidth=2, alpha=0.5)
        lower.plot(places, mean, "o", color=colour, markersize=5)
        lower.plot(places, p99, "_", color=colour, markersize=8, markeredgewidth=2)
    upper.set_title(title, loc="left")
    upper.set_ylabel("answered in time, requests/s")
    lower.set_ylabel("latency, ms\n(dot: mean, dash: p99)")
    _scale_by_logarithm(lower)
    for axes in (upper, lower):
        axes.set_xticks(range(len(traces)), traces)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    _legend_and_save(figure, upper, path)


def draw_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    *,
    title: str,
    across: str,
    up: str,
    is_log: bool = False,
) -> None:
    """Draw lines over a common axis.

    Args:
        lines: By name: positions and values.
        path: The PNG file.
        title: What was simulated.
        across: What the positions are.
        up: What the values are.
        is_log: Whether the values stand on a logarithmic axis.

    Raises:
        ConfigError: matplotlib is missing, or the file cannot be written.
    """
    figure, (axes,) = _figure(1)
    for number, (name, (places, values)) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(places, values, marker="o", markersize=4, color=colour, label=name)
    axes.set_title(title, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    if is_log:
        _scale_by_logarithm(axes)
    else:
        axes.set_ylim(bottom=0)
    _legend_and_save(figure, axes, path)


def _latencies(found: Sequence[Summary]) -> tuple[list[float], list[float]]:
    """Return means and p99s in seconds."""
    return [each.mean for each in found], [each.p99 for each in found]


def _family(policy: str) -> str:
    """Return what the pairs of different traces have in common."""
    return "best static pair" if policy.startswith("static ") else policy


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    """Return an empty figure that no screen is needed for, and its panels."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        text = "plots need matplotlib, which is not installed: pip install 'tfrunner[plot]'."
        raise ConfigError(text) from exc
    figure = Figure(figsize=(10, 1.2 + 3.2 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _scale_by_logarithm(axes: Any) -> None:
    """Let the values rise by factors, and write them as people do: 0.5, 20."""
    axes.set_yscale("log")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(lambda value, _: f"{value:g}" if f"{value:g}".lstrip("0.")[:1] in "125" else "")


def _legend_and_save(figure: Any, axes: Any, path: Path) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as exc:
        raise ConfigError(f"the plot {path} cannot be written: {exc.strerror}.") from exc
