"""All cost tables of one model version: by method, class of device, and how many run together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tfrunner.dispatcher.costs import CostTable
from tfrunner.learned_file import Plan


class CostBook:
    """The tables of one model version.

    Attributes:
        plans: How workers execute each method, by class of device; only kept here.
    """

    def __init__(self) -> None:
        self.plans: dict[str, dict[str, Plan]] = {}
        self._tables: dict[tuple[str, str], dict[int, CostTable]] = {}

    def table(self, method: str, device_class: str, together: int = 1) -> CostTable:
        """Return a table; one that knows nothing begins as the nearest one that does.

        Args:
            method: Name of the method.
            device_class: What is equal for devices on which a batch costs the same.
            together: Batches that run on the device at a time; doublings share a table.
        """
        tables = self._tables.get((method, device_class))
        if tables is None:
            tables = self._tables[method, device_class] = {}
        crowd = together.bit_length()
        table = tables.get(crowd)
        if table is None:
            table = tables[crowd] = CostTable()
        if not table.is_known and len(tables) > 1:
            known = [each for each, other in tables.items() if other.is_known]
            if known:
                table.copy(tables[min(known, key=lambda each: abs(each - crowd))])
        return table

    def seed(self, method: str, device_class: str, costs: Iterable[tuple[int, float]]) -> None:
        """Take in (rows, seconds) that a worker measured when it warmed up."""
        self.table(method, device_class).seed(costs)

    def note_plan(self, method: str, device_class: str, plan: Plan) -> None:
        """Keep how workers execute a method; one that was timed stays if it is chosen again."""
        plans = self.plans.setdefault(device_class, {})
        known = plans.get(method)
        if known is not None and known.name == plan.name and not plan.gain:
            seconds = plan.cpu_seconds or known.cpu_seconds
            plan = msgspec.structs.replace(known, cpu_seconds=seconds)
        plans[method] = plan

    def device_classes(self) -> list[str]:
        """Return the classes of which anything is known."""
        return sorted(
            {
                device_class
                for (_, device_class), tables in self._tables.items()
                if any(table.is_known for table in tables.values())
            }
        )

    def as_data(self, device_class: str) -> dict[str, Any]:
        """Return the tables of one class as plain data: by method, then by crowd."""
        return {
            method: {str(crowd): t.as_data() for crowd, t in tables.items() if t.is_known}
            for (method, known), tables in self._tables.items()
            if known == device_class
        }

    def recall(self, device_class: str, data: object) -> None:
        """Take in what `as_data` described; nothing if any of it is not of that form.

        Raises:
            ValueError: It is not.
        """
        read: dict[str, dict[int, CostTable]] = {}
        for method, tables in _mapping(data).items():
            read[method] = {
                _crowd(crowd): CostTable.from_data(table)
                for crowd, table in _mapping(tables).items()
            }
        for method, by_crowd in read.items():
            self._tables[method, device_class] = by_crowd


def _mapping(data: object) -> Mapping[str, object]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError(f"expected a mapping with names, got {data!r:.80}")
    return data


def _crowd(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise ValueError(f"expected a number from 1 to 64, got {text!r:.80}")
    return int(text)
