"""A Service and a Runnable that log what goes in and out: imported by servers."""

from __future__ import annotations

from typing import Any

import numpy as np

import tfrunner
from tfrunner.io import JSON


class Doubler(tfrunner.Runnable):
    """Logs in its worker's process."""

    @tfrunner.Runnable.method(batchable=True)
    def predict(self, rows: Any) -> Any:
        """Return the rows twice as large; refuse negative ones."""
        if (np.asarray(rows) < 0).any():
            raise ValueError("negative")
        with tfrunner.monitor("batches") as record:
            record.log(len(rows), name="rows", role="feature", data_type="numerical")
        return np.asarray(rows) * 2


runner = tfrunner.Runner(Doubler, name="doubler")
svc = tfrunner.Service("monitored", runners=[runner])


@svc.api(input=JSON(), output=JSON())
def double(value: Any) -> Any:
    """Log what came and what goes; runs in a thread."""
    with tfrunner.monitor("calls") as record:
        record.log(value, name="value", role="feature", data_type="numerical_sequence")
        result = runner.run(value).tolist()
        record.log(result, name="result", role="prediction", data_type="numerical_sequence")
    return result
