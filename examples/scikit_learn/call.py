"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import json
import sys
import urllib.request

import joblib
import numpy as np
from service import MODEL
from sklearn.datasets import load_digits

import tfrunner


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    images, _ = load_digits(return_X_y=True)
    model = joblib.load(MODEL)
    with tfrunner.Client(address) as client:
        digits = client.predict("digits", images, method="predict")
        probabilities = client.predict("digits", images, method="predict_proba")
    np.testing.assert_array_equal(digits, model.predict(images))
    np.testing.assert_allclose(probabilities, model.predict_proba(images), rtol=1e-9)
    for image, digit in zip(images[:5], digits, strict=False):
        body = json.dumps(image.tolist()).encode()
        with urllib.request.urlopen(f"{address}/read_digit", data=body) as reply:
            assert json.load(reply)["digit"] == digit
    print(f"{len(images)} answers equal those of this process")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
