"""Read the digit on an image file: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from typing import Any

import numpy as np

import tfrunner
from tfrunner.io import JSON, Image

runner = tfrunner.tensorflow.get("digits_cnn").to_runner()
svc = tfrunner.Service("digits", runners=[runner])


@svc.api(input=Image(pilmode="L", max_pixels=1_000_000), output=JSON())
async def read_digit(image: Any) -> Any:
    """Return the digit on an image, light on dark, of any size and format, and how sure that is."""
    pixels = np.asarray(image.resize((8, 8)))
    probabilities = (await runner.async_run(pixels[None]))[0]
    return {"digit": probabilities.argmax(), "probability": probabilities.max()}
