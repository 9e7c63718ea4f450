"""Servers for the client's tests: a small real HTTP server, and a dispatcher that echoes.

Both serve the same models, answer at once, and do as the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tfrunner import casting, packing
from tfrunner.errors import TFRunnerError
from tfrunner.protocol import (
    Ask,
    Block,
    Decoder,
    Failure,
    Failures,
    FromGateway,
    Hello,
    Place,
    Request,
    Results,
    Segment,
    Span,
    Status,
    Submit,
    Welcome,
    encode,
)
from tfrunner.served import find_model
from tfrunner.specs import (
    Argument,
    DictSpec,
    MethodSpec,
    ModelSpec,
    Node,
    TensorSpec,
    TupleSpec,
    encode_spec,
    rebuild,
)
from tfrunner.tensors import Layout, decode_layout, encode_layout
from tfrunner.transport import Router, wait

ROWS = TensorSpec("x", "float32", (None, 2))
IDS = TensorSpec("ids", "int64", (None,))
WORDS = TensorSpec("words", "string", (None,))
PAIR = TupleSpec((ROWS, IDS))
NESTED = DictSpec({"a": ROWS, "b": DictSpec({"c": IDS})})


def method(
    name: str, *arguments: tuple[str, Node], output: Node | None = None, repeatable: bool = True
) -> MethodSpec:
    """Return a method that gives its input back, in the form of `output`."""
    made = tuple(Argument(*each) for each in arguments)
    form = output or arguments[0][1]
    return MethodSpec(name, made, form, batchable=True, repeatable=repeatable)


def model(name: str = "echo", version: str = "v1", serial: int = 1, **changes: Any) -> ModelSpec:
    """Return a model whose methods echo."""
    methods = [
        method("__call__", ("x", ROWS)),
        method("pair", ("x", ROWS), ("ids", IDS), output=PAIR),
        method("nested", ("features", NESTED)),
        method("same", ("a", DictSpec({"a": ROWS}))),
        method("words", ("words", WORDS)),
        method("fail", ("x", ROWS)),
        method("silent", ("x", ROWS)),
        method("once", ("x", ROWS), repeatable=False),
    ]
    by_name = {each.name: each for each in methods} | changes
    return ModelSpec(name, version, serial, by_name)


STATE = {
    "epoch": "e1",
    "draining": False,
    "models": {"echo:v1": {"state": "available", "reason": "", "methods": {"__call__": {}}}},
}


class HttpServer:
    """A real HTTP server with the routes that the client calls."""

    def __init__(self) -> None:
        self.models = [model()]
        self.requests: list[tuple[str, str, Any]] = []
        self.ids: list[str] = []  # of the predict requests that came
        self.answer: Callable[[], Response] | None = None
        self.faults: list[Response] = []  # answers to the next predict requests
        self.waited_for = threading.Event()
        self.address = ""

    @property
    def predicts(self) -> list[Any]:
        """The bodies of the predict requests that came."""
        return [body for verb, _, body in self.requests if verb == "POST"]

    def application(self) -> Starlette:
        """Return the ASGI application."""
        path = "/v1/models/{name}"
        routes = [
            Route("/readyz", self._wrap(lambda request: JSONResponse({}))),
            Route("/v1/status", self._wrap(lambda request: JSONResponse(STATE))),
            Route("/v1/models", self._wrap(self._list)),
            Route(path + "/metadata", self._wrap(self._metadata)),
            Route(path + "/versions/{version}/metadata", self._wrap(self._metadata)),
            Route(path + "/versions/{version}:predict", self._predict, methods=["POST"]),
            Route(path + ":predict", self._predict, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _wrap(self, handler: Callable[[HttpRequest], Response]) -> Any:
        async def endpoint(request: HttpRequest) -> Response:
            self.requests.append((request.method, request.url.path, None))
            if self.answer is not None:
                return self.answer()
            try:
                return handler(request)
            except TFRunnerError as exc:
                return _error(exc)

        return endpoint

    def _find(self, request: HttpRequest) -> ModelSpec:
        return find_model(
            self.models, request.path_params["name"], request.path_params.get("version")
        )

    def _metadata(self, request: HttpRequest) -> Response:
        return Response(msgspec.json.encode(self._find(request)), media_type="application/json")

    def _list(self, request: HttpRequest) -> Response:
        rows = [
            {
                "name": each.name,
                "version": each.version,
                "serial": each.serial,
                "state": "AVAILABLE",
                "reason": "",
                "methods": {name: {"batchable": True} for name in each.methods},
            }
            for each in self.models
        ]
        return JSONResponse({"models": rows})

    async def _predict(self, request: HttpRequest) -> Response:
        body = packing.unpack(await request.body())
        self.requests.append(("POST", request.url.path, body))
        self.ids.append(request.headers["x-request-id"])
        if self.answer is not None:
            return self.answer()
        if self.faults:
            return self.faults.pop(0)
        try:
            spec = self._find(request).methods[body["method"]]
            arrays = casting.bind(spec, (), body["inputs"])
        except TFRunnerError as exc:
            return _error(exc)
        if spec.name == "silent":
            self.waited_for.set()
            await asyncio.Event().wait()
        if spec.name == "fail":
            return JSONResponse(
                {"error": "the model raised", "code": "model_error", "request_id": "r-7"}, 500
            )
        outputs = rebuild(spec.output, iter(arrays).__next__)
        answer = {"outputs": outputs}
        if isinstance(outputs, tuple):
            answer["tuples"] = [[]]
        return Response(packing.pack(answer), media_type=packing.CONTENT_TYPE)


def _error(exc: TFRunnerError) -> Response:
    return JSONResponse({"error": exc.message, "code": exc.code}, exc.status)


@contextlib.contextmanager
def http_server(port: int = 0, **options: Any) -> Iterator[HttpServer]:
    """Run a server in a thread, on a free port or a given one; options are uvicorn's."""
    world = HttpServer()
    listener = socket.create_server(("127.0.0.1", port))
    scheme = "https" if "ssl_certfile" in options else "http"
    world.address = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        world.application(), log_level="critical", lifespan="off", ws="none", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield world
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listener.close()


