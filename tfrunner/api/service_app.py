"""A Service as an ASGI application without a server of ours: for tests, and for other servers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tfrunner.api.docs import Docs
from tfrunner.api.endpoints import endpoint_routes
from tfrunner.api.front import Front
from tfrunner.api.hooks import Life, Served
from tfrunner.api.pages import Pages, mount_routes
from tfrunner.api.replies import Receive, Scope, Send
from tfrunner.api.state import ProcessState
from tfrunner.config import DEFAULTS, Bounds
from tfrunner.service import Service
from tfrunner.specs import ModelSpec


class NoModels:
    """Stands where a server's gateway knows what is served: nothing is."""

    @property
    def models(self) -> dict[str, ModelSpec]:
        """What is served, by tag."""
        return {}


class ServiceApplication:
    """The endpoints, mounts, hooks and middleware of one Service; `service.asgi_app`.

    Its start-up hooks run when the ASGI server says that it starts, or with the first request;
    shutdown hooks only where it says that it ends.

    Args:
        service: Its runners are initialized by whoever uses it.

    Raises:
        ConfigError: Middleware cannot be made with its options.
    """

    def __init__(self, service: Service) -> None:
        state = ProcessState(Bounds(), count=_forget)
        served = [Served(service)]
        docs = Docs(NoModels(), [service])
        self._service = service
        self._pages = Pages(
            [
                *(Route(path, _alive) for path in ("/livez", "/healthz", "/readyz")),
                Route("/", docs.page),
                Route("/docs", docs.page),
                Route("/docs/{asset}", docs.asset),
                Route("/openapi.json", docs.document),
                *endpoint_routes(served, state=state, timeout=DEFAULTS.timeout),
                *mount_routes([service]),
            ],
            state=state,
        )
        self._front = Front(self._pages, [service], state=state, life=Life(served))

    def __repr__(self) -> str:
        return f"<ServiceApplication {self._service!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or take part in the server's start and end."""
        await self._front(scope, receive, send)


async def _alive(request: Request) -> Response:
    """Answer that the process runs its event loop."""
    return JSONResponse({"status": "alive"})


def _forget(name: str, label: str) -> None:
    """Count nothing: there is no dispatcher that would keep it."""
