"""A dispatcher for tests of gateways: a real Router that does exactly what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from tfrunner import protocol as p
from tfrunner.casting import Call
from tfrunner.gateway import Answer, Gateway
from tfrunner.specs import (
    Argument,
    MethodSpec,
    ModelSpec,
    Node,
    TensorSpec,
    encode_spec,
    leaves,
)
from tfrunner.tensors import Array, Layout, Leaf, dtype_name, encode_layout, to_body
from tfrunner.transport import Router

LIMIT = 20.0  # seconds, for what takes milliseconds

M = TypeVar("M")

METHOD = MethodSpec(
    "__call__",
    (Argument("x", TensorSpec("x", "float32", (None, 2))),),
    output=TensorSpec("y", "float32", (None, 2)),
    batchable=True,
)
ONCE = MethodSpec("once", METHOD.arguments, output=METHOD.output, batchable=True, repeatable=False)
MODEL = ModelSpec("m", "v1", 1, {"__call__": METHOD, "once": ONCE})
OUTPUT = TensorSpec("y", "float32", (None, 2))


def call(array: Array) -> Call:
    """Return a batchable call with one tensor."""
    layout = Layout((Leaf(dtype_name(array), (None, *array.shape[1:])),))
    return Call(encode_layout(layout), len(array), (to_body(array),))


def rows(start: int, stop: int) -> Array:
    """Return rows that can be told apart: row n is [n, -n]."""
    numbers = np.arange(start, stop, dtype=np.float32)
    return np.stack([numbers, -numbers], axis=1)


def submit(
    gateway: Gateway,
    start: int = 0,
    stop: int = 1,
    *,
    timeout: float = LIMIT,
    method: MethodSpec = METHOD,
) -> asyncio.Future[Answer]:
    """Submit rows `start` to `stop` of `rows`."""
    return gateway.submit(MODEL, method, call(rows(start, stop)), timeout=timeout)


async def within(future: asyncio.Future[Answer]) -> Answer:
    """Wait for an answer, with a limit."""
    return await asyncio.wait_for(future, LIMIT)


def block(
    spans: Sequence[tuple[int, int, int, int]],
    *arrays: Array,
    structure: Node = OUTPUT,
    axis: int | None = 0,
) -> p.Block:
    """Return a block; a span is (request, start, stop, rows)."""
    shapes = [
        tuple(None if at == axis else size for at, size in enumerate(array.shape))
        for array in arrays
    ]
    tensors = tuple(Leaf(dtype_name(a), shape) for a, shape in zip(arrays, shapes, strict=True))
    assert len(list(leaves(structure))) == len(arrays)
    layout = encode_layout(Layout(tensors, structure))
    return p.Block(tuple(p.Span(*span) for span in spans), layout, tuple(map(to_body, arrays)))


class FakeDispatcher:
    """Answers Hellos as the dispatcher does; a test sends everything else.

    Args:
        address: Where it listens.
        epoch: Name of its life.
        models: What it serves.
    """

    def __init__(
        self, address: str, *, epoch: str = "epoch-1", models: Sequence[ModelSpec] = (MODEL,)
    ) -> None:
        self.address = address
        self.epoch = epoch
        self.models = tuple(encode_spec(model) for model in models)
        self.is_silent = False
        self.peer = b""
        self._router = Router("dispatcher")
        self._decoder = p.Decoder(p.FromGateway)
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._passed: list[Any] = []

    async def __aenter__(self) -> FakeDispatcher:
        self._router.open()
        self._router.bind(self.address)
        asyncio.get_running_loop().add_reader(self._router.fileno(), self._read)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._router.fileno())
        self._router.close()

    def send(self, message: p.Message) -> None:
        """Send to the gateway that was heard last."""
        self.send_frames(p.encode(message))

    def send_frames(self, frames: Sequence[p.Buffer]) -> None:
        """Send anything to the gateway that was heard last."""
        self._router.send(self.peer, frames)
        self._read()

    async def next(self, kind: type[M]) -> M:
        """Return the next message of a kind; others are passed over, and kept in `passed`."""
        while True:
            message = await asyncio.wait_for(self._arrived.get(), LIMIT)
            if isinstance(message, kind):
                return message
            self._passed.append(message)

    def take_passed(self, kind: type[M]) -> list[M]:
        """Return the messages of a kind that `next` passed over or has not reached yet."""
        while not self._arrived.empty():
            self._passed.append(self._arrived.get_nowait())
        return [message for message in self._passed if isinstance(message, kind)]

    def _read(self) -> None:
        while received := self._router.receive():
            for self.peer, frames in received:
                message = self._decoder.decode(frames)
                if isinstance(message, p.Hello) and not self.is_silent:
                    models = self.models if message.epoch != self.epoch else ()
                    self._router.send(self.peer, p.encode(p.Welcome(self.epoch, models)))
                self._arrived.put_nowait(message)
