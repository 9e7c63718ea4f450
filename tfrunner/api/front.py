"""What is around every answer: its request's id, users' middleware, errors nobody expected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from tfrunner.api.hooks import Life
from tfrunner.api.replies import Receive, Scope, Send, send_error, unexpected
from tfrunner.api.state import ProcessState
from tfrunner.api.streaming import Broken
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.monitoring import REQUEST_ID
from tfrunner.service import Service

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ID = b"x-request-id"


class Progress:
    """How far an answer is; in the scope of its request, so that it goes through middleware.

    Attributes:
        has_begun: Its head has left.
        is_broken: It cannot be finished: nothing may end its body.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.is_broken = False


class Front:
    """An ASGI application around another one.

    Args:
        inner: Answers.
        services: Whose middleware is put around it: the first one's innermost.
        state: What the connections share.
        life: Begins with the first request if nobody has begun it: not every ASGI server tells.

    Raises:
        ConfigError: Middleware cannot be made with its options.
    """

    def __init__(
        self, inner: ASGIApp, services: Iterable[Service], *, state: ProcessState, life: Life
    ) -> None:
        self._app = inner
        self._state = state
        self._life = life
        self.is_wrapped = False
        for service in services:
            for middleware in service.middlewares:
                self.is_wrapped = True
                try:
                    self._app = middleware.cls(self._app, **middleware.options)
                except Exception as exc:
                    name = getattr(middleware.cls, "__name__", repr(middleware.cls))
                    raise ConfigError(
                        f"Service {service.name!r}: the middleware {name} cannot be made: {exc}"
                    ) from exc

    def __repr__(self) -> str:
        return f"<Front of {self._app!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"x-request-id")
        request_id = scope["tfrunner.request_id"] = self._state.ids.take(given)
        REQUEST_ID.set(request_id.decode())
        progress = scope["tfrunner.progress"] = Progress()

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                progress.has_begun = True
                headers = [each for each in message["headers"] if each[0].lower() != ID]
                message["headers"] = [*headers, (ID, request_id)]
            elif progress.is_broken and not message.get("more_body", False):
                return  # some middleware ends the body before it passes the error on
            await send(message)

        try:
            if not self._life.is_begun:
                await self._life.start()
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            return
        except Exception as exc:
            error = self._log(exc, scope, request_id)
            if not progress.has_begun:
                await send_error(send, error, request_id=request_id)

    def _log(self, exc: Exception, scope: Scope, request_id: bytes) -> TFRunnerError:
        """Log what nobody has answered for; return what its caller is told."""
        if isinstance(exc, TFRunnerError):
            error = exc
        elif isinstance(exc, Broken):
            error = TFRunnerError("the answer ended before it was whole")
            error.__cause__ = exc.__cause__
        else:
            error = unexpected()
            error.__cause__ = exc
        self._state.failures.write(error, request_id=request_id, where=scope["path"])
        return error

    async def _live(self, receive: Receive, send: Send) -> None:
        """Begin and end the Services when the ASGI server says so."""
        await receive()
        try:
            await self._life.start()
        except ConfigError as exc:
            await send({"type": "lifespan.startup.failed", "message": exc.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._life.stop()
        await send({"type": "lifespan.shutdown.complete"})
