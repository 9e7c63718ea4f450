"""Traces: when requests came, how many rows each had, what it may be merged with, and whose it was.

A recorded trace is a file of JSON lines, one for each request, in the order of their times:

    {"time": 0.0, "rows": 1, "key": "digits:1/__call__/6f1c09aa", "client": "a41b77c2"}

`time` is in seconds since any moment; `key` is equal for requests that may share a batch;
`client` is equal for requests of one client. Nothing else is kept: no contents, no addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tfrunner.dispatcher.recorder import Line
from tfrunner.errors import ConfigError

Times = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival; the arrays have one entry for each.

    Attributes:
        times: Seconds since the start, never falling.
        rows: At least 1.
        keys: Numbers; requests with the same one may share a batch.
        clients: Numbers; requests with the same one share a client's part of the time.
        models: The tags that a recorded trace names, each once.
    """

    times: Times
    rows: Counts
    keys: Counts
    clients: Counts
    models: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The moment of the last arrival."""
        return float(self.times[-1])

    def first(self, requests: int) -> Trace:
        """Return the first so many requests, or all where there are fewer."""
        return Trace(
            self.times[:requests],
            self.rows[:requests],
            self.keys[:requests],
            self.clients[:requests],
        )

    def __len__(self) -> int:
        return len(self.times)


def of_times(times: Times) -> Trace:
    """Return a trace of one-row requests of one client and one batch key."""
    zeros = np.zeros(len(times), dtype=np.int64)
    return Trace(times, zeros + 1, zeros, zeros)


def read_trace(path: Path) -> Trace:
    """Return a recorded trace, its time moved to begin at 0.

    Raises:
        ConfigError: The file cannot be read, or a line is no request; it is named.
    """
    decoder = msgspec.json.Decoder(Line)
    lines: list[Line] = []
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    lines.append(_checked(decoder, text, f"{path}, line {number}", lines[-1:]))
    except OSError as exc:
        raise ConfigError(f"the trace {path} cannot be read: {exc.strerror}.") from exc
    if not lines:
        raise ConfigError(f"the trace {path} is empty; record one: tfrunner serve --record FILE.")
    times = np.array([line.time for line in lines], dtype=np.float64)
    return Trace(
        times - times[0],
        np.array([line.rows for line in lines], dtype=np.int64),
        _numbered(line.key for line in lines),
        _numbered(line.client for line in lines),
        tuple(sorted({line.key.partition("/")[0] for line in lines} - {""})),
    )


def _checked(
    decoder: msgspec.json.Decoder[Line], text: bytes, where: str, before: Sequence[Line]
) -> Line:
    """Return one line of a file; refuse what no recorder writes."""
    try:
        line = decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{where} is no request of a trace: {exc}.") from exc
    if line.rows < 1:
        raise ConfigError(f"{where} has {line.rows} rows; expected at least 1.")
    if before and line.time < before[0].time:
        raise ConfigError(f"{where} is earlier than the line before it; sort the trace by time.")
    return line


def _numbered(names: Iterable[str]) -> Counts:
    """Return a number for each name, equal where the names are."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
