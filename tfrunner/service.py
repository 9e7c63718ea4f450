"""A Service: endpoints of the user's own, which call models through runners.

Declared in the user's module, served by every api process: `tfrunner serve module:service`.
Nothing here runs anything: `tfrunner.api` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from tfrunner.config import check_positive
from tfrunner.endpoint import RESERVED, Endpoint, F, check_function, check_route
from tfrunner.errors import ConfigError
from tfrunner.io import Descriptor
from tfrunner.io.body import is_descriptor

if TYPE_CHECKING:
    from tfrunner.api.service_app import ServiceApplication
    from tfrunner.runner import Runner

NOT_SAID: Any = None
"""What an endpoint's descriptors are where the brackets after `@svc.api` were forgotten."""

Hook = TypeVar("Hook", bound=Callable[..., Any])


class Middleware(NamedTuple):
    """A class of ASGI middleware, and what it is made with beside the application."""

    cls: Callable[..., Any]
    options: dict[str, Any]


class Mount(NamedTuple):
    """Another ASGI application, and the path below which it answers."""

    path: str
    app: Callable[..., Any]
    name: str | None


class Service:
    """Endpoints and the runners that they use.

    Args:
        name: What it is called.
        runners: From `get(...).to_runner()`; attached to the server when it starts.
        max_concurrency: Requests of its endpoints that an api process works on at once; more
            are answered 503 with Retry-After. None: any number.

    Raises:
        ConfigError: One is no runner, two have the same name, or the number is none.
    """

    def __init__(
        self,
        name: str,
        *,
        runners: Sequence[Runner] | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        if max_concurrency is not None:
            check_positive(f"Service {name!r}: max_concurrency", max_concurrency)
        self.name = name
        self.runners = _check_runners(name, runners)
        self.max_concurrency = max_concurrency
        self.endpoints: dict[str, Endpoint] = {}
        self.middlewares: list[Middleware] = []
        self.mounts: list[Mount] = []
        self.startup_hooks: list[Callable[..., Any]] = []
        self.shutdown_hooks: list[Callable[..., Any]] = []
        self.deployment_hooks: list[Callable[..., Any]] = []
        self._app: ServiceApplication | None = None
        names = [runner.name for runner in self.runners]
        twice = {each for each in names if names.count(each) > 1}
        if twice:
            raise ConfigError(
                f"Service {name!r} has two runners called {sorted(twice)[0]!r}: "
                "give one another name, `to_runner(name=...)`."
            )

    def __repr__(self) -> str:
        return f"<Service {self.name} [{', '.join(self.endpoints) or 'no endpoints'}]>"

    # --- endpoints ----------------------------------------------------------------------------

    @property
    def apis(self) -> dict[str, Endpoint]:
        """The endpoints by name."""
        return dict(self.endpoints)

    @property
    def routes(self) -> tuple[str, ...]:
        """The paths that it answers: of its endpoints, and of its mounts."""
        endpoints = (endpoint.route for endpoint in self.endpoints.values())
        return (*endpoints, *(mount.path for mount in self.mounts))

    def api(
        self,
        input: Descriptor = NOT_SAID,
        output: Descriptor = NOT_SAID,
        *,
        name: str | None = None,
        route: str | None = None,
        doc: str | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator that makes a function an endpoint: `POST /<route>`.

        The function takes what `input` reads: one value, or the fields of a Multipart by name;
        and, if it wants it, the Context, called `ctx` or `context`. `async def` runs in the
        event loop, anything else in a thread. It returns what `output` writes; where that is
        Text, an iterator or async iterator of pieces too, which leave one by one.

        Args:
            input: How a request's body becomes the function's value.
            output: How what it returns becomes the answer's body.
            name: By default the function's name.
            route: By default the endpoint's name.
            doc: What the API page says; by default the function's docstring.

        Raises:
            ConfigError: The name or route is taken or not allowed, or the function does not
                take what `input` reads. Input or output is no descriptor.
        """
        _check_descriptors(input=input, output=output)

        def declare(function: F) -> F:
            chosen = getattr(function, "__name__", "") if name is None else name
            endpoint = Endpoint(
                name=self._check_name(chosen),
                route=check_route(chosen if route is None else route),
                input=input,
                output=output,
                function=function,
                doc=inspect.cleandoc(doc or function.__doc__ or ""),
                context=check_function(function, input, output),
            )
            self._check_free(endpoint.route)
            self.endpoints[chosen] = endpoint
            return function

        return declare

    def _check_name(self, name: str) -> str:
        if not name.isidentifier():
            raise ConfigError(f"{name!r} cannot name an endpoint: it is no identifier")
        if name in RESERVED:
            raise ConfigError(f"an endpoint cannot be called {name!r}: the server uses that name")
        if name in self.endpoints:
            raise ConfigError(f"Service {self.name!r} has two endpoints called {name!r}")
        return name

    def _check_free(self, route: str) -> None:
        if route in self.routes:
            raise ConfigError(f"Service {self.name!r} has two answers for the route {route!r}")

    # --- what is around and beside them -------------------------------------------------------

    def add_asgi_middleware(self, cls: Callable[..., Any], **options: Any) -> None:
        """Put ASGI middleware around everything that the server answers.

        That is: every Service, the predict routes and the server's own pages. Predict requests
        then go through ASGI, which takes longer than their direct way.

        Args:
            cls: Called with the application and the options; the one added last is outermost.
            options: Keyword arguments.
        """
        self.middlewares.append(Middleware(cls, options))

    def mount_asgi_app(
        self, app: Callable[..., Any], path: str = "/", name: str | None = None
    ) -> None:
        """Let another ASGI application answer below a path, where nothing else does.

        Args:
            app: The application: Starlette's, FastAPI's, ...
            path: "/": whatever no endpoint and no page of the server answers.
            name: What the mount is called.

        Raises:
            ConfigError: The path is taken or not allowed.
        """
        where = "/" if path in ("", "/") else check_route(path.rstrip("/"), what="a mount's path")
        self._check_free(where)
        self.mounts.append(Mount(where, app, name))

    def mount_wsgi_app(
        self, app: Callable[..., Any], path: str = "/", name: str | None = None
    ) -> None:
        """Let a WSGI application, Flask's for one, answer below a path; in threads.

        Args:
            app: The application.
            path: See `mount_asgi_app`.
            name: What the mount is called.

        Raises:
            ConfigError: The path is taken or not allowed, or a2wsgi is not installed.
        """
        try:
            from a2wsgi import WSGIMiddleware
        except ImportError:
            raise ConfigError("a WSGI application needs a2wsgi: install tfrunner[wsgi]") from None
        adapted = WSGIMiddleware(app)
        self.mount_asgi_app(adapted, path, name)
        self.on_shutdown(lambda: adapted.executor.shutdown(wait=False))

    def on_startup(self, hook: Hook) -> Hook:
        """Call a function, sync or async, with a Context before an api process answers.

        If it raises, the server does not start.
        """
        self.startup_hooks.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Call a function, sync or async, with a Context when an api process has ended."""
        self.shutdown_hooks.append(hook)
        return hook

    def on_deployment(self, hook: Hook) -> Hook:
        """Call a function without arguments once for each start of a server.

        It runs before any other process is started, in a process of its own: to fetch a file,
        to prepare a table. If it raises, the server does not start.
        """
        self.deployment_hooks.append(hook)
        return hook

    # --- without a server ---------------------------------------------------------------------

    @property
    def openapi_spec(self) -> dict[str, Any]:
        """The OpenAPI document of the endpoints."""
        from tfrunner.api.docs import own_version
        from tfrunner.api.openapi import document

        return document((), [self], version=own_version())

    @property
    def asgi_app(self) -> ServiceApplication:
        """The Service as an ASGI application of its own, for tests and other ASGI servers.

        Its runners must be initialized: `init_local()`, or `init_client()` for a server that
        runs. There are no predict routes and no metrics.
        """
        from tfrunner.api.service_app import ServiceApplication

        if self._app is None:
            self._app = ServiceApplication(self)
        return self._app


def _check_runners(name: str, runners: Any) -> tuple[Runner, ...]:
    """Return what a Service is given as its runners; refuse what is none."""
    try:
        found = tuple(runners or ())
    except TypeError:
        raise ConfigError(
            f"Service {name!r}: runners={runners!r}; expected a list, `runners=[runner]`"
        ) from None
    for each in found:
        if hasattr(each, "to_runner"):
            raise ConfigError(f"Service {name!r}: {each!r} is a model; use `.to_runner()` of it")
        if not hasattr(each, "name"):
            raise ConfigError(
                f"Service {name!r}: {each!r} is no runner; expected "
                "`tfrunner.models.get(...).to_runner()`"
            )
    return found


def _check_descriptors(**descriptors: Any) -> None:
    """Refuse what is no descriptor: most of all the function, where brackets were forgotten."""
    for name, each in descriptors.items():
        if each is NOT_SAID or not is_descriptor(each):
            said = "is missing" if each is NOT_SAID else f"is {each!r}"
            raise ConfigError(
                f"an endpoint's {name} {said}; expected a descriptor: "
                "`@svc.api(input=JSON(), output=JSON())`"
            )


class Named(Protocol):
    """What two Services must not have in common."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def routes(self) -> tuple[str, ...]:
        """The paths that it answers."""


def check_services(services: Iterable[Named]) -> None:
    """Refuse Services that cannot be served together.

    Raises:
        ConfigError: Two have one name, or answer the same route.
    """
    names: set[str] = set()
    routes: dict[str, str] = {}
    for service in services:
        if service.name in names:
            raise ConfigError(
                f"two Services are called {service.name!r}: give one another name, "
                "`Service(name=...)`"
            )
        names.add(service.name)
        for route in service.routes:
            if route in routes:
                raise ConfigError(
                    f"the Services {routes[route]!r} and {service.name!r} both answer the route "
                    f"{route!r}: give one another, `@svc.api(..., route=...)`"
                )
            routes[route] = service.name
