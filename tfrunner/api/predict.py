"""The hot path: `POST /v1/models/<name>[/versions/<version>]:predict`.

Body -> arrays -> gateway -> arrays -> body; everything that can be known before is kept for
each path and each head. Nothing else belongs here. A request comes either from `Connection`,
which gives its answer to the transport itself, or through ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol

from tfrunner.answer import Answer
from tfrunner.api.answers import Written
from tfrunner.api.bodies import ClientGone, read_body
from tfrunner.api.disconnects import Disconnects
from tfrunner.api.forms import USUAL, Form, choose_forms
from tfrunner.api.framing import check_coding
from tfrunner.api.heads import Head, make_head
from tfrunner.api.msgpack_body import check_timeout
from tfrunner.api.replies import Receive, Scope, Send, send_error, unexpected
from tfrunner.api.state import ProcessState
from tfrunner.api.targets import Target, Targets
from tfrunner.errors import InvalidInput, TFRunnerError
from tfrunner.gateway import Gateway
from tfrunner.options import RunnerOptions
from tfrunner.protocol import LARGEST_PRIORITY


class Submitted(NamedTuple):
    """A request that waits for its answer, and how the answer is written."""

    future: asyncio.Future[Answer]
    form: Form
    by_rows: bool
    is_timed: bool = False

    def write(self, answer: Answer) -> Written:
        """Return the body of the answer.

        Raises:
            InvalidInput: Its form cannot hold it; NotAcceptable means the same.
        """
        written = self.form.write(answer, self.by_rows)
        if self.is_timed and answer.timing:
            timing = (b"server-timing", server_timing(answer.timing))
            return Written(written.pieces, (*written.headers, timing))
        return written


class Submit(Protocol):
    """`Predict.submit`, or what is put around it."""

    def __call__(
        self,
        target: Target,
        head: Head,
        body: bytes,
        *,
        client: str = "",
        request_id: bytes = b"",
    ) -> Submitted:
        """Send a request on its way."""


class Predict:
    """Answers predict requests.

    Args:
        gateway: The way to the dispatcher.
        timeout: Seconds that a request may take where it does not say.
        state: What the connections share.
        options: By the tag of a model, what the configuration asks for it.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        timeout: float,
        state: ProcessState,
        options: Mapping[str, tuple[RunnerOptions, ...]] | None = None,
    ) -> None:
        self._gateway = gateway
        self._timeout = timeout
        self.state = state
        self.body_limit = state.bounds.body_limit
        self._disconnects = Disconnects()
        self._targets = Targets(gateway, options=options or {})
        self.look_up: Callable[[str], Target | None] = self._targets.look_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request through ASGI; never raises for what a caller or a model did."""
        given = dict(scope["headers"])
        head = make_head(scope["path"], scope["headers"])
        request_id = scope.get("tfrunner.request_id") or self.state.ids.take(head.request_id)
        submitted: Submitted | None = None
        try:
            target = self._targets.find(head.path)
            check_coding(scope)
            length = given.get(b"content-length")
            held = self.state.held
            body = await read_body(receive, self.body_limit, length=length, held=held)
            client = scope.get("tfrunner.client", "")
            submitted = self.submit(target, head, body, client=client, request_id=request_id)
            written = submitted.write(await self._wait(submitted.future, receive))
        except ClientGone:
            return
        except Exception as exc:
            error = self.understand(
                exc, request_id, path=head.path, is_submitted=submitted is not None
            )
            await send_error(send, error, request_id=request_id)
            return
        data = b"".join(written.pieces)
        headers = [
            (b"content-type", submitted.form.content_type),
            (b"content-length", b"%d" % len(data)),
            (b"x-request-id", request_id),
            *written.headers,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def watch(self, around: Callable[[Submit], Submit]) -> None:
        """Have all requests from now on submitted by what is put around `submit`.

        Where nobody watches, it costs nothing.
        """
        self.submit = around(self.submit)  # type: ignore[method-assign]

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

    def submit(
        self,
        target: Target,
        head: Head,
        body: bytes,
        *,
        client: str = "",
        request_id: bytes = b"",
    ) -> Submitted:
        """Send a request on its way.

        Args:
            target: What its path stands for.
            head: What its head says.
            body: The whole body.
            client: Whose share it counts for; "": what its head says.
            request_id: The id that its caller knows, for those who `watch`.

        Raises:
            TFRunnerError: It cannot be understood, does not fit the model, or cannot be
                answered in a form that its caller accepts.
        """
        timeout = None if head.timeout is None else read_timeout(head.timeout)
        if not head.content_type and not head.accept:
            reads, writes = USUAL
        else:
            reads, writes = choose_forms(head)
        method, call, by_rows, own = reads.read(target, body, head, self.body_limit)
        if own is not None:
            timeout = own
        if timeout is None:
            timeout = target.timeout(method, self._timeout)
        if writes.check is not None:
            writes.check(method)
        priority = 0 if head.priority is None else read_priority(head.priority)
        if head.client and not client:
            client = share_name(head.client)
        future = self._gateway.submit(
            target.model, method, call, timeout=timeout, client=client, priority=priority
        )
        return Submitted(future, writes, by_rows, head.server_timing is not None)

    def understand(
        self, exc: BaseException, request_id: bytes, *, path: str, is_submitted: bool
    ) -> TFRunnerError:
        """Return the error to answer with; log it if it is grave, count it if nobody else does."""
        if isinstance(exc, TFRunnerError):
            error = exc
        else:
            error = unexpected()
            error.__cause__ = exc
        if error.status >= 500:
            target = self._targets.known(path)
            where = path if target is None else target.model.tag
            self.state.failures.write(error, request_id=request_id, where=where)
        if not is_submitted:  # else the dispatcher knows of it
            self.state.count("http_refused", error.code)
        return error


PARTS = ("queue", "gather", "run", "scatter")


def server_timing(seconds: Sequence[float]) -> bytes:
    """Return the value of a Server-Timing header: milliseconds in the dispatcher and the worker."""
    pairs = zip(PARTS, seconds, strict=False)
    return ", ".join(f"{name};dur={1e3 * each:.3f}" for name, each in pairs).encode()


def share_name(client: bytes) -> str:
    """Return the name under which a client's share is counted: a hash, since it may be a key."""
    return blake2b(client, digest_size=4).hexdigest()


def read_priority(text: bytes) -> int:
    """Return the priority that the header X-Priority gives.

    Raises:
        InvalidInput: It gives none.
    """
    try:
        priority = int(text)
    except ValueError:
        priority = LARGEST_PRIORITY + 1
    if abs(priority) > LARGEST_PRIORITY:
        raise InvalidInput(
            f"X-Priority is {text.decode('latin-1')!r}; expected a whole number from "
            f"-{LARGEST_PRIORITY} to {LARGEST_PRIORITY}"
        )
    return priority


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
