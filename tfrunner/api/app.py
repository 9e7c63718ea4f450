"""The ASGI application of an api process.

Predict requests go straight to the hot path; everything else is routed. Users' middleware, where
there is any, is around both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.exceptions import HTTPException
from starlette.routing import Route

from tfrunner.api.docs import Docs
from tfrunner.api.endpoints import endpoint_routes
from tfrunner.api.front import Front
from tfrunner.api.health import Health
from tfrunner.api.hooks import Life, Served
from tfrunner.api.model_pages import ModelPages
from tfrunner.api.pages import Pages, mount_routes
from tfrunner.api.predict import Predict
from tfrunner.api.replies import Receive, Scope, Send
from tfrunner.api.state import ProcessState
from tfrunner.gateway import Gateway
from tfrunner.options import RunnerOptions
from tfrunner.service import Service, check_services

MODEL_PATHS = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}")


class Application:
    """One ASGI application over a gateway.

    Args:
        gateway: The way to the dispatcher; open before the first request.
        timeout: Seconds that a request may take where it does not say.
        state: What the connections share: bounds, counters, whether the process ends.
        services: The user's Services.
        options: By the tag of a model, what the configuration asks for it.

    Attributes:
        predict: Answers predict requests.
        life: Begins and ends the Services.

    Raises:
        ConfigError: Two Services have the same name or route, or middleware cannot be made.
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
        services = tuple(services)
        check_services(services)
        served = [Served(service) for service in services]
        self.predict = Predict(gateway, timeout=timeout, state=state, options=options)
        self.life = Life(served)
        self._pages = Pages(
            [
                *page_routes(gateway, services, state=state),
                *endpoint_routes(served, state=state, timeout=timeout),
                *mount_routes(services),
            ],
            state=state,
        )
        self._front = Front(self._route, services, state=state, life=self.life)

    def __repr__(self) -> str:
        return f"<Application {self._front!r}>"

    @property
    def direct(self) -> Predict | None:
        """Answers predict requests without ASGI; None where middleware has to see them."""
        return None if self._front.is_wrapped else self.predict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        if not self._front.is_wrapped and _is_predict(scope):
            await self.predict(scope, receive, send)
        else:
            await self._front(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_predict(scope):
            await self.predict(scope, receive, send)
        else:
            await self._pages(scope, receive, send)


def _is_predict(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    path: str = scope["path"]
    return path.endswith(":predict")


class PostOnly:
    """Stands where predict requests go that have another verb; without it, at models' pages."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse.

        Raises:
            HTTPException: Always, with what is allowed.
        """
        raise HTTPException(405, headers={"Allow": "POST"})


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
        Route("/v1/models/{rest:path}:predict", PostOnly()),
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
        Route("/docs.json", docs.document),
    ]
    for path in MODEL_PATHS:
        routes += [
            Route(path, models.status),
            Route(f"{path}/metadata", models.metadata),
            Route(f"{path}/ready", models.ready),
        ]
    return routes
