"""The demo: a model of handwritten digits, served and checked answer by answer.

1. A process of its own trains the model (once) and writes down what it says in-process.
2. A server is started.
3. Every held-out image is sent on its own, many at a time, over HTTP and with the Python
   client; each answer is compared with the one in-process.
4. The server goes on until Ctrl-C, or ends with `--check-only`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from tfrunner.client import AsyncClient
from tfrunner.config import RunFile, child_environment
from tfrunner.errors import Unavailable
from tfrunner.tensors import Array

CONCURRENT = 32
"""Requests that wait for an answer at the same time."""

ROUNDS = 3
TOLERANCE = 1e-5
"""Float32 sums in another order differ by less."""

STOP_SECONDS = 60.0

Predict = Callable[[Array], Awaitable[Array]]


class Digits(msgspec.Struct, frozen=True):
    """The held-out images, what is on them, and what the model says in-process."""

    tag: str
    images: Array
    labels: Array
    answers: Array


class Measured(msgspec.Struct, frozen=True):
    """The answers of one way to call, image by image and round by round, and their times."""

    way: str
    answers: Array
    seconds: Array
    total: float


def run(*, check_only: bool, port: int | None) -> int:
    """Run the demo; return 0 if every answer is the one in-process.

    Args:
        check_only: End after the check.
        port: HTTP port; None: the usual one, or any free one for a mere check.

    Raises:
        TFRunnerError: The model cannot be trained, or the server does not start.
    """
    digits = prepare()
    chosen = port if port is not None else 0 if check_only else None
    with server(digits.tag, port=chosen) as (process, address):
        measured = asyncio.run(measure(address, digits))
        is_right = report(digits, measured, asyncio.run(batch_sizes(address, digits.tag)))
        if check_only or not is_right:
            return 0 if is_right else 1
        say_how_to_call(address, digits)
        return wait(process)


def prepare() -> Digits:
    """Return the images and the model's answers; train it if it was not before.

    Raises:
        Unavailable: The training failed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="tfrunner-demo-") as folder:
        file = Path(folder) / "digits.npz"
        command = [sys.executable, "-m", "tfrunner.demo_model", str(file)]
        done = subprocess.run(command, env=_quiet_environment(), check=False)
        if done.returncode != 0:
            raise Unavailable("the demo's model could not be trained; the lines above say why")
        with np.load(file, allow_pickle=False) as stored:
            parts = {name: stored[name] for name in ("images", "labels", "answers")}
            return Digits(tag=str(stored["tag"]), **parts)


