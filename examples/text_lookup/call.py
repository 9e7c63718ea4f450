"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import json
import sys
import urllib.request

import numpy as np
from service import runner
from train import read

import tfrunner


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    texts, _ = read()
    runner.init_local(quiet=True)
    expected = runner.run(texts)
    with tfrunner.Client(address) as client:
        got = client.predict("topics", texts)
    np.testing.assert_array_equal(got["topic"], expected["topic"])
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], rtol=1e-5)
    for text, topic in zip(texts[:5], expected["topic"], strict=False):
        body = json.dumps(str(text)).encode()
        with urllib.request.urlopen(f"{address}/topic", data=body) as reply:
            assert json.load(reply)["topic"] == topic.decode()
    print(f"{len(texts)} answers equal those of this process")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
