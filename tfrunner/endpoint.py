"""One endpoint of a Service: its function, and what that function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from tfrunner.context import Context
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.io import Descriptor

CONTEXT_NAMES = ("ctx", "context")

PROBES = ("healthz", "livez", "readyz")
PAGES = ("index", "swagger", "docs", "docs.json", "openapi.json", "metrics", "v1")
RESERVED = frozenset((*PROBES, *PAGES))
"""What no endpoint may be called, nor its route or a mount's path begin with."""

F = TypeVar("F", bound=Callable[..., Any])


class Endpoint(NamedTuple):
    """One endpoint of a Service.

    Args:
        name: Unique in its Service.
        route: Path, with its slash.
        input: How a request's body becomes the function's value.
        output: How what the function returns becomes the answer's body.
        function: Takes the value; where `input` has fields, each of them by name.
        doc: What the API page says.
        context: The parameter that gets the Context, "" where there is none.
    """

    name: str
    route: str
    input: Descriptor
    output: Descriptor
    function: Callable[..., Any]
    doc: str
    context: str = ""

    @property
    def is_async(self) -> bool:
        """Whether the function runs in the event loop; others get a thread."""
        function = self.function
        call = type(function).__call__  # of an object that can be called
        return any(
            inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
            for each in (function, call)
        )

    @property
    def can_stream(self) -> bool:
        """Whether its answer may leave piece by piece."""
        return hasattr(self.output, "piece")

    def call(self, value: Any, context: Context) -> Any:
        """Return what the function returns for a value that `input` has read."""
        named: dict[str, Any] = {self.context: context} if self.context else {}
        if fields_of(self.input) is None:
            return self.function(value, **named)
        return self.function(**value, **named)


def fields_of(descriptor: Descriptor) -> tuple[str, ...] | None:
    """Return the names of the values that a descriptor reads; None: it reads one value."""
    fields: tuple[str, ...] | None = getattr(descriptor, "fields", None)
    return fields


def check_route(route: str, *, what: str = "a route") -> str:
    """Return a path with one slash before it.

    Args:
        route: Of an endpoint or a mount.
        what: What it is for, for the message.

    Raises:
        ConfigError: It is no path, or the server's own.
    """
    path = route.removeprefix("/")
    if not path or path.startswith("/") or any(sign in path for sign in "?#:{}"):
        raise ConfigError(f"{route!r} cannot be {what}: expected a path such as '/predict'")
    if path.split("/")[0] in RESERVED:
        raise ConfigError(f"{route!r} cannot be {what}: it is the server's own")
    return "/" + path


def check_function(function: Callable[..., Any], input: Descriptor, output: Descriptor) -> str:
    """Return the parameter of an endpoint's function that gets the Context, "" for none.

    It is called `ctx` or `context`, or annotated with Context.

    Raises:
        ConfigError: The function does not take what `input` reads, or gives pieces that
            `output` cannot send.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{name} cannot be an endpoint: {exc}") from None
    contexts = [each for each in parameters if _is_context(each)]
    others = [each for each in parameters if each not in contexts]
    if len(contexts) > 1 or any(each.kind is each.POSITIONAL_ONLY for each in contexts):
        raise ConfigError(f"{name} must take one Context, by name: `def {name}(value, ctx)`")
    fields = fields_of(input)
    if fields is None:
        _check_single(name, others)
    else:
        _check_fields(name, others, fields)
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if is_generator and not hasattr(output, "piece"):
        raise ConfigError(
            f"{name} yields its answer in pieces, which {type(output).__name__} cannot send; "
            "declare output=Text()."
        )
    return contexts[0].name if contexts else ""


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return parameter.name in CONTEXT_NAMES or text.rpartition(".")[2] == Context.__name__


def _check_single(name: str, parameters: Sequence[inspect.Parameter]) -> None:
    by_position = [
        each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)
    ]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        each for each in parameters if each.default is each.empty and each.kind not in variable
    ]
    if len(required) > 1 or not by_position:
        raise ConfigError(
            f"{name} takes {len(required)} arguments; an endpoint takes one, what its input "
            "descriptor reads, and where it wants it the Context, called ctx."
        )


def _check_fields(
    name: str, parameters: Sequence[inspect.Parameter], fields: Sequence[str]
) -> None:
    names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    is_open = len(names) < len(parameters)
    for each in fields:
        if each not in names and not is_open:
            near = did_you_mean(each, names)
            raise ConfigError(f"{name} has no parameter for the field {each!r} of its input.{near}")
    for each in names:
        if each not in fields:
            near = did_you_mean(each, fields)
            raise ConfigError(f"the input of {name} has no field for its parameter {each!r}.{near}")
