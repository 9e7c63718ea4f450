"""The model under mosec. Runs in mosec's environment."""

from __future__ import annotations

from typing import Any

import model
import mosec
import numpy as np

SETTINGS = model.read_settings()


class Inference(mosec.Worker):
    """One process that runs the model."""

    def __init__(self) -> None:
        super().__init__()
        self.run = model.load(SETTINGS)

    def deserialize(self, data: bytes) -> Any:
        """Read raw bytes beside the JSON that mosec reads by itself."""
        return model.row_of(data, SETTINGS)

    def serialize(self, data: Any) -> bytes:
        """Answer in the form of the request."""
        return data if isinstance(data, bytes) else super().serialize(data)

    def forward(self, data: Any) -> Any:
        """Run a batch; mosec gives a bare request where batches have one row."""
        requests = data if SETTINGS.rows > 1 else [data]
        outputs = self.run(np.stack([row for row, _ in requests]))
        answers = [
            row.tobytes() if is_binary else {"y": row.tolist()}
            for row, (_, is_binary) in zip(outputs, requests, strict=True)
        ]
        return answers if SETTINGS.rows > 1 else answers[0]


if __name__ == "__main__":
    server = mosec.Server()
    server.append_worker(
        Inference,
        num=SETTINGS.workers,
        max_batch_size=SETTINGS.rows,
        max_wait_time=max(1, round(SETTINGS.wait)),
        timeout=60,
    )
    server.run()
