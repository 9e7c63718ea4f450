"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service import reader, turner
from train import load, turn, turn_any

CALLERS = 16


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    _, held_out, _, digits = load()
    turned, _ = turn_any(held_out)
    for runner in (turner, reader):
        runner.init_local(quiet=True)
    quarters = turner.run(turned).argmax(axis=1)
    expected = {
        "digit": reader.run(turn(turned, -quarters)).argmax(axis=1),
        "turned_by": 90 * quarters,
        "without_turning": reader.run(turned).argmax(axis=1),
    }

    def ask(image: Any) -> Any:
        body = json.dumps(image.tolist()).encode()
        with urllib.request.urlopen(f"{address}/read_turned", data=body) as reply:
            return json.load(reply)

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(ask, turned))
    for name, values in expected.items():
        assert [each[name] for each in answers] == values.tolist(), name
    right = (expected["digit"] == digits).mean()
    print(f"{len(turned)} answers equal those of this process; {right:.0%} are right")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
