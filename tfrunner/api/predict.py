"""The hot path: `POST /v1/models/<name>[/versions/<version>]:predict`, a plain ASGI function.

Body -> arrays -> gateway -> arrays -> body; everything that can be known before is kept for
each path. Nothing else belongs here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple

from tfrunner import packing
from tfrunner.api.bodies import ClientGone, read_body
from tfrunner.api.disconnects import Disconnects
from tfrunner.api.json_answer import write_answer
from tfrunner.api.json_body import FindMethod, read_json
from tfrunner.api.json_fast import FastReader, fast_reader
from tfrunner.api.msgpack_body import check_timeout, read_msgpack, write_msgpack
from tfrunner.api.replies import JSON, Receive, Scope, Send, send_error, unexpected
from tfrunner.api.state import ProcessState
from tfrunner.casting import Call
from tfrunner.errors import InvalidInput, TFRunnerError
from tfrunner.gateway import Gateway
from tfrunner.pending import Answer
from tfrunner.specs import MethodSpec, ModelSpec

MSGPACK = packing.CONTENT_TYPE.encode()
PATH = re.compile(r"/v1/models/([^/]+?)(?:/versions/([^/:]+))?:predict")
HEADERS = frozenset((b"content-type", b"content-length", b"x-request-id", b"x-request-timeout"))
TARGETS = 1024
"""Most paths that are kept; one version of a model has several (serial, prefixes, latest)."""


class Target(NamedTuple):
    """What a path stands for; `fast` reads the bodies of its default method."""

    model: ModelSpec
    find_method: FindMethod
    fast: FastReader | None


class Asked(NamedTuple):
    """A request that was understood, and how its answer is written."""

    method: MethodSpec
    call: Call
    timeout: float
    write: Callable[[Answer], bytes]
    content_type: bytes


class Predict:
    """Answers predict requests.

    Args:
        gateway: The way to the dispatcher.
        timeout: Seconds that a request may take where it does not say.
        state: What the connections share.
    """

    def __init__(self, gateway: Gateway, *, timeout: float, state: ProcessState) -> None:
        self._gateway = gateway
        self._timeout = timeout
        self._body_limit = state.bounds.body_limit
        self._held = state.held
        self._ids = state.ids
        self._failures = state.failures
        self._disconnects = Disconnects()
        self._targets: dict[str, Target] = {}
        self._models: dict[str, ModelSpec] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; never raises for what a caller or a model did."""
        given = {name: value for name, value in scope["headers"] if name in HEADERS}
        request_id = self._ids.take(given.get(b"x-request-id"))
        future: asyncio.Future[Answer] | None = None
        where: str = scope["path"]
        try:
            target = self._target(where)
            where = target.model.tag
            length = given.get(b"content-length")
            asked = self._read(
                target,
                await read_body(receive, self._body_limit, length=length, held=self._held),
                given,
            )
            future = self._gateway.submit(
                target.model, asked.method, asked.call, timeout=asked.timeout
            )
            data = asked.write(await self._wait(future, receive))
        except ClientGone:
            return
        except Exception as exc:
            error = self._understand(exc, request_id, where=where, submitted=future is not None)
            await send_error(send, error, request_id=request_id)
            return
        headers = [
            (b"content-type", asked.content_type),
            (b"content-length", b"%d" % len(data)),
            (b"x-request-id", request_id),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _wait(self, future: asyncio.Future[Answer], receive: Receive) -> Answer:
        """Return the answer; cancel the request if its caller goes away.

        Raises:
            ClientGone: It did.
            TFRunnerError: The request failed.
        """
        self._disconnects.add(future, receive)
        try:
            answer = await future
        except BaseException as exc:
            if self._disconnects.remove(future):
                raise ClientGone from exc
            raise
        self._disconnects.remove(future)
        return answer

    def _understand(
        self, exc: Exception, request_id: bytes, *, where: str, submitted: bool
    ) -> TFRunnerError:
        """Return the error to answer with; log it if it is grave, count it if nobody else does."""
        if isinstance(exc, TFRunnerError):
            error = exc
        else:
            error = unexpected()
            error.__cause__ = exc
        if error.status >= 500:
            self._failures.write(error, request_id=request_id, where=where)
        if not submitted:  # else the dispatcher knows of it
            self._gateway.count("http_refused", error.code)
        return error

    def _target(self, path: str) -> Target:
        """Return what a path stands for.

        Raises:
            NotFound: No such model or version is served; the message says what is.
        """
        if self._models is not self._gateway.models:
            self._models = self._gateway.models
            self._targets = {}
        target = self._targets.get(path)
        if target is None:
            target = self._find(path)
            if len(self._targets) >= TARGETS:
                self._targets.clear()
            self._targets[path] = target
        return target

    def _find(self, path: str) -> Target:
        match = PATH.fullmatch(path)
        if match is None:
            raise InvalidInput(
                f"Malformed request: POST {path}; expected "
                "/v1/models/<name>[/versions/<version>]:predict"
            )
        model = self._gateway.find(match[1], match[2])
        default = model.default_method()
        fast = fast_reader(model.methods[default]) if default is not None else None
        return Target(model, lambda name: self._gateway.method(model, name), fast)

    def _read(self, target: Target, body: bytes, given: dict[bytes, bytes]) -> Asked:
        """Return what the body asks for, by its Content-Type; JSON where it says nothing else.

        Raises:
            InvalidInput: It does not fit the model.
        """
        timeout = self._timeout
        text = given.get(b"x-request-timeout")
        if text is not None:
            timeout = read_timeout(text)
        if given.get(b"content-type", b"").startswith(MSGPACK):
            packed = read_msgpack(body, find_method=target.find_method)
            timeout = timeout if packed.timeout is None else packed.timeout
            return Asked(packed.method, packed.call, timeout, write_msgpack, MSGPACK)
        method, call, by_rows = read_json(body, find_method=target.find_method, fast=target.fast)
        return Asked(method, call, timeout, write_rows if by_rows else write_columns, JSON)


def write_rows(answer: Answer) -> bytes:
    """Return the answer to a request in row form."""
    return write_answer(answer, by_rows=True)


def write_columns(answer: Answer) -> bytes:
    """Return the answer to a request in columnar form."""
    return write_answer(answer, by_rows=False)


def read_timeout(text: bytes) -> float:
    """Return the seconds that the header X-Request-Timeout gives.

    Raises:
        InvalidInput: It gives none.
    """
    try:
        seconds = float(text)
    except ValueError:
        raise InvalidInput(
            f"X-Request-Timeout is {text.decode('latin-1')!r}; expected a number of seconds"
        ) from None
    return check_timeout(seconds)
