"""The Python client against the in-process call, and against two bare ZeroMQ sockets.

    python benchmarks/client.py                  # the linear model
    python benchmarks/client.py --model echo     # without TensorFlow

Starts a server with nothing set, and measures in turn, several rounds in one run:

1. A lone request over ipc, and the same call of the same model in this process: the medians,
   and by how much the first is above the second.
2. Single-row requests with 256 in flight, from one thread (`Client.submit`) and from one
   event loop (`AsyncClient.submit`), and a bare pyzmq DEALER whose messages a ROUTER in another
   process sends back, the same number of requests in flight and the same number in each
   message. The bare pair is measured in three ways. It neither casts, queues nor runs anything:
   - `frames`: each request is a frame of its own; answers are counted, nobody waits for one.
   - `packed`: all requests of a message are packed into one frame with msgpack, as small bodies
     are in ours; answers are counted.
   - `futures`: packed, and each request has a future of the standard library, in which its
     answer is put as an array: what the caller of any client gets.

Prints one line for each round and the medians with their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tfrunner.client import AsyncClient, Client
from tfrunner.runner import Runner
from tfrunner.testing import ServedClient, serve
from tfrunner.transport import Dealer, Router, wait

COLUMNS = 5
BATCHABLE = {"__call__": {"batchable": True, "batch_dim": 0}}
LIMIT = 30.0


def linear() -> Any:
    """Return the model: the sum of five numbers."""
    import tensorflow as tf

    class Linear(tf.Module):  # type: ignore[misc]
        """A matrix product with one column."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.ones((COLUMNS, 1)), dtype=tf.float32)

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec([None, COLUMNS], tf.float32, name="x")]
        )
        def __call__(self, x: Any) -> Any:
            """Return one number for each row."""
            return tf.matmul(x, self.weights)

    return Linear()


def lone(call: Callable[[], Any], seconds: float) -> float:
    """Return the median seconds of one call after the other."""
    times = []
    until = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < until:
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def submitted(client: Client, name: str, row: Any, *, in_flight: int, seconds: float) -> float:
    """Return the requests per second of one thread that keeps so many under way."""
    under_way = deque(client.submit(name, row) for _ in range(in_flight))
    begin, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + seconds:
        under_way.popleft().result(LIMIT)
        under_way.append(client.submit(name, row))
        count += 1
    for each in under_way:
        each.result(LIMIT)
    return count / (now - begin)


async def awaited(address: str, name: str, row: Any, *, in_flight: int, seconds: float) -> float:
    """Return the requests per second of one event loop that keeps so many under way."""
    async with AsyncClient(address) as client:
        await client.predict(name, row)
        under_way = deque(client.submit(name, row) for _ in range(in_flight))
        begin, count = time.perf_counter(), 0
        while (now := time.perf_counter()) < begin + seconds:
            await under_way.popleft()
            under_way.append(client.submit(name, row))
            count += 1
        await asyncio.gather(*under_way)
    return count / (now - begin)


def echo(address: str, ready: Any) -> None:
    """Send every message back; runs in a process of its own."""
    with Router("echo") as router:
        assert isinstance(router, Router)
        router.bind(address)
        ready.set()
        while True:
            wait([router], None)
            for sender, frames in router.receive():
                router.send(sender, frames)


