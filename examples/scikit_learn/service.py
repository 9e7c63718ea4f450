"""Serve a scikit-learn model, without TensorFlow: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tfrunner
from tfrunner.io import JSON
from tfrunner.specs import TensorSpec

MODEL = Path(__file__).parent / "digits.joblib"
IMAGES = TensorSpec("images", "float64", (None, 64))


class Digits(tfrunner.Runnable):
    """A trained classifier of images of 8x8 pixels; one worker for each core."""

    SUPPORTED_RESOURCES = ("cpu",)
    SUPPORTS_CPU_MULTI_THREADING = False

    def __init__(self, path: str) -> None:
        import joblib

        self._model = joblib.load(path)  # a file of your own: it may run any code

    @tfrunner.Runnable.method(batchable=True, input_spec=IMAGES)
    def predict(self, images: Any) -> Any:
        """Return the digit on each image."""
        return self._model.predict(images)

    @tfrunner.Runnable.method(batchable=True, input_spec=IMAGES)
    def predict_proba(self, images: Any) -> Any:
        """Return ten probabilities for each image."""
        return self._model.predict_proba(images)


runner = tfrunner.Runner(Digits, runnable_init_params={"path": str(MODEL)})
svc = tfrunner.Service("digits_service", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def read_digit(image: Any) -> Any:
    """Return the digit on one image of 64 numbers, and how sure the model is."""
    probabilities = (await runner.predict_proba.async_run([image]))[0]
    return {"digit": int(probabilities.argmax()), "probability": float(probabilities.max())}
