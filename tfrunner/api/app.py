"""The ASGI application of an api process.

Predict requests go straight to the hot path; everything else is Starlette's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tfrunner.api.docs import Docs
from tfrunner.api.endpoints import endpoint_routes
from tfrunner.api.health import Health
from tfrunner.api.model_pages import ModelPages
from tfrunner.api.predict import Predict
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
from tfrunner.gateway import Gateway
from tfrunner.options import RunnerOptions
from tfrunner.service import Service

MODEL_PATHS = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}")


class Application:
    """One ASGI application over a gateway.

    Args:
        gateway: The way to the dispatcher; open before the first request.
        timeout: Seconds that a request may take where it does not say.
        state: What the connections share: bounds, counters, whether the process ends.
        services: The user's Services.
        options: By the tag of a model, what the configuration asks for it.

    Raises:
        ConfigError: Two Services have the same route.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        timeout: float,
        state: ProcessState,
        services: Iterable[Service] = (),
        options: Mapping[str, tuple[RunnerOptions, ...]] | None = None,
    ) -> None:
        self._gateway = gateway
        self._state = state
        self.predict = Predict(gateway, timeout=timeout, state=state, options=options)
        services = tuple(services)
        self._pages = Starlette(
            routes=[
                *page_routes(gateway, services, state=state),
                *endpoint_routes(services, state=state),
            ],
            exception_handlers={
                TFRunnerError: self._refuse,
                HTTPException: self._refuse_route,
                Exception: self._fail,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].endswith(":predict"):
            await self.predict(scope, receive, send)
        else:
            given = dict(scope["headers"]).get(b"x-request-id")
            request_id = scope["tfrunner.request_id"] = self._state.ids.take(given)

            async def send_with_id(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
                await send(message)

            await self._pages(scope, receive, send_with_id)

    async def _refuse(self, request: Request, exc: Exception) -> Response:
        """Answer with an error of ours."""
        error = exc if isinstance(exc, TFRunnerError) else unexpected()
        if error.status < 500:
            self._gateway.count("http_refused", error.code)
        else:
            request_id = request.scope["tfrunner.request_id"]
            self._state.failures.write(error, request_id=request_id, where=request.url.path)
        headers = {name.decode(): value.decode() for name, value in error_headers(error)}
        body = error_body(error, request.scope["tfrunner.request_id"])
        return Response(
            body, status_code=error.status, headers=headers, media_type="application/json"
        )

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
        text = f"{asked} is not allowed; GET /docs shows what there is"
        request_id = request.scope["tfrunner.request_id"].decode()
        body = {"error": text, "code": "method_not_allowed", "request_id": request_id}
        headers = getattr(exc, "headers", None)
        return JSONResponse(body, status_code=status, headers=headers)

    async def _fail(self, request: Request, exc: Exception) -> Response:
        """Answer for an error of ours that nobody expected; the server logs its traceback."""
        return await self._refuse(request, unexpected())


def page_routes(
    gateway: Gateway, services: Iterable[Service], *, state: ProcessState
) -> list[Route]:
    """Return the server's own routes."""
    health, models, docs = (
        Health(gateway, state),
        ModelPages(gateway, state),
        Docs(gateway, services),
    )
    routes = [
        Route("/livez", health.livez),
        Route("/healthz", health.livez),
        Route("/readyz", health.readyz),
        Route("/metrics", health.metrics),
        Route("/v1/status", health.status),
        Route("/v1/models", models.list),
        Route("/", docs.page),
        Route("/docs", docs.page),
        Route("/docs/{asset}", docs.asset),
        Route("/openapi.json", docs.document),
    ]
    for path in MODEL_PATHS:
        routes += [
            Route(path, models.status),
            Route(f"{path}/metadata", models.metadata),
            Route(f"{path}/ready", models.ready),
        ]
    return routes
