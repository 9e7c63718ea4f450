"""A Service and a Runnable that count with metrics of their own: imported by servers."""

from __future__ import annotations

from typing import Any

import numpy as np

import tfrunner
from tfrunner.io import JSON

ASKED = tfrunner.metrics.Counter("shop_asked", "Requests of the shop.", ["kind"])
OPEN = tfrunner.metrics.Gauge("shop_open", "1 for each process that is open.")
SIZES = tfrunner.metrics.Histogram("shop_sizes", "Rows in a batch.", buckets=(1, 2, 4))
UNUSED = tfrunner.metrics.Counter("shop_unused", "Nobody counts here.")


class Counting(tfrunner.Runnable):
    """Counts the rows that it sees, in its worker's process."""

    @tfrunner.Runnable.method(batchable=True)
    def predict(self, rows: Any) -> Any:
        """Return the rows."""
        SIZES.observe(len(rows))
        ASKED.labels(kind="row").inc(len(rows))
        return np.asarray(rows)


runner = tfrunner.Runner(Counting, name="counting")
svc = tfrunner.Service("shop", runners=[runner])
OPEN.set(1)


@svc.api(input=JSON(), output=JSON())
async def ask(value: Any) -> Any:
    """Count, and have the worker count."""
    ASKED.labels("call").inc()
    return (await runner.async_run(value)).tolist()
