"""The model under LitServe. Runs in LitServe's environment."""

from __future__ import annotations

from typing import Any

import litserve
import model
import numpy as np

SETTINGS = model.read_settings()


class Inference(litserve.LitAPI):
    """One process that runs the model."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.run = model.load(SETTINGS)

    # LitServe makes a form of the request out of this signature: without annotations it is JSON.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        """Return a row."""
        return np.asarray(request["x"], "float32")

    def batch(self, inputs: list[Any]) -> Any:
        """Join rows."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Run a batch, or a bare row where batches have one."""
        return self.run(x) if SETTINGS.rows > 1 else self.run(x[None])[0]

    def unbatch(self, output: Any) -> list[Any]:
        """Part rows."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """Return what becomes JSON."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Inference(max_batch_size=SETTINGS.rows, batch_timeout=SETTINGS.wait / 1000)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=SETTINGS.workers,
        timeout=60,
        fast_queue=SETTINGS.is_fast,
    )
    server.run(
        host="127.0.0.1", port=SETTINGS.port, log_level="warning", generate_client_file=False
    )
