"""Turn an image upright, then read it, with two models: `tfrunner serve service.py:svc`."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

import tfrunner
from tfrunner.io import JSON, NumpyNdarray

turner = tfrunner.tensorflow.get("turner").to_runner()
reader = tfrunner.tensorflow.get("reader").to_runner()
svc = tfrunner.Service("turned_digits", runners=[turner, reader])


@svc.api(input=NumpyNdarray("float32", shape=(8, 8)), output=JSON())
async def read_turned(image: Any) -> Any:
    """Return the digit on a turned image, and what would be read without turning it back.

    Both models get the image at the same time; then what the first says decides what the second
    is asked. Other requests are answered meanwhile, and share batches with this one.
    """
    turns, as_it_is = await asyncio.gather(
        turner.async_run(image[None]), reader.async_run(image[None])
    )
    quarters = int(turns[0].argmax())
    upright = np.rot90(image, -quarters)
    probabilities = (await reader.async_run(upright[None]))[0] if quarters else as_it_is[0]
    return {
        "digit": probabilities.argmax(),
        "turned_by": 90 * quarters,
        "without_turning": as_it_is[0].argmax(),
    }
