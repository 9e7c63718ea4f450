"""What a large tensor costs from a gateway's submit to a worker's batch buffer.

    python benchmarks/copies.py

A gateway, a real dispatcher process, and a worker process whose method looks at nothing and
answers with one number for each row. `--together` requests are in flight. Either every body is
lent in shared memory, or every body travels as frames, by two ZeroMQ hops; A B A B, in turn.
CPU seconds of all three processes, threads included, as the kernel counts them; "tensor" is what
is left without the same number of requests of 1 KB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tfrunner import shared_memory
from tfrunner.background import BackgroundGateway
from tfrunner.casting import Call, cast
from tfrunner.config import DispatcherConfig, ServedModel, WorkerConfig, to_argument
from tfrunner.processes import StopSignals
from tfrunner.specs import Argument, MethodSpec, ModelSpec, TensorSpec, encode_spec
from tfrunner.tensors import Array
from tfrunner_workers.answering import entries
from tfrunner_workers.connection import Connection
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.loop import Loop
from tfrunner_workers.warmup import declared

INPUT = TensorSpec("x", "uint8", (None, None))
OUTPUT = TensorSpec("y", "uint8", (None, 1))
METHOD = MethodSpec("__call__", (Argument("x", INPUT),), output=OUTPUT, batchable=True)
MODEL = ModelSpec("blind", "1", 1, {"__call__": METHOD})
SMALL = 1024


class Blind:
    """A hosted model that does not look at its input."""

    spec = MODEL

    @property
    def methods(self) -> dict[str, Method]:
        """Its one method."""
        return {"__call__": lambda arrays: Output([arrays[0][:, :1].copy()], OUTPUT)}

    def example(self, method: str) -> list[Array] | None:
        """Return None: there is none."""
        return None


def served(rows: int) -> ServedModel:
    """Return the model as dispatcher and worker are told about it."""
    return ServedModel(MODEL.tag, encode_spec(MODEL), max_batch_size=rows)


def work(config: str) -> None:
    """Be the worker."""
    given = json.loads(config)
    connection = Connection(
        WorkerConfig("blind-0", given["backend"], served(given["rows"]), parent=os.getppid())
    )
    connection.open()
    model = Blind()
    states = declared(model)
    with StopSignals() as signals:
        connection.become_ready(states, signals)
        Loop(connection, entries(model, states, borrows=True)).run()
    connection.close(0.0)


def cpu_seconds(processes: list[int]) -> float:
    """Return the CPU time of processes, with all threads, in seconds."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for pid in processes
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


class Line:
    """A gateway, and the processes that its requests pass.

    Args:
        gateway: Open.
        processes: Its own, the dispatcher's, the worker's.
    """

    def __init__(self, gateway: BackgroundGateway, processes: list[int]) -> None:
        self._gateway = gateway
        self._processes = processes

    def measure(self, call: Call, *, requests: int, together: int) -> float:
        """Return the CPU microseconds of one request."""
        began = cpu_seconds(self._processes)
        for _ in range(requests // together):
            futures = [self._submit(call) for _ in range(together)]
            for future in futures:
                future.result(60)
        return 1e6 * (cpu_seconds(self._processes) - began) / (requests // together * together)

    def _submit(self, call: Call) -> Future[Any]:
        return self._gateway.submit(MODEL, METHOD, call, timeout=60)


@contextmanager
def lines(rows: int) -> Iterator[dict[str, Line]]:
    """Start a dispatcher and a worker; yield a gateway that lends, and one that does not."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        config = DispatcherConfig(
            (f"ipc://{folder}/f",), f"ipc://{folder}/b", (served(rows),), log_level="warning"
        )
        given = json.dumps({"backend": config.backend, "rows": rows})
        processes = [
            subprocess.Popen([sys.executable, "-m", "tfrunner.dispatcher", to_argument(config)]),
            subprocess.Popen([sys.executable, __file__, "--work", given]),
        ]
        pids = [os.getpid(), *(process.pid for process in processes)]
        sizes = {"shared": shared_memory.SEGMENT_BYTES, "frames": 0}
        gateways = {
            way: BackgroundGateway(config.frontend[0], shared=size) for way, size in sizes.items()
        }
        try:
            for gateway in gateways.values():
                gateway.start(30)
            yield {way: Line(gateway, pids) for way, gateway in gateways.items()}
        finally:
            for gateway in gateways.values():
                gateway.close()
            for process in reversed(processes):
                process.terminate()
                process.wait(30)


def call_of(size: int) -> Call:
    """Return a call with one row of so many bytes."""
    return cast(METHOD, (np.random.default_rng(0).integers(0, 255, (1, size), np.uint8),), {})


def compare(size: int, *, together: int, rounds: int, seconds: float) -> None:
    """Print what a tensor of a size costs both ways."""
    with lines(together) as both:
        call, small = call_of(size), call_of(SMALL)
        requests = together
        for line in both.values():
            began = time.perf_counter()
            line.measure(call, requests=4 * together, together=together)
            requests = max(together, int(seconds * 4 * together / (time.perf_counter() - began)))
        costs: dict[str, list[float]] = {"shared": [], "frames": [], "small": []}
        for _ in range(rounds):
            for way in ("frames", "shared"):
                how = {"requests": requests, "together": together}
                costs[way].append(both[way].measure(call, **how))
            costs["small"].append(both["shared"].measure(small, **how))
    middle = {way: statistics.median(found) for way, found in costs.items()}
    pairs = list(zip(costs["shared"], costs["frames"], costs["small"], strict=True))
    whole = statistics.median(shared / frames for shared, frames, _ in pairs)
    tensor = statistics.median((s - least) / (f - least) for s, f, least in pairs)
    print(
        f"| {size:9,} | {together:2} | {middle['frames']:7.0f} | {middle['shared']:7.0f} "
        f"| {middle['small']:5.0f} | {whole:5.2f} | {tensor:5.2f} |",
        flush=True,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [16_384, 32_768, 65_536, 262_144, 600_000, 5_000_000]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes)
    parser.add_argument("--together", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one round of one way")
    parser.add_argument("--lend-from", type=int, default=8192, help="bytes; all that is measured")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    from tfrunner import exchange

    exchange.LEND_FROM = shared_memory.LEND_FROM = options.lend_from
    print("| bytes | in flight | frames, us | shared, us | 1 KB, us | ratio | tensor alone |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for together in options.together:
        for size in options.sizes:
            compare(size, together=together, rounds=options.rounds, seconds=options.seconds)


if __name__ == "__main__":
    main()
