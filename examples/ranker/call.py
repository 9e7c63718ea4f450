"""Ask the server, and compare with this process: `python call.py [http://127.0.0.1:8000]`."""

from __future__ import annotations

import json
import sys
import urllib.request

import numpy as np
from service import ITEM, USER, runner

import tfrunner

USERS = 100


def main(address: str) -> int:
    """Return 0 if every answer of the server is the one of this process."""
    random = np.random.default_rng(0)
    users = random.random((USERS, len(USER))).astype("float32")
    items = [random.random((random.integers(1, 30), len(ITEM))) for _ in range(USERS)]
    runner.init_local(quiet=True)
    expected = runner.run({"user": users, "items": items}, 3)
    with tfrunner.Client(address) as client:
        alone = [
            client.submit("ranker", {"user": users[n : n + 1], "items": items[n : n + 1]}, 3)
            for n in range(USERS)
        ]
        for n, future in enumerate(alone):
            assert (future.result()["item"] == expected["item"][n : n + 1]).all()
    for n in range(5):
        body = json.dumps(name_features(users[n], items[n])).encode()
        with urllib.request.urlopen(f"{address}/rank", data=body) as reply:
            names = [each["name"] for each in json.load(reply)]
        assert names == [f"item {position}" for position in expected["item"][n] if position >= 0]
    print(f"{USERS} answers equal those of this process")
    return 0


def name_features(user: np.ndarray, items: np.ndarray) -> dict[str, object]:
    """Return a query as the Service takes it."""
    named = [
        {"name": f"item {position}", **dict(zip(ITEM, item.tolist(), strict=True))}
        for position, item in enumerate(items)
    ]
    return {"user": dict(zip(USER, user.tolist(), strict=True)), "items": named, "k": 3}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
