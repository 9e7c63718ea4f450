"""Options of `tfrunner serve` that say what is noted of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from tfrunner.config import DEFAULTS, check_positive
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.observation import Observation

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--tracing",
        type=click.Choice(["auto", "off", "otlp", "console"]),
        default=DEFAULTS.tracing,
        show_default=True,
        help="OpenTelemetry spans; auto: if a Service's module configures them.",
    ),
    click.option(
        "--monitor",
        multiple=True,
        metavar="MODEL[=SHARE]",
        help="Write down inputs and outputs of this share of a model's calls, over HTTP and by "
        "Services; 0.1: a tenth.",
    ),
    click.option(
        "--monitor-folder",
        default=DEFAULTS.monitor_folder,
        show_default=True,
        metavar="FOLDER",
        help="Where monitors write.",
    ),
    click.option(
        "--monitor-bytes",
        default=DEFAULTS.monitor_bytes,
        show_default=True,
        help="Bytes of a monitor's file, after which the next one is begun.",
    ),
    click.option(
        "--monitor-files",
        default=DEFAULTS.monitor_files,
        show_default=True,
        help="Files that each process keeps of each monitor.",
    ),
)


def make_observation(options: Mapping[str, Any], tags: Iterable[str]) -> Observation:
    """Return what the options say.

    Args:
        options: Those of the command, by name.
        tags: Of the models that are served.

    Raises:
        ConfigError: A number or a share cannot be, or no model of that name is served.
    """
    for name in ("monitor_bytes", "monitor_files"):
        check_positive(f"--{name.replace('_', '-')}", options[name])
    monitor = dict(map(_read_share, options["monitor"]))
    known = {name for tag in tags for name in (tag, tag.partition(":")[0])}
    for name in monitor:
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"--monitor {name}: no model of that name is served.{near}")
    return Observation(
        tracing=options["tracing"],
        monitor=monitor,
        monitor_folder=str(Path(options["monitor_folder"]).resolve()),
        monitor_bytes=options["monitor_bytes"],
        monitor_files=options["monitor_files"],
    )


def _read_share(text: str) -> tuple[str, float]:
    """Return a model and its share, all calls where it has none."""
    name, sign, given = text.partition("=")
    try:
        share = float(given) if sign else 1.0
    except ValueError:
        share = -1.0
    if not name or not 0 <= share <= 1:
        raise ConfigError(
            f"--monitor {text!r}: expected MODEL or MODEL=SHARE with a share from 0 to 1, such as "
            "digits=0.1."
        )
    return name, share
