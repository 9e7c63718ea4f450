"""What each process of a server uses, measured once a second."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tfrunner.supervisor.children import Children, measure, measure_private
from tfrunner.supervisor.slots import Slot

MEASURE_SECONDS = 1.0
NAME = "supervisor"


class Gauge:
    """Measures the supervisor and its children."""

    def __init__(self) -> None:
        self._next = 0.0
        self._uss: dict[int, int] = {}  # bytes, by pid
        self._turn = 0

    def next_wakeup(self) -> float:
        """Return the monotonic moment at which `measure` has something to do."""
        return self._next

    def measure(
        self, now: float, slots: Iterable[Slot], children: Children
    ) -> tuple[dict[str, Any], ...] | None:
        """Return a row for each process when it is time, else None."""
        if now < self._next:
            return None
        self._next = now + MEASURE_SECONDS
        rows = [_row(NAME, NAME, os.getpid())]
        for slot in slots:
            row = _row(slot.process, slot.kind, children.pid(slot.name))
            row |= {"slot": slot.name, "model": slot.model}
            row |= {"state": slot.state.value, "restarts": slot.restarts}
            rows.append(row)
        self._measure_private(rows)
        return tuple(rows)

    def _measure_private(self, rows: list[dict[str, Any]]) -> None:
        """Add the private memory: of one process anew each time, in turn, because it is slow."""
        pids = [row["pid"] for row in rows if row["pid"]]
        self._uss = {pid: self._uss[pid] for pid in pids if pid in self._uss}
        self._turn = (self._turn + 1) % len(pids)
        chosen = next((pid for pid in pids if pid not in self._uss), pids[self._turn])
        if (private := measure_private(chosen)) is not None:
            self._uss[chosen] = private
        for row in rows:
            row["uss"] = self._uss.get(row["pid"], 0)


def _row(name: str, kind: str, pid: int | None) -> dict[str, Any]:
    """Return a row of the process table; without a process it has neither memory nor CPU."""
    row = {"name": name, "slot": name, "kind": kind, "pid": pid or 0}
    row |= {"restarts": 0, "state": "running"}
    used = measure(pid) if pid else {}
    return {**row, "rss": 0, "cpu_seconds": 0.0, **used}
