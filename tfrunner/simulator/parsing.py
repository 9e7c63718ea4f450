"""What people type: models, arrivals, seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tfrunner.errors import ConfigError
from tfrunner.simulator.arrivals import Arrivals, Bursts, Diurnal, Poisson, Recorded, Step
from tfrunner.simulator.knowledge import read_learned
from tfrunner.simulator.models import CNN, Affine, Cost, Table
from tfrunner.simulator.traces import read_trace

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}

MODEL_FORMS = "affine:BASE,PER_ROW · table:ROWS=TIME,... · learned:FILE · cnn"
ARRIVAL_FORMS = (
    "poisson:RATE · bursts:CALM,BURST[,CALM_TIME,BURST_TIME] · step:BEFORE,AFTER,TIME"
    " · diurnal:RATE[,SWING[,PERIOD]] · trace:FILE"
)


def parse_seconds(text: str) -> float:
    """Return `50ms`, `100us`, `2s` or `2` in seconds.

    Raises:
        ConfigError: It is none of them.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE]-?\d+)?|\.\d+)\s*(us|ms|s|)\s*", text)
    if found is None:
        raise ConfigError(f"{text!r} is no time; expected one like 50ms, 100us or 2s.")
    return float(found[1]) * UNITS[found[2]]


def parse_number(text: str) -> float:
    """Return a positive number.

    Raises:
        ConfigError: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e12:
        raise ConfigError(f"{text!r} is no number above 0.")
    return number


def parse_model(text: str) -> Cost:
    """Return the cost that `affine:1ms,0.1ms`, `table:1=1ms,8=3ms` or `cnn` name.

    Raises:
        ConfigError: It names none.
    """
    kind, _, rest = text.partition(":")
    if kind == "affine":
        base, per_row = _arguments(text, rest, (parse_seconds, parse_seconds), MODEL_FORMS)
        if base + per_row <= 0:
            raise ConfigError(f"{text!r} is a model that takes no time.")
        return Affine(base, per_row)
    if kind == "table":
        return _parse_table(text, rest)
    if kind == "learned":
        return read_learned(Path(rest))
    if text == "cnn":
        return CNN
    raise ConfigError(f"{text!r} is no model; known: {MODEL_FORMS}.")


def _parse_table(text: str, rest: str) -> Table:
    points: dict[int, float] = {}
    for each in rest.split(","):
        rows, _, seconds = each.partition("=")
        if not rows.strip().isdigit() or int(rows) < 1:
            raise ConfigError(f"{each!r} in {text!r} is no measured size; expected ROWS=TIME.")
        points[int(rows)] = parse_seconds(seconds)
        if points[int(rows)] <= 0:
            raise ConfigError(f"{each!r} in {text!r} takes no time.")
    return Table(tuple(sorted(points)), tuple(points[rows] for rows in sorted(points)))


def parse_arrivals(text: str) -> Arrivals:
    """Return the arrivals that `poisson:5000`, `trace:FILE` and the like name.

    Raises:
        ConfigError: It names none, or the trace cannot be read.
    """
    kind, _, rest = text.partition(":")
    number, seconds = parse_number, parse_seconds
    if kind == "trace":
        return Recorded(read_trace(Path(rest)))
    if kind == "poisson":
        return Poisson(*_arguments(text, rest, (number,), ARRIVAL_FORMS))
    if kind == "bursts":
        kinds = (number, number, seconds, seconds)
        return Bursts(*_arguments(text, rest, kinds, ARRIVAL_FORMS, least=2))
    if kind == "step":
        return Step(*_arguments(text, rest, (number, number, seconds), ARRIVAL_FORMS))
    if kind == "diurnal":
        found = Diurnal(*_arguments(text, rest, (number, number, seconds), ARRIVAL_FORMS, least=1))
        if found.swing > 1:
            raise ConfigError(f"{text!r}: a swing above 1 makes rates below 0.")
        return found
    raise ConfigError(f"{text!r} are no arrivals; known: {ARRIVAL_FORMS}.")


def _arguments(
    text: str,
    rest: str,
    kinds: Sequence[Callable[[str], float]],
    forms: str,
    *,
    least: int | None = None,
) -> list[float]:
    """Return what stands between the commas; refuse too much and too little."""
    parts = rest.split(",") if rest else []
    if not (len(kinds) if least is None else least) <= len(parts) <= len(kinds):
        raise ConfigError(f"{text!r} has {len(parts)} values; known: {forms}.")
    return [kind(part) for kind, part in zip(kinds, parts, strict=False)]