@contextlib.contextmanager
def socket_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept connections and let the test talk on each; for replies that no server makes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


RCVHWM = 24
"""ZMQ_RCVHWM, the number of a socket's option."""


class Dispatcher(threading.Thread):
    """A dispatcher and its workers in one: answers every request with its own input."""

    def __init__(self, address: str) -> None:
        super().__init__(name="dispatcher")
        self.address = address
        self.models = [model()]
        self.epoch = "e1"
        self.faults: list[tuple[str, float | None]] = []  # (code, retry after) of next requests
        self.bodies: list[bytes] = []
        self.messages: list[Any] = []  # what came, in its order
        self.is_silent = False  # whether requests are passed over
        self.reads_ahead = 0  # messages that ZeroMQ takes while it is paused; 0: all
        self.state: dict[str, Any] = STATE
        self.waited_for = threading.Event()
        self.cancelled = threading.Event()
        self._segment: Segment | None = None
        self._router = Router("dispatcher")
        self._stop_asked = threading.Event()
        self._may_read = threading.Event()
        self._may_read.set()
        self._decoder = Decoder(FromGateway)

    def run(self) -> None:
        """Answer until `stop`."""
        with self._router:
            self._router.socket.setsockopt(RCVHWM, self.reads_ahead)
            self._router.bind(self.address)
            while not self._stop_asked.is_set():
                wait([self._router], 0.02)
                self._may_read.wait()
                for sender, frames in self._router.receive():
                    for answer in self._answers(self._decoder.decode(frames)):
                        self._router.send(sender, encode(answer))

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self._may_read.clear()

    def resume(self) -> None:
        """Read on."""
        self._may_read.set()

    def stop(self) -> None:
        """End, and wait for the end."""
        self._stop_asked.set()
        self._may_read.set()
        self.join(10)

    def _answers(self, message: Any) -> Iterator[Any]:
        self.messages.append(message)
        match message:
            case Hello(segment=segment):
                self._segment = segment or self._segment
                yield Welcome(self.epoch, tuple(encode_spec(each) for each in self.models))
            case Submit(requests=requests):
                for request in requests:
                    yield from self._run(request)
            case Ask(id=id):
                yield Status(id, self.state)
            case _:
                self.cancelled.set()

    def _run(self, request: Request) -> Iterator[Any]:
        if self.is_silent:
            return
        if self._segment is None and any(isinstance(body, Place) for body in request.bodies):
            return  # meant for an earlier dispatcher: sent again after a Hello with our epoch
        bodies = tuple(map(self._read, request.bodies))
        lent = tuple([request.id] * (bodies != request.bodies))
        self.bodies.append(bytes(bodies[0]))
        if self.faults:
            code, retry_after = self.faults.pop(0)
            yield Failures((Failure(request.id, code, f"it is {code}", retry_after),))
            return
        if request.method == "silent":
            self.waited_for.set()
            return
        if request.method == "fail":
            yield Failures((Failure(request.id, "overloaded", "the queue is full", 2.5),))
            return
        (spec,) = [each for each in self.models if each.tag == request.model]
        layout = decode_layout(request.layout)
        structure = spec.methods[request.method].output
        answer = encode_layout(Layout(layout.leaves, structure))
        spans = (Span(request.id, 0, request.rows, request.rows),)
        yield Results((Block(spans, answer, bodies),), lent)

    def _read(self, body: Any) -> Any:
        """Return a body; one in shared memory as a worker reads it."""
        if not isinstance(body, Place) or self._segment is None:
            return body
        with open(f"/proc/{self._segment.pid}/fd/{self._segment.descriptor}", "rb") as memory:
            memory.seek(body.offset)
            return memory.read(body.length)


@contextlib.contextmanager
def dispatcher(folder: Path, *, epoch: str = "e1", reads_ahead: int = 0) -> Iterator[Dispatcher]:
    """Run a dispatcher in a thread."""
    thread = Dispatcher(f"ipc://{folder}/frontend")
    thread.epoch, thread.reads_ahead = epoch, reads_ahead
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def rows(count: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return rows that are all different."""
    return np.arange(2 * count, dtype="float32").reshape(count, 2)
