"""The plot of a book: answers per second in every closed cell. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contestants import OURS
from benchmarks.peers.matches import CLIENT, IN_PROCESS
from benchmarks.peers.summary import Line, lines

COLOURS = ("#d1495b", "#30638e", "#66a182", "#edae49", "#7d5ba6", "#8d99ae", "#003d5b", "#a0785a")
OTHER = (CLIENT, IN_PROCESS, f"{IN_PROCESS}, our plan")


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a panel for each model and form of body: bars by connections, on a log scale.

    Args:
        runs: Those of one or several books.
        path: The PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    found = [
        line
        for line in lines(runs)
        if line.place.loop == "closed"
        and line.rate > 0
        # Beside one connection they would only stretch the scale: they have no HTTP.
        and not (line.contestant in OTHER and line.place.model != "mobilenet")
    ]
    panels = list(dict.fromkeys((line.place.model, line.place.body) for line in found))
    if not panels:
        return
    names = list(dict.fromkeys(line.contestant for line in found))
    names.sort(key=lambda name: name != OURS)
    figure, grid = pyplot.subplots(
        len(panels), 1, figsize=(11, 2.8 * len(panels)), squeeze=False, layout="constrained"
    )
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _panel(axes, [x for x in found if (x.place.model, x.place.body) == panel], names)
        axes.set_title(", ".join(panel), loc="left")
    handles = [Rectangle((0, 0), 1, 1, **_style(name, names)) for name in names]
    figure.legend(handles, names, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axes: Any, found: list[Line], names: list[str]) -> None:
    """Draw one model's bars."""
    counts = sorted({line.place.connections for line in found})
    for line in found:
        here = [x.contestant for x in found if x.place == line.place]
        here.sort(key=names.index)
        width = 0.85 / max(len(here), 4)
        at = (
            counts.index(line.place.connections)
            + (here.index(line.contestant) - (len(here) - 1) / 2) * width
        )
        low, high = line.spread
        error = [[line.rate - low], [high - line.rate]]
        axes.bar(at, line.rate, width, yerr=error, ecolor="#555", **_style(line.contestant, names))
        label = f"{line.rate:,.0f}"
        axes.annotate(label, (at, high), (0, 2), textcoords="offset points", ha="center", size=7)
    axes.set_yscale("log")
    axes.set_xticks(
        range(len(counts)), [f"{count} connection{'s' if count > 1 else ''}" for count in counts]
    )
    axes.set_ylabel("answers/s")
    axes.margins(y=0.12)
    axes.set_ylim(bottom=10 ** math.floor(math.log10(min(line.rate for line in found))))
    axes.spines[["top", "right"]].set_visible(False)


def _style(name: str, names: list[str]) -> dict[str, Any]:
    return {"color": COLOURS[names.index(name) % len(COLOURS)]}
