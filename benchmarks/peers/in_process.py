"""A caller without HTTP: the model in its own process, or tfrunner's Python client.

    python in_process.py restored|frozen FOLDER    the model's files (models.py)
    python in_process.py client NAME FOLDER        a running server (its TFRUNNER_RUN_DIR is set)

Reads lines "ROWS CALLERS SECONDS" and answers each with "RESULT {...}" as load.py reads it:
so many threads call the model with so many rows at once, for so long.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "servers"))

Call = Callable[[Any], Any]


def from_model(plan: str, folder: str) -> tuple[Call, Any]:
    """Return the model as a function, and its rows."""
    import model  # type: ignore[import-not-found] # of servers/, which peers run alone

    rows = np.load(f"{folder}/rows.npy")
    settings = model.Settings(folder, plan, list(rows.shape[1:]), 0, 0, 8, 0, 1, False)
    return model.load(settings), rows


def from_server(name: str, folder: str) -> tuple[Call, Any]:
    """Return the model as a server's client calls it, and its rows."""
    from tfrunner import Client

    client = Client()
    rows = np.load(f"{folder}/rows.npy")
    return lambda array: client.predict(name, array), rows


def measure(call: Call, array: Any, *, callers: int, seconds: float) -> dict[str, float]:
    """Call from so many threads for so long; return what load.Outcome takes."""
    started = time.perf_counter()
    end = started + seconds

    def loop() -> list[float]:
        taken = []
        now = time.perf_counter()
        while now < end:
            call(array)
            before, now = now, time.perf_counter()
            taken.append(now - before)
        return taken

    with ThreadPoolExecutor(callers) as pool:
        runs = [pool.submit(loop) for _ in range(callers)]
        taken = np.concatenate([run.result() for run in runs])
    return {
        "requests": len(taken) * len(array),
        "seconds": time.perf_counter() - started,
        "p50": float(np.percentile(taken, 50)),
        "p99": float(np.percentile(taken, 99)),
        "mean": float(taken.mean()),
        "failed": 0,
    }


def main() -> int:
    """Answer lines until there are no more."""
    kind, *rest = sys.argv[1:]
    call, rows = from_server(*rest) if kind == "client" else from_model(kind, *rest)
    answers = np.load(Path(rest[-1]) / "answers.npy")
    got = np.concatenate([np.asarray(call(rows[:8])), np.asarray(call(rows[8:]))])
    if not np.allclose(got, answers, atol=1e-3):
        print("a wrong answer", file=sys.stderr)
        return 1
    print("READY", flush=True)
    for line in sys.stdin:
        count, callers, seconds = line.split()
        outcome = measure(call, rows[: int(count)], callers=int(callers), seconds=float(seconds))
        print("RESULT " + json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
