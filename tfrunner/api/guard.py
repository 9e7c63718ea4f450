"""What every request passes before it is answered: CORS, API keys; and what is noted of it.

The same for the direct way of predict requests, whose exchanges carry a `Visit`, and for all
others, around whose application `Guarded` stands. There is no guard where nothing of it is
configured.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tfrunner.api.access_log import GONE, AccessLog, Line
from tfrunner.api.cors import NOT_ALLOWED, Cors, Preflight
from tfrunner.api.keys import Keys, read_key
from tfrunner.api.limits import Usage
from tfrunner.api.replies import Header, Receive, Scope, Send, error_body, send_error
from tfrunner.api.state import ProcessState
from tfrunner.caller import CALLER
from tfrunner.entrance import Entrance
from tfrunner.errors import Forbidden, NotFound, RateLimited, TFRunnerError, Unauthorized

HEALTH = ("/livez", "/healthz", "/readyz")
"""What never needs a key."""

READING = ("GET", "HEAD")
"""Methods that need no key where the path needs none: others may reach a mounted application."""

CLIENT = "tfrunner.client"
"""Where the scope of an ASGI request has the name of its API key."""

Address = tuple[str, int] | None


class Visit:
    """One request at the guard.

    Attributes:
        client: The name of its API key, "" where there are no keys.
        error: Why it is not answered.
        headers: What its answer has to say because of the guard.
    """

    __slots__ = ("_address", "_began", "_guard", "_has_ended", "_method", "_path", "_usage",
                 "client", "error", "headers")  # fmt: skip

    def __init__(self, guard: Guard, method: str, path: str, address: Address) -> None:
        self._guard = guard
        self._method = method
        self._path = path
        self._address = address
        self._usage: Usage | None = None
        self._began = 0.0 if guard.log is None else time.perf_counter()
        self._has_ended = False
        self.client = ""
        self.error: TFRunnerError | None = None
        self.headers: tuple[Header, ...] = ()

    def admit(self, keys: Keys, key: bytes) -> None:
        """Take the key that came with the request, and see whether it may go on."""
        if self._path in keys.open_paths and self._method in READING:
            return
        try:
            usage = keys.find(key)
            usage.enter(time.monotonic())
        except (Unauthorized, RateLimited) as exc:
            self.error = exc
        else:
            self._usage = usage
            self.client = usage.name

    def end(self, status: int, size: int, request_id: bytes) -> None:
        """Take note of the answer, the first one.

        Args:
            status: Its HTTP status.
            size: Bytes of its body.
            request_id: The id that its caller knows.
        """
        if self._has_ended:
            return
        self._has_ended = True
        usage, self._usage = self._usage, None
        if usage is not None:
            usage.leave()
        log = self._guard.log
        if log is not None:
            seconds = time.perf_counter() - self._began
            address = self._address[0] if self._address else "-"
            log.add(
                Line(
                    *(address, self._method, self._path, status, seconds, size, request_id),
                    self.client,
                )
            )


class Guard:
    """CORS, keys and access log of an api process; each may be None.

    Args:
        log: Where requests are noted.
        cors: Which pages may read answers.
        keys: Who may call.
        is_hiding_metrics: Whether nobody gets /metrics.
    """

    def __init__(
        self,
        *,
        log: AccessLog | None = None,
        cors: Cors | None = None,
        keys: Keys | None = None,
        is_hiding_metrics: bool = False,
    ) -> None:
        self.log = log
        self.cors = cors
        self.keys = keys
        self.is_hiding_metrics = is_hiding_metrics

    def __repr__(self) -> str:
        return f"<Guard [{self.keys!r} | {self.cors!r} | {self.log!r}]>"

    def visit(
        self,
        method: str,
        path: str,
        *,
        address: Address,
        authorization: bytes = b"",
        api_key: bytes = b"",
        origin: bytes = b"",
    ) -> Visit:
        """Return a request's visit; its `error` says if it is not to be answered.

        Args:
            method: The HTTP method.
            path: Its path, decoded.
            address: Whence it comes.
            authorization: The header Authorization, and so on.
            api_key: X-Api-Key.
            origin: Origin.
        """
        visit = Visit(self, method, path, address)
        if self.cors is not None:
            visit.headers = self.cors.headers(origin)
        if self.is_hiding_metrics and path == "/metrics":
            visit.error = NotFound("this server shows nobody its metrics (--metrics-access off)")
        elif self.keys is not None:
            visit.admit(self.keys, read_key(authorization, api_key))
        return visit

    def note_refusal(
        self,
        address: Address,
        status: int,
        error: TFRunnerError,
        request_id: bytes,
        *,
        where: tuple[str, str] = ("-", "-"),
        visit: Visit | None = None,
    ) -> None:
        """Note what was refused past the guard.

        Args:
            address: Whence it comes.
            status: What it was answered with.
            error: The same.
            request_id: The id that its caller is told.
            where: Method and path, where they are known.
            visit: What it has at the guard already, if anything.
        """
        if visit is None:
            visit = Visit(self, *where, address)
        visit.end(status, len(error_body(error, request_id)), request_id)

    def look(self) -> None:
        """Read again what has changed on the disk; called now and then."""
        if self.keys is not None:
            self.keys.refresh()

    def close(self) -> None:
        """Write what the log has collected."""
        if self.log is not None:
            self.log.close()


class Guarded:
    """The guard around an ASGI application.

    Args:
        app: Answers what may be answered.
        guard: Says what may.
        state: Makes ids and counts refusals.
    """

    def __init__(
        self, app: Callable[..., Awaitable[Any]], guard: Guard, state: ProcessState
    ) -> None:
        self._app = app
        self._guard = guard
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or see to it that it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        preflight = self._preflight(scope, given)
        if preflight is None:
            visit = self._visit(scope, given)
        else:
            visit = Visit(self._guard, scope["method"], scope["path"], scope["client"])
            visit.headers = preflight.headers
            if not preflight.is_allowed:
                visit.error = Forbidden(NOT_ALLOWED.format(given[b"origin"].decode("latin-1")))
        answer = _Answer(send, visit.headers)
        request_id = self._state.ids.take(given.get(b"x-request-id"))
        try:
            if visit.error is not None:
                self._state.count("http_refused", visit.error.code)
                await send_error(answer.send, visit.error, request_id=request_id)
            elif preflight is not None:
                await _send_empty(answer.send, request_id)
            else:
                scope[CLIENT] = visit.client
                CALLER.set(visit.client)  # a task of its own: nobody else sees it
                await self._app(scope, receive, answer.send)
        except Exception:
            answer.status = answer.status or 500  # which is what the server says then
            raise
        finally:
            visit.end(answer.status or GONE, answer.size, answer.request_id)

    def _preflight(self, scope: Scope, given: dict[bytes, bytes]) -> Preflight | None:
        if self._guard.cors is None or scope["method"] != "OPTIONS":
            return None
        return self._guard.cors.preflight(given)

    def _visit(self, scope: Scope, given: dict[bytes, bytes]) -> Visit:
        return self._guard.visit(
            scope["method"],
            scope["path"],
            address=scope["client"],
            authorization=given.get(b"authorization", b""),
            api_key=given.get(b"x-api-key", b""),
            origin=given.get(b"origin", b""),
        )


class _Answer:
    """Sends an answer on, with the guard's headers, and takes note of it."""

    __slots__ = ("_headers", "_send", "request_id", "size", "status")

    def __init__(self, send: Send, headers: tuple[Header, ...]) -> None:
        self._send = send
        self._headers = headers
        self.status = 0
        self.size = 0
        self.request_id = b""

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message["headers"])
            self.request_id = dict(headers).get(b"x-request-id", b"")
            if self._headers:
                message = {**message, "headers": [*headers, *self._headers]}
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


async def _send_empty(send: Send, request_id: bytes) -> None:
    """Answer that all is well, and no more."""
    headers = [(b"x-request-id", request_id)]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def make_guard(entrance: Entrance) -> Guard | None:
    """Return what an api process needs of it, ready for requests; None: nothing.

    Raises:
        ConfigError: The keys cannot be read, or the log not written.
    """
    log = cors = keys = None
    if entrance.access_log != "off":
        log = AccessLog(entrance.access_log, path=entrance.access_log_file)
        log.open()
    if entrance.cors_origins:
        cors = Cors(entrance.cors_origins)
    if entrance.keys_file:
        is_open = entrance.metrics_access == "open"
        keys = Keys(
            Path(entrance.keys_file),
            processes=entrance.processes,
            open_paths=(*HEALTH, "/metrics") if is_open else HEALTH,
        )
        keys.load()
    is_hiding = entrance.metrics_access == "off"
    if log is None and cors is None and keys is None and not is_hiding:
        return None
    return Guard(log=log, cors=cors, keys=keys, is_hiding_metrics=is_hiding)
