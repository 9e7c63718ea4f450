"""The model under MLServer. Runs in MLServer's environment."""

from __future__ import annotations

import model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

SETTINGS = model.read_settings()


class Inference(MLModel):
    """What MLServer's worker process loads."""

    async def load(self) -> bool:
        """Load the model."""
        self.run = model.load(SETTINGS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run a batch."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        outputs = self.run(rows.astype("float32", copy=False))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("y", outputs)]
        )
