"""An api application over a gateway in memory, served by a real uvicorn in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfrunner.answer import Answer
from tfrunner.api.app import Application
from tfrunner.api.guard import make_guard
from tfrunner.api.server import Server
from tfrunner.api.state import ProcessState
from tfrunner.api.tls import Certificate
from tfrunner.casting import Call
from tfrunner.config import Bounds
from tfrunner.entrance import Entrance
from tfrunner.errors import DeadlineExceeded, ModelError, NotFound, Overloaded, TFRunnerError
from tfrunner.served import find_model
from tfrunner.service import Service
from tfrunner.specs import Argument, DictSpec, MethodSpec, ModelSpec, Node, TensorSpec, TupleSpec
from tfrunner.tensors import Array, decode_layout, unpack

LIMIT = 20.0  # seconds, for what takes milliseconds


def method(
    name: str, *arguments: tuple[str, Node], output: Node | None = None, **changes: Any
) -> MethodSpec:
    """Return a batchable method of these arguments."""
    made = tuple(Argument(*each) for each in arguments)
    return MethodSpec(name, made, output, **{"batchable": True, **changes})


def tensor(name: str, dtype: str, *shape: int | None) -> TensorSpec:
    """Return a tensor's spec."""
    return TensorSpec(name, dtype, shape)


def model(*methods: MethodSpec, name: str = "m", version: str = "v1", serial: int = 1) -> ModelSpec:
    """Return a model with these methods."""
    return ModelSpec(name, version, serial, {each.name: each for each in methods})


X = tensor("x", "float32", None, 2)
Y = tensor("y", "float32", None, 2)
SCALE = tensor("scale", "float32")
WORDS = tensor("words", "string", None)

ECHO = model(
    method("__call__", ("x", X), output=Y),
    method("scaled", ("x", X), ("scale", SCALE)),
    method("pair", ("a", X), ("b", WORDS)),
    method("words", ("words", WORDS)),
    method("nested", ("features", DictSpec({"a": X, "b": WORDS}))),
    method("whole", ("x", tensor("x", "float32", 2)), batchable=False),
    *(method(name, ("x", X)) for name in ("fail", "full", "late", "hang", "broken")),
)
OLDER = model(*ECHO.methods.values(), version="v0", serial=0)

Answering = Callable[[MethodSpec, list[Array]], Answer]

FAILURES: dict[str, TFRunnerError] = {
    "fail": ModelError("the model raised ValueError: no"),
    "full": Overloaded("the queue is full", retry_after=2.4),
    "late": DeadlineExceeded("no answer in time"),
}


def echo(method: MethodSpec, arrays: list[Array]) -> Answer:
    """Return the inputs: one tensor as it came, several as a tuple."""
    if len(arrays) == 1:
        shape = tuple(arrays[0].shape)
        return Answer(arrays, TensorSpec("y", arrays[0].dtype.name, shape))
    names = [f"out{index}" for index in range(len(arrays))]
    specs = [TensorSpec(n, a.dtype.name, a.shape) for n, a in zip(names, arrays, strict=True)]
    return Answer(arrays, TupleSpec(tuple(specs)))


class FakeGateway:
    """Answers at once, as the method's name says; "hang" never does.

    Args:
        models: What is served.
        answering: Makes the answers.
    """

    def __init__(
        self, models: Sequence[ModelSpec] = (ECHO, OLDER), *, answering: Answering = echo
    ) -> None:
        self.models = {each.tag: each for each in models}
        self.answering = answering
        self.counted: dict[tuple[str, str], float] = {}
        self.timeouts: list[float] = []
        self.clients: list[str] = []
        self.cancelled = threading.Event()
        self.hanging = threading.Event()
        self.state: dict[str, Any] = {"models": {}}
        self.state_error: TFRunnerError | None = None

    def find(self, name: str, version: str | None = None) -> ModelSpec:
        """Return a served model."""
        return find_model(self.models.values(), name, version)

    def method(self, model: ModelSpec, name: str | None) -> MethodSpec:
        """Return a method of a model."""
        chosen = model.default_method() if name is None else name
        if chosen not in model.methods:
            raise NotFound(f"{model.tag} has no method {chosen!r}; it has {list(model.methods)}")
        return model.methods[chosen]

    def submit(
        self,
        model: ModelSpec,
        method: MethodSpec,
        call: Call,
        *,
        timeout: float,
        client: str = "",
        priority: int = 0,
    ) -> asyncio.Future[Answer]:
        """Return the future of an answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.timeouts.append(timeout)
        self.clients.append(client)
        if method.name == "hang":
            future.add_done_callback(lambda done: self.cancelled.set())
            self.hanging.set()
        elif method.name == "broken":
            raise RuntimeError("a secret of ours")
        elif method.name in FAILURES:
            error = FAILURES[method.name]
            future.set_exception(type(error)(error.message, retry_after=error.retry_after))
        else:
            arrays = unpack(decode_layout(call.layout), call.bodies, call.rows)
            future.set_result(self.answering(method, arrays))
        return future

    async def ask(self, timeout: float = 2.0, *, told: bool = False) -> dict[str, Any]:
        """Return the state that the test set."""
        if self.state_error is not None:
            raise self.state_error
        return self.state

    async def close(self) -> None:
        """Fail nothing: what hangs is cut off."""

    def count(self, name: str, label: str, amount: float = 1) -> None:
        """Keep what was counted."""
        self.counted[name, label] = self.counted.get((name, label), 0) + amount


def answer(value: Any, structure: Node) -> Answering:
    """Return an answering that always gives these arrays."""
    arrays = [np.asarray(each) for each in value]
    return lambda method, inputs: Answer(arrays, structure)


@contextlib.contextmanager
def serving(
    gateway: FakeGateway,
    *,
    services: Sequence[Service] = (),
    timeout: float = 60.0,
    direct: bool = True,
    entrance: Entrance | None = None,
    local: socket.socket | None = None,
    around: Callable[[Application], Any] = lambda app: app,
    **bounds: Any,
) -> Iterator[str]:
    """Serve the application; yield its address.

    `direct`: predict requests go past ASGI, as in a server; else as with middleware.
    `local`: a further listening socket, which is closed at the end.
    `around`: returns what is served in place of the application.
    """
    entrance = entrance or Entrance()
    state = ProcessState(Bounds(**{"body_limit": 2**20, **bounds}), count=gateway.count)
    app = Application(
        gateway,  # type: ignore[arg-type]
        timeout=timeout,
        state=state,
        services=services,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "http" if entrance.tls is None else "https"
    address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(
        around(app),
        state=state,
        grace=0.2,
        give_up=gateway.close,
        direct=app.direct if direct else None,
        guard=make_guard(entrance),
        certificate=None if entrance.tls is None else Certificate(entrance.tls),
        local=local,
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(LIMIT)
        listener.close()
        assert not thread.is_alive()


Serve = Callable[..., contextlib.AbstractContextManager[str]]
"""`serving`, one of its two ways."""

BOTH_WAYS = {"params": [True, False], "ids": ["direct", "through ASGI"]}
"""For fixtures: predict requests past ASGI, and as where something is around the application."""
