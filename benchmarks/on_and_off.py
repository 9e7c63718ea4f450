"""Is batching ever a loss? The same server with batching and without, measured in turn.

    python benchmarks/on_and_off.py [--rounds 7] [--seconds 2]

Serves the linear model twice, drives each with wrk (which must be installed) at 1, 32 and 128
connections, A B A B, and prints medians and the ratio. At one connection batching must cost
nothing within noise; at more it must never be slower.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tfrunner.testing import ServedClient, serve

CONNECTIONS = (1, 32, 128)
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{}'
"""
BODY = json.dumps({"instances": [[1.0, 2.0, 3.0, 4.0, 5.0]]})
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def linear() -> object:
    """Return a module that multiplies rows of five numbers by a matrix."""
    import tensorflow as tf

    class Linear(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.constant(np.ones((5, 1), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
        def __call__(self, x: object) -> object:
            return tf.matmul(x, self.matrix)

    return Linear()


def drive(
    client: ServedClient, script: Path, connections: int, seconds: float
) -> tuple[float, ...]:
    """Return requests a second, and p50 and p99 in milliseconds."""
    url = f"{client.http_address}/v1/models/model:predict"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(f"some requests failed:\n{text}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found is not None
    spans = {p: re.search(rf"{p}%\s+([\d.]+)(us|ms|s)", text) for p in (50, 99)}
    return (float(found[1]), *(float(m[1]) * UNITS[m[2]] for m in spans.values() if m))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    signatures = {"__call__": {"batchable": True}}
    model = linear()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(model, signatures=signatures) as on,
        serve(model, signatures=signatures, no_batching=True) as off,
    ):
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.replace("{}", BODY))
        print(
            "| connections | batching on: req/s, p50, p99 ms | off | on / off |\n|---|---|---|---|"
        )
        for connections in CONNECTIONS:
            runs: dict[str, list[tuple[float, ...]]] = {"on": [], "off": []}
            for _ in range(options.rounds):
                runs["on"].append(drive(on, script, connections, options.seconds))
                runs["off"].append(drive(off, script, connections, options.seconds))
            columns = {
                name: [statistics.median(column) for column in zip(*taken, strict=True)]
                for name, taken in runs.items()
            }
            ratios = [a[0] / b[0] for a, b in zip(runs["on"], runs["off"], strict=True)]
            shown = ["{:.0f}, {:.2f}, {:.2f}".format(*columns[name]) for name in ("on", "off")]
            print(f"| {connections} | {shown[0]} | {shown[1]} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
