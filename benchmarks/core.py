"""What a request costs in the dispatcher's core, and how that grows with the queue.

    python benchmarks/core.py

1. Virtual time: `--together` requests come in one message, to workers whose batches take 1 ms
   and 0.1 ms for each row. The messages of both sides are made here too, so their cost is in
   the figure.
2. A queue of ever more requests, of one client or of a thousand: what it costs to add one to it
   and to take one out, under the policy that is shipped.

CPU time of this process, so that other work on the machine counts little. Goal: 8 us per
request with 64 workers, and no more than the logarithm of the queue.
"""

from __future__ import annotations

import argparse
import heapq
import time

from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.outbox import Send
from tfrunner.dispatcher.predictive import Predictive

MODEL = "m:1"
BODY = b"x" * 40
COSTS = tuple((1 << power, 0.001 + 0.0001 * (1 << power)) for power in range(7))
METHODS = (p.MethodState("__call__", True, True, "", COSTS),)


def core_of(workers: int) -> Core:
    """Return a core with so many warm workers, each on a device of its own."""
    served = ServedModel(MODEL, b"", queue_requests=10**9, queue_bytes=10**12)
    core = Core(DispatcherConfig(("f",), "b", (served,)), Predictive(), epoch="e")
    hear(core, workers, 0.0)
    core.step(0.0)
    return core


def hear(core: Core, workers: int, now: float) -> None:
    """Let everybody say hello."""
    for number in range(workers):
        name = f"w{number}"
        hello = p.WorkerHello(name, "e", MODEL, 1, f"device-{number}", True, METHODS)
        core.handle(name.encode(), hello, now)
    core.handle(b"g", p.Hello("g", "e"), now)


def request(number: int, *, clients: int = 1) -> p.Request:
    """Return one request of one row."""
    client = f"client-{number % clients}"
    return p.Request(number, MODEL, "__call__", b"L", 1, 1e6, client, (BODY,))


def done(batch: p.RunBatch) -> p.BatchDone:
    """Return the answer of an honest worker."""
    blocks = tuple(
        p.BlockFor(
            each.gateway,
            p.Block(
                tuple(p.Span(x.request, x.start, x.stop, x.rows) for x in each.parts), b"L", (BODY,)
            ),
        )
        for each in batch.groups
    )
    return p.BatchDone(batch.batch, batch.attempt, 0.001 + 0.0001 * batch.rows, blocks)


def batches(sends: list[Send]) -> list[Send]:
    """Return what goes to workers."""
    return [send for send in sends if isinstance(send.message, p.RunBatch)]


def measure_loop(workers: int, *, requests: int, together: int, rate: float) -> float:
    """Return microseconds per request that comes at `rate` per second, in virtual time."""
    core = core_of(workers)
    ends: list[tuple[float, int, Send]] = []
    answered = sent = batch = 0
    now = arrival = hello = 0.0
    began = time.process_time()
    while answered < requests:
        now = min(arrival, ends[0][0]) if ends else arrival
        while ends and ends[0][0] <= now:
            send = heapq.heappop(ends)[2]
            core.handle(send.peer, done(send.message), now)
            answered += send.message.rows
        if arrival <= now:
            core.handle(b"g", p.Submit(tuple(request(sent + i) for i in range(together))), now)
            sent += together
            arrival += together / rate
        if now >= hello:
            hello = now + 0.5
            hear(core, workers, now)
        for send in batches(core.step(now)):
            batch += 1
            seconds = 0.001 + 0.0001 * send.message.rows
            heapq.heappush(ends, (now + seconds, batch, send))
    return 1e6 * (time.process_time() - began) / answered


def measure_queue(length: int, *, clients: int) -> tuple[float, float]:
    """Return microseconds to add a request to a queue so long, and to run one out of it."""
    core = core_of(1)
    core.handle(b"g", p.Submit((request(0),)), 0.0)
    held = batches(core.step(0.0))
    began = time.process_time()
    for number in range(1, length + 1):
        core.handle(b"g", p.Submit((request(number, clients=clients),)), 0.0)
        held += batches(core.step(0.0))
    added = time.process_time() - began
    began = time.process_time()
    while held:
        send = held.pop(0)
        core.handle(send.peer, done(send.message), 0.0)
        held += batches(core.step(0.0))
    taken = time.process_time() - began
    return 1e6 * added / length, 1e6 * taken / length


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--together", type=int, default=32, help="requests of one message")
    options = parser.parse_args()
    print("us per request, messages included")
    for workers, rate in ((1, 7_000.0), (4, 25_000.0), (16, 100_000.0), (64, 100_000.0)):
        cost = measure_loop(
            workers, requests=options.requests, together=options.together, rate=rate
        )
        print(f"  {workers:2} workers  {rate:6.0f}/s  {cost:6.2f}")
    print("us per request by length of the queue: one step to add it; run and answer it")
    for clients in (1, 1000):
        for length in (100, 1_000, 10_000, 100_000):
            added, taken = measure_queue(length, clients=clients)
            print(f"  {clients:4} clients  {length:6} queued  {added:6.2f}  {taken:6.2f}")


if __name__ == "__main__":
    main()
