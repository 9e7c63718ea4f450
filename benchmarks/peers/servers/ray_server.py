"""The model under Ray Serve. Runs in Ray's environment."""

from __future__ import annotations

import os
import signal
from typing import Any

import model
import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

SETTINGS = model.read_settings()


@serve.deployment(
    num_replicas=SETTINGS.workers,
    # The default of 5 would keep batches at 5 rows.
    max_ongoing_requests=2048,
    ray_actor_options={"num_cpus": 1},
)
class Inference:
    """A replica: a process that runs the model."""

    def __init__(self) -> None:
        self.run = model.load(SETTINGS)

    @serve.batch(max_batch_size=SETTINGS.rows, batch_wait_timeout_s=SETTINGS.wait / 1000)
    async def infer(self, rows: list[Any]) -> list[Any]:
        """Run a batch."""
        return list(self.run(np.stack(rows)))

    async def __call__(self, request: Request) -> Any:
        """Answer one request, in its own form."""
        row, is_binary = model.row_of(await request.body(), SETTINGS)
        output = await self.infer(row)
        return Response(output.tobytes()) if is_binary else {"y": output.tolist()}


if __name__ == "__main__":
    environment = {
        model.SETTINGS: os.environ[model.SETTINGS],
        "PYTHONPATH": os.path.dirname(os.path.abspath(__file__)),
    }
    ray.init(
        num_cpus=8,  # Ray's count of slots, for the replicas and its own actors; no core is bound
        include_dashboard=False,
        configure_logging=False,
        runtime_env={"env_vars": environment},
        _temp_dir=os.environ["TFRUNNER_BENCHMARK_FOLDER"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": SETTINGS.port})
    serve.run(Inference.bind(), route_prefix="/predict")
    signal.pause()
