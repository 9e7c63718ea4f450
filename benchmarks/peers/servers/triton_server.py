"""The model under Triton, through pytriton. Runs in pytriton's environment."""

from __future__ import annotations

import socket
from typing import Any

import model
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

SETTINGS = model.read_settings()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=SETTINGS.port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        metrics_port=free_port(),
        exit_timeout_secs=5,
    )
    run = model.load(SETTINGS)

    @batch
    def infer(x: Any) -> list[Any]:
        """Run a batch."""
        return [run(x)]

    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=[infer] * SETTINGS.workers,
            inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(SETTINGS.shape))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(SETTINGS.outputs,))],
            config=ModelConfig(
                max_batch_size=SETTINGS.rows,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(SETTINGS.wait * 1000)),
            ),
        )
        triton.serve()
