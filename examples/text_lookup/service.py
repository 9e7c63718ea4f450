"""Say what a message is about: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from typing import Any

import tfrunner
from tfrunner.io import JSON

runner = tfrunner.tensorflow.get("topics").to_runner()
svc = tfrunner.Service("messages", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def topic(text: Any) -> Any:
    """Return the topic of one message, and how probable it is."""
    found = await runner.async_run([text])
    return {"topic": found["topic"][0], "probability": found["probabilities"][0].max()}
