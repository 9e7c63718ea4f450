"""Everything that is routed by its path: the server's pages, endpoints, mounts; and what is not."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount

from tfrunner.api.replies import (
    Receive,
    Scope,
    Send,
    error_body,
    error_headers,
    unexpected,
)
from tfrunner.api.state import ProcessState
from tfrunner.errors import InvalidInput, NotFound, TFRunnerError
from tfrunner.service import Service


class Pages:
    """An ASGI application of routes, with errors of ours.

    Args:
        routes: Each is tried in turn.
        state: What the connections share.
    """

    def __init__(self, routes: Iterable[BaseRoute], *, state: ProcessState) -> None:
        self._state = state
        self._app = Starlette(
            routes=list(routes),
            exception_handlers={
                TFRunnerError: self._refuse,
                HTTPException: self._refuse_route,
                Exception: self._fail,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def _refuse(self, request: Request, exc: Exception) -> Response:
        """Answer with an error of ours."""
        error = exc if isinstance(exc, TFRunnerError) else unexpected()
        if error.status < 500:
            self._state.count("http_refused", error.code)
        else:
            request_id = request.scope["tfrunner.request_id"]
            self._state.failures.write(error, request_id=request_id, where=request.url.path)
        return _response(request, error)

    async def _refuse_route(self, request: Request, exc: Exception) -> Response:
        """Answer where no route fits: 405, 404, and 400 below /v1/ (as TensorFlow Serving)."""
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        asked = f"{request.method} {request.url.path}"
        if status == 404:
            unknown = (
                InvalidInput(f"Malformed request: {asked}")
                if request.url.path.startswith("/v1/")
                else NotFound(f"there is no {asked}; GET /docs shows what there is")
            )
            return await self._refuse(request, unknown)
        headers = dict(getattr(exc, "headers", None) or {})
        if "Allow" in headers:  # in the order of a set, which differs between processes
            headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
        hint = "POST it" if headers.get("Allow") == "POST" else "GET /docs shows what there is"
        text = f"{asked} is not allowed; {hint}"
        request_id = request.scope["tfrunner.request_id"].decode()
        body = {"error": text, "code": "method_not_allowed", "request_id": request_id}
        return JSONResponse(body, status_code=status, headers=headers)

    async def _fail(self, request: Request, exc: Exception) -> Response:
        """Answer for an error that nobody expected; Starlette raises it on, `Front` logs it."""
        return _response(request, unexpected())


def _response(request: Request, error: TFRunnerError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    body = error_body(error, request.scope["tfrunner.request_id"])
    return Response(body, status_code=error.status, headers=headers, media_type="application/json")


def mount_routes(services: Iterable[Service]) -> list[Mount]:
    """Return the routes of what Services mount: the longest paths first, "/" last."""
    mounts = [mount for service in services for mount in service.mounts]
    mounts.sort(key=lambda mount: -len(mount.path))
    return [Mount(mount.path, app=mount.app, name=mount.name) for mount in mounts]
