"""The file of what was learned about a model version on one class of devices: its form.

`$TFRUNNER_HOME/learned/<name>/<version>/<device class>.json`. The dispatcher alone writes it
(`dispatcher.learned`); workers read which plans were chosen before, the command shows them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

FORMAT = 1
"""Files of another format are ignored."""

LONGEST_NAME = 100

LARGEST_BYTES = 2**20
"""A larger file is none of ours."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a method is executed.

    Args:
        name: Name of the plan.
        gain: How many times as fast as the restored function; 0 where it was not timed.
        reason: Why this one, and why others are not used.
        cpu_seconds: CPU time of a full batch, of all threads; 0 where it was not measured.
    """

    name: str
    gain: float = 0.0
    reason: str = ""
    cpu_seconds: float = 0.0


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A learned file.

    Args:
        format: FORMAT.
        model: Tag of the model version.
        device_class: What is equal for devices on which a batch costs the same.
        methods: By method, then by how many batches run together: [rows, mean, deviation].
        plans: How each method is executed.
    """

    format: int
    model: str
    device_class: str
    methods: dict[str, Any]
    plans: dict[str, Plan] = {}


def folder(home: Path, tag: str) -> Path:
    """Return the folder of a model version's learned files."""
    name, _, version = tag.partition(":")
    return home / "learned" / name / version


def file_name(device_class: str) -> str:
    """Return the name of the file of a class of devices: readable, and safe as a name."""
    return re.sub(r"[^A-Za-z0-9,._-]+", "_", device_class).strip(".")[:LONGEST_NAME] + ".json"


def read(file: Path, tag: str) -> Kept:
    """Return what a learned file holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none, of another format, or about another model.
    """
    with file.open("rb") as stream:
        data = stream.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES} bytes")
    try:
        kept = msgspec.json.decode(data, type=Kept)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply to be one of ours") from exc
    if kept.format != FORMAT:
        raise ValueError(f"its format is {kept.format}; this version reads {FORMAT}")
    if kept.model != tag:
        raise ValueError(f"it is about {kept.model!r}, not {tag!r}")
    return kept


def read_all(home: Path, tag: str) -> Iterator[Kept]:
    """Yield the readable learned files of a model version."""
    for file in sorted(folder(home, tag).glob("*.json")):
        try:
            yield read(file, tag)
        except (OSError, ValueError):
            continue
