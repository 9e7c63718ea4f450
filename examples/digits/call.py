"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import io
import json
import sys
import urllib.request
from typing import Any

import numpy as np
from PIL import Image
from service import runner
from train import load

import tfrunner


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    _, images, _, digits = load()
    runner.init_local(quiet=True)
    expected = runner.run(images)
    with tfrunner.Client(address) as client:
        got = client.predict("digits_cnn", images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    for image, probabilities in zip(images[:20], expected, strict=False):
        request = urllib.request.Request(
            f"{address}/read_digit", data=as_png(image), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request) as reply:
            assert json.load(reply)["digit"] == probabilities.argmax()
    right = (got.argmax(axis=1) == digits).mean()
    print(f"{len(images)} answers equal those of this process; {right:.1%} are right")
    return 0


def as_png(image: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
