"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import json
import sys
import urllib.request

import numpy as np
from service import runner

import tfrunner


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    runner.init_local(quiet=True)
    expected = runner.predict.run(rows)
    with tfrunner.Client(address) as client:
        got = client.predict("frozen_graph", rows)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    for row, probabilities in zip(rows[:5], expected, strict=False):
        body = json.dumps(row.tolist()).encode()
        with urllib.request.urlopen(f"{address}/classify", data=body) as reply:
            assert json.load(reply) == probabilities.argmax()
    print(f"{len(rows)} answers equal those of this process")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
