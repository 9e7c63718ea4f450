"""The model under BentoML. Runs in its environment: `bentoml serve bentoml_server:Inference`."""

from __future__ import annotations

import bentoml
import model
import numpy as np

SETTINGS = model.read_settings()


@bentoml.service(workers=SETTINGS.workers, traffic={"timeout": 60})
class Inference:
    """What BentoML's worker process loads."""

    def __init__(self) -> None:
        self.run = model.load(SETTINGS)

    @bentoml.api(batchable=True, max_batch_size=SETTINGS.rows, max_latency_ms=round(SETTINGS.wait))
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Run a batch."""
        return np.asarray(self.run(x.astype("float32", copy=False)))
