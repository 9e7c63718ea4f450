"""A Service: endpoints of the user's own, which call models through runners.

Declared in the user's module, served by every api process: `tfrunner serve module:service`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.io import Descriptor

if TYPE_CHECKING:
    from tfrunner.runner import Runner

RESERVED = frozenset(
    ("index", "swagger", "docs", "metrics", "healthz", "livez", "readyz", "openapi.json", "v1")
)
"""What no endpoint may be called, nor its route begin with."""

F = TypeVar("F", bound=Callable[..., Any])


class Endpoint(NamedTuple):
    """One endpoint of a Service; its function takes the value that `input` reads."""

    name: str
    route: str
    input: Descriptor
    output: Descriptor
    function: Callable[..., Any]
    doc: str

    @property
    def is_async(self) -> bool:
        """Whether the function runs in the event loop; others get a thread."""
        return inspect.iscoroutinefunction(self.function)


class Service:
    """Endpoints and the runners that they use.

    Args:
        name: What it is called.
        runners: From `get(...).to_runner()`; attached to the server when it starts.

    Raises:
        ConfigError: Two runners have the same name.
    """

    def __init__(self, name: str, *, runners: Sequence[Runner] | None = None) -> None:
        self.name = name
        self.runners = tuple(runners or ())
        self.endpoints: dict[str, Endpoint] = {}
        names = [runner.name for runner in self.runners]
        twice = {each for each in names if names.count(each) > 1}
        if twice:
            raise ConfigError(
                f"Service {name!r} has two runners called {sorted(twice)[0]!r}: "
                "give one another name, `to_runner(name=...)`."
            )

    def __repr__(self) -> str:
        return f"<Service {self.name} [{', '.join(self.endpoints) or 'no endpoints'}]>"

    def api(
        self,
        input: Descriptor,
        output: Descriptor,
        *,
        name: str | None = None,
        route: str | None = None,
        doc: str | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator that makes a function an endpoint: POST /<route>.

        Args:
            input: How a request's body becomes the function's one argument.
            output: How what it returns becomes the reply's body.
            name: By default the function's name.
            route: By default the endpoint's name.
            doc: What the API page says; by default the function's docstring.

        Raises:
            ConfigError: The name or route is taken or not allowed, or the function does not
                take exactly one argument.
        """

        def declare(function: F) -> F:
            chosen = function.__name__ if name is None else name
            endpoint = Endpoint(
                name=self._check_name(chosen),
                route=_check_route(chosen if route is None else route),
                input=input,
                output=output,
                function=_check_function(function),
                doc=inspect.cleandoc(doc or function.__doc__ or ""),
            )
            if any(each.route == endpoint.route for each in self.endpoints.values()):
                raise ConfigError(f"two endpoints have the route {endpoint.route!r}")
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


def _check_route(route: str) -> str:
    """Return the route with one slash before it."""
    path = route.removeprefix("/")
    if not path or path.startswith("/") or any(sign in path for sign in "?#:{}"):
        raise ConfigError(f"{route!r} cannot be a route: expected a path such as '/predict'")
    if path.split("/")[0] in RESERVED:
        raise ConfigError(f"the route {route!r} is the server's own")
    return "/" + path


def _check_function(function: F) -> F:
    parameters = inspect.signature(function).parameters.values()
    required = [each for each in parameters if each.default is each.empty]
    if len(required) > 1 or not parameters:
        raise ConfigError(
            f"{function.__name__} takes {len(required)} arguments; an endpoint takes one: "
            "what its input descriptor reads"
        )
    return function


def load_service(target: str) -> Service:
    """Return the Service that a target names; imports the user's module.

    Args:
        target: `module:attribute` or `file.py:attribute`; without an attribute the module
            must have exactly one Service.

    Raises:
        ConfigError: The module cannot be imported, or has no such Service; one line.
    """
    name, _, attribute = target.partition(":")
    module = _import(name)
    services = {key: value for key, value in vars(module).items() if isinstance(value, Service)}
    if not attribute:
        if len({id(service) for service in services.values()}) == 1:
            return next(iter(services.values()))
        raise ConfigError(
            f"{name} has {len(services)} Services; name one: {name}:<attribute>."
            + did_you_mean("", services)
        )
    if attribute not in services:
        what = "is no Service" if hasattr(module, attribute) else "does not exist"
        raise ConfigError(f"{target}: {attribute!r} {what}.{did_you_mean(attribute, services)}")
    return services[attribute]


def _import(name: str) -> ModuleType:
    try:
        with _here_on_path():
            if name.endswith(".py"):
                return _import_file(Path(name))
            return importlib.import_module(name)
    except ConfigError:
        raise
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise ConfigError(
                f"there is no module {name!r} in {Path.cwd()} or on the path"
            ) from exc
        raise ConfigError(f"{name} cannot be imported: {exc}{_where(exc)}") from exc
    except (Exception, SystemExit) as exc:
        reason = f"{type(exc).__name__}: {exc}".splitlines()[0]
        raise ConfigError(f"{name} cannot be imported: {reason}{_where(exc)}") from exc


@contextlib.contextmanager
def _here_on_path() -> Iterator[None]:
    """Put the working folder first on the path, for good: the module may import more later."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    yield


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r} in {Path.cwd()}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _where(exc: BaseException) -> str:
    """Return the place in the user's code where an import failed."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
