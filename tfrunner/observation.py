"""What is noted of requests beside counters: spans, and the values that go in and out."""

from __future__ import annotations

import msgspec

from tfrunner.defaults import DEFAULTS


class Observation(msgspec.Struct, frozen=True):
    """What a process notes of requests.

    Args:
        tracing: Where OpenTelemetry spans go: "auto", "off", "otlp" or "console".
        monitor: By the name or tag of a model, the share of its calls that is written down.
        monitor_folder: Where monitors write.
        monitor_bytes: Bytes of a file after which the next one is begun.
        monitor_files: Files that each process keeps of each monitor.
    """

    tracing: str = DEFAULTS.tracing
    monitor: dict[str, float] = {}
    monitor_folder: str = DEFAULTS.monitor_folder
    monitor_bytes: int = DEFAULTS.monitor_bytes
    monitor_files: int = DEFAULTS.monitor_files