@contextlib.contextmanager
def bare_pair() -> Iterator[Dealer]:
    """Run an echo, and give a dealer that is connected to it."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        address, ready = f"ipc://{folder}/echo", context.Event()
        process = context.Process(target=echo, args=(address, ready), daemon=True)
        process.start()
        try:
            if not ready.wait(LIMIT):
                raise TimeoutError("the echo did not start")
            with Dealer("bare") as dealer:
                assert isinstance(dealer, Dealer)
                dealer.connect(address)
                yield dealer
        finally:
            process.terminate()
            process.join()


def in_frames(row: bytes, together: int) -> list[bytes]:
    """Return a message with a frame for each request."""
    return [row] * together


def in_one(row: bytes, together: int) -> list[bytes]:
    """Return a message of one frame, the requests packed into it."""
    return [msgspec.msgpack.encode([(number, row) for number in range(together)])]


def bare(
    dealer: Dealer, row: bytes, *, in_flight: int, together: int, packed: bool, seconds: float
) -> float:
    """Return the requests per second of two bare sockets."""
    pack = in_one if packed else in_frames
    unpack = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
    messages = max(1, in_flight // together)
    for _ in range(messages):
        dealer.send(pack(row, together))
    begin, count, left = time.perf_counter(), 0, messages
    is_over = False
    while left:
        wait([dealer], LIMIT)
        for _, frames in dealer.receive():
            left -= 1
            count += len(unpack.decode(frames[0])) if packed else len(frames)
            is_over = is_over or time.perf_counter() > begin + seconds
            if not is_over:
                dealer.send(pack(row, together))
                left += 1
    return count / (time.perf_counter() - begin)


def answered(dealer: Dealer, row: Any, *, in_flight: int, together: int, seconds: float) -> float:
    """Return the requests per second of two bare sockets, and a future for each request."""
    unpack = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
    numbers = itertools.count()
    unsent: list[tuple[int, bytes]] = []
    waiting: dict[int, Future[Any]] = {}

    def submit() -> Future[Any]:
        number, future = next(numbers), Future[Any]()
        waiting[number] = future
        unsent.append((number, row.tobytes()))
        if len(unsent) >= together:
            flush()
        return future

    def flush() -> None:
        if unsent:
            dealer.send([msgspec.msgpack.encode(unsent)])
            unsent.clear()

    def result(future: Future[Any]) -> Any:
        while not future.done():
            flush()
            wait([dealer], LIMIT)
            for _, frames in dealer.receive():
                for number, body in unpack.decode(frames[0]):
                    waiting.pop(number).set_result(np.frombuffer(body, row.dtype))
        return future.result()

    under_way = deque(submit() for _ in range(in_flight))
    begin, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < begin + seconds:
        result(under_way.popleft())
        under_way.append(submit())
        count += 1
    for each in under_way:
        result(each)
    return count / (now - begin)


def requests_per_message(client: Client, name: str, row: Any, *, in_flight: int) -> int:
    """Return how many requests leave together where so many are under way: one batch.

    A message of the client holds as many (`background.MANY`), or what waits when there is less.
    """
    before = batches(client, name)
    submitted(client, name, row, in_flight=in_flight, seconds=0.5)
    after = batches(client, name)
    return max(1, round((after[0] - before[0]) / max(1, after[1] - before[1])))


def batches(client: Client, name: str) -> tuple[int, int]:
    """Return how many rows and batches of a model were run."""
    model = next(
        state for tag, state in client.status()["models"].items() if tag.partition(":")[0] == name
    )
    return int(model["rows"]), int(model["batches"])


def measure(
    client: ServedClient, name: str, local: Callable[[], Any] | None, args: Any
) -> dict[str, Any]:
    """Measure everything in turn; return the rounds and their medians."""
    row = np.ones((1, COLUMNS), np.float32)
    in_flight, seconds = args.in_flight, args.seconds
    together = requests_per_message(client, name, row, in_flight=in_flight)
    rounds: list[dict[str, float]] = []
    with bare_pair() as dealer:
        pair = {"in_flight": in_flight, "together": together, "seconds": seconds}
        for _ in range(args.rounds):
            found = {
                "submit": submitted(client, name, row, in_flight=in_flight, seconds=seconds),
                "frames": bare(dealer, row.tobytes(), packed=False, **pair),
                "async": asyncio.run(
                    awaited(client.address, name, row, in_flight=in_flight, seconds=seconds)
                ),
                "packed": bare(dealer, row.tobytes(), packed=True, **pair),
                "futures": answered(dealer, row, **pair),
                "lone_ms": 1000 * lone(lambda: client.predict(name, row), seconds),
            }
            if local is not None:
                found["local_ms"] = 1000 * lone(local, seconds)
            rounds.append(found)
            print({key: round(value, 3) for key, value in found.items()}, file=sys.stderr)
    middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    ratios = {
        f"{ours} / {theirs}": statistics.median(each[ours] / each[theirs] for each in rounds)
        for ours in ("submit", "async")
        for theirs in ("frames", "packed", "futures")
    }
    if local is not None:
        above = statistics.median(each["lone_ms"] - each["local_ms"] for each in rounds)
        middle["lone_above_local_ms"] = above
    return {"requests_per_message": together, "rounds": rounds, "medians": middle, "ratios": ratios}


def main() -> int:
    """Read the arguments; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=("linear", "echo"), default="linear")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, default=256)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        if args.model == "echo":
            with serve("echo", echo=True) as client:
                outcome = measure(client, "echo", None, args)
        else:
            from tfrunner.tensorflow import save

            model = save(linear(), "linear", signatures=BATCHABLE, home=Path(folder))
            runner: Runner = model.to_runner()
            runner.init_local(quiet=True)
            row = np.ones((1, COLUMNS), np.float32)
            with serve(model) as client:
                outcome = measure(client, "linear", lambda: runner.run(row), args)
    json.dump(outcome, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