def _quiet_environment() -> dict[str, str]:
    """Return an environment in which TensorFlow only says what went wrong, and uses no GPU."""
    return child_environment(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")


@contextmanager
def server(tag: str, *, port: int | None) -> Iterator[tuple[subprocess.Popen[bytes], RunFile]]:
    """Start a server and wait until it is ready; end it afterwards.

    Raises:
        Unavailable: It did not start; it has said why.
    """
    options = [
        "--json",
        "--log-level",
        "warning",
        *(["--port", str(port)] if port is not None else []),
    ]
    command = [sys.executable, "-m", "tfrunner.testing", str(os.getpid()), "serve", tag, *options]
    process = subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Unavailable("the server did not start; the lines above say why")
        yield process, msgspec.json.decode(line, type=RunFile)
    finally:
        process.terminate()
        wait(process)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait until the server ends; Ctrl-C reaches it too, and it is the one to answer."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


async def measure(address: RunFile, digits: Digits) -> list[Measured]:
    """Send every image over HTTP, then with the Python client."""
    caller = HttpCaller(address.http, digits.tag)
    with ThreadPoolExecutor(CONCURRENT) as threads:
        loop = asyncio.get_running_loop()

        async def over_http(image: Array) -> Array:
            return await loop.run_in_executor(threads, caller.predict, image)

        measured = [await send_all("HTTP, JSON", over_http, digits.images)]
    caller.close()
    async with AsyncClient(address.frontend[0]) as client:

        async def with_client(image: Array) -> Array:
            answer: Array = await client.predict(digits.tag, image)
            return answer

        measured.append(await send_all("Python client", with_client, digits.images))
    return measured


class HttpCaller:
    """Calls the server as any HTTP client does; each thread has a connection to itself.

    Args:
        address: `http://host:port` of the server.
        tag: The model.
    """

    def __init__(self, address: str, tag: str) -> None:
        self._host = address.removeprefix("http://")
        self._path = f"/v1/models/{tag.replace(':', '/versions/')}:predict"
        self._free: list[http.client.HTTPConnection] = []

    def predict(self, image: Array) -> Array:
        """Send one image as JSON; return the probabilities.

        Raises:
            Unavailable: The server refused; the message holds its answer.
        """
        try:
            connection = self._free.pop()
        except IndexError:
            connection = http.client.HTTPConnection(self._host)
        body = json.dumps({"instances": image.tolist()})
        connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Unavailable(f"HTTP {answer.status}: {data.decode(errors='replace')}")
        self._free.append(connection)
        return np.asarray(json.loads(data)["predictions"], np.float32)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._free:
            connection.close()


async def send_all(way: str, predict: Predict, images: Array) -> Measured:
    """Send each image on its own, a number of them at a time, in several rounds."""
    await asyncio.gather(*(predict(images[:1]) for _ in range(CONCURRENT)))  # connect
    total = ROUNDS * len(images)
    answers: list[Any] = [None] * total
    seconds = np.zeros(total)
    numbers = iter(range(total))

    async def send_some() -> None:
        for number in numbers:
            index = number % len(images)
            begin = time.perf_counter()
            answer = await predict(images[index : index + 1])
            seconds[number] = time.perf_counter() - begin
            answers[number] = answer[0]

    begin = time.perf_counter()
    await asyncio.gather(*(send_some() for _ in range(CONCURRENT)))
    return Measured(way, np.stack(answers), seconds, time.perf_counter() - begin)


async def batch_sizes(address: RunFile, tag: str) -> dict[int, int]:
    """Return how many batches there were of each size, in rows."""
    async with AsyncClient(address.frontend[0]) as client:
        state = await client.status()
    counts = state["models"][tag]["batch_rows"]
    return {
        int(rows): int(count) for rows, count in sorted(counts.items(), key=lambda c: int(c[0]))
    }


def report(digits: Digits, measured: list[Measured], sizes: dict[int, int]) -> bool:
    """Print what was measured; return whether every answer is the one in-process."""
    table = Table(title=f"{len(digits.images)} held-out images, {CONCURRENT} requests at a time")
    for column in ("called by", "calls/s", "p50", "p99", "right", "equal"):
        table.add_column(column, justify="left" if column == "called by" else "right", no_wrap=True)
    alone = np.mean(digits.answers.argmax(axis=1) == digits.labels)
    is_right = True
    for each in measured:
        expected = np.tile(digits.answers, (ROUNDS, 1))
        equal = int(np.sum(is_equal(each.answers, expected)))
        is_right = is_right and equal == len(expected)
        p50, p99 = (f"{1000 * s:.1f} ms" for s in quantiles(each.seconds))
        labels = np.tile(digits.labels, ROUNDS)
        accuracy = np.mean(each.answers.argmax(axis=1) == labels)
        rate = f"{len(expected) / each.total:.0f}"
        table.add_row(each.way, rate, p50, p99, f"{accuracy:.2%}", f"{equal}/{len(expected)}")
    console = Console()
    console.print(table)
    note = f"equal: to the model called in-process, which is right on {alone:.2%} of the images"
    console.print(note, highlight=False)
    console.print(batch_table(sizes))
    if not is_right:
        console.print("[red]answers differ from the model called in-process[/red]")
    return is_right


def batch_table(sizes: dict[int, int]) -> Table:
    """Return how many batches there were, by their size in powers of two."""
    ranges: dict[str, int] = {}
    for rows, count in sizes.items():
        most = 1 << (rows - 1).bit_length()
        least = most // 2 + 1
        text = str(most) if least >= most else f"{least}-{most}"
        ranges[text] = ranges.get(text, 0) + count
    total = sum(sizes.values())
    mean = sum(rows * count for rows, count in sizes.items()) / max(1, total)
    table = Table(title=f"{total} batches, of {mean:.1f} rows on average")
    table.add_column("rows in a batch")
    for text in ranges:
        table.add_column(text, justify="right", no_wrap=True)
    table.add_row("batches", *map(str, ranges.values()))
    return table


def quantiles(seconds: Array) -> list[float]:
    """Return the median, and what 99 % of the requests needed at most."""
    ordered = sorted(seconds.tolist())
    return [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99)]


def is_equal(answers: Array, expected: Array) -> Array:
    """Return for each row whether it says the same digit with the same probabilities."""
    same_digit = answers.argmax(axis=1) == expected.argmax(axis=1)
    close = np.isclose(answers, expected, rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
    result: Array = same_digit & close
    return result


def say_how_to_call(address: RunFile, digits: Digits) -> None:
    """Print a call for each way that can be pasted."""
    click.echo(f"\nserving {digits.tag} at {address.http} (docs: {address.http}/docs). Call it:\n")
    body = "{\"instances\": '\"$(python3 -c 'print([[[[0.5]] * 8] * 8])')\"'}"
    click.echo(f"  curl -s {address.http}/v1/models/digits:predict -d '{body}'\n")
    click.echo("  import numpy, tfrunner")
    click.echo("  with tfrunner.Client() as client:")
    click.echo("      print(client.predict('digits', numpy.zeros((1, 8, 8, 1), 'float32')))\n")
    click.echo("Ctrl-C stops.")
