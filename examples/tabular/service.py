"""Foresee the progression of patients in a table: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from typing import Any

import tfrunner
from tfrunner.io import PandasDataFrame

COLUMNS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

runner = tfrunner.tensorflow.get("progression").to_runner()
svc = tfrunner.Service("clinic", runners=[runner])


@svc.api(
    input=PandasDataFrame(columns=COLUMNS, dtype="float32"),
    output=PandasDataFrame(columns=("progression",)),
)
async def foresee(patients: Any) -> Any:
    """Return the progression of each patient, as a table; columns may come in any order."""
    return {"progression": (await runner.async_run(patients))[:, 0]}
