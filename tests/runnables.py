"""Runnables and a Service of them, for tests: imported by workers, so without TensorFlow."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np

import tfrunner
from tfrunner.io import JSON
from tfrunner.specs import TensorSpec

TABLE = np.arange(40_000, dtype="int64")
"""More than the 128 KiB that one argument of a command line may have."""

PARAMETERS = {"factor": 3, "table": TABLE, "names": ["a", "b"]}


class Doubler(tfrunner.Runnable):
    """Takes and gives whatever can be sent."""

    def __init__(self, factor: int = 2, table: Any = None, names: Any = None) -> None:
        self.factor = factor
        self.table = table
        self.names = names

    @tfrunner.Runnable.method(batchable=True)
    def predict(self, rows: Any, plus: int = 0) -> Any:
        """Multiply; of rows that are no array, give each with its type."""
        if isinstance(rows, np.ndarray):
            return rows * self.factor + plus
        return [{"row": row, "type": type(row).__name__, "plus": plus} for row in rows]

    @tfrunner.Runnable.method(batchable=True, input_spec=TensorSpec("x", "float32", (None, 2)))
    def typed(self, x: Any) -> Any:
        """Return a tuple of an array and a dict of arrays."""
        return x + 1, {"sum": x.sum(axis=1), "dtype": [str(x.dtype)] * len(x)}

    @tfrunner.Runnable.method(batchable=True, batch_dim=(0, 1))
    def turned(self, rows: Any) -> Any:
        """Return the rows as columns."""
        return np.asarray(rows).T

    @tfrunner.Runnable.method
    def describe(self, value: Any) -> Any:
        """Return any value, and what it is here."""
        return {"value": value, "type": type(value).__name__, "is_array": hasattr(value, "dtype")}

    @tfrunner.Runnable.method
    def take(self, index: int, *, name: int = 0) -> Any:
        """Return one of the constructor's numbers and one of its names."""
        return int(self.table[index]), self.names[name], None

    @tfrunner.Runnable.method
    def modules(self) -> list[str]:
        """Return which large libraries this process has imported."""
        return sorted({"tensorflow", "sklearn", "numpy"} & set(sys.modules))

    @tfrunner.Runnable.method(batchable=True)
    def company(self, rows: Any) -> Any:
        """Return for each row how many rows came together."""
        return [len(rows)] * len(rows)

    @tfrunner.Runnable.method(batchable=True)
    def drop(self, rows: Any) -> Any:
        """Return one row fewer than came in."""
        return rows[1:]

    @tfrunner.Runnable.method(batchable=True)
    def total(self, rows: Any) -> Any:
        """Return one number for all rows, as no batchable method may."""
        return float(np.sum(rows))

    @tfrunner.Runnable.method
    def fail(self, text: str) -> Any:
        """Raise."""
        raise KeyError(text)

    @tfrunner.Runnable.method
    def strange(self) -> Any:
        """Return what cannot be sent."""
        return threading.Lock()

    @tfrunner.Runnable.method
    def dates(self) -> Any:
        """Return an array of a dtype that cannot be sent."""
        return np.array(["2026-01-01"], dtype="datetime64[D]")

    @tfrunner.Runnable.method(repeatable=False)
    def sleep(self, seconds: float) -> float:
        """Return after some seconds."""
        time.sleep(seconds)
        return seconds


class Single(Doubler):
    """The same, one thread for each worker."""

    SUPPORTS_CPU_MULTI_THREADING = False


double = tfrunner.Runner(
    Doubler,
    name="double",
    runnable_init_params=PARAMETERS,
    method_configs={"company": {"max_batch_size": 2}, "sleep": {"max_latency_ms": 200}},
)
inside = tfrunner.Runner(Doubler, name="inside", runnable_init_params=PARAMETERS, embedded=True)
svc = tfrunner.Service("runnables", runners=[double, inside])


@svc.api(input=JSON(), output=JSON())
async def predict(rows: Any) -> Any:
    """Call the worker's method."""
    return await double.predict.async_run(rows, plus=1)


@svc.api(input=JSON(), output=JSON())
async def wait(seconds: Any) -> Any:
    """Call a method that may take longer than its runner allows."""
    return await double.sleep.async_run(seconds)


@svc.api(input=JSON(), output=JSON())
def embedded(rows: Any) -> Any:
    """Call the method in this very process."""
    return [inside.predict.run(rows, plus=1), inside.modules.run()]
