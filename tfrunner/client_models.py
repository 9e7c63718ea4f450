"""What a client's two ways to a server share: records of models, and how arguments are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeVar

import msgspec

from tfrunner.errors import InvalidInput, NotFound, StateError, did_you_mean
from tfrunner.specs import DictSpec, MethodSpec, ModelSpec

T = TypeVar("T")

MAX_TIMEOUT = 1e6
"""Seconds; a server refuses more."""


class ModelCall(msgspec.Struct):
    """What a caller asks of a model, as it was written; its input is cast once.

    Further attempts send the same bytes, whatever became of the caller's arrays.
    """

    model: str
    method: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    _method: MethodSpec | None = None
    _form: Any = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the method that it was cast for may run twice."""
        return self._method is None or self._method.repeatable

    def in_form(self, method: MethodSpec, make: Callable[[ModelCall, MethodSpec], T]) -> T:
        """Return the input as it travels; made once for as long as the method is the same."""
        if self._method is not method and self._method != method:
            self._form = make(self, method)
            self._method = method
        form: T = self._form
        return form


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, as a server serves it now.

    Args:
        name: The name without the version.
        version: The version that requests may name.
        serial: Number of the version, counted from 1 in the store.
        state: "AVAILABLE", "LOADING" or "UNAVAILABLE".
        reason: Why it is not available.
        methods: What is known of each method, by name.
    """

    name: str
    version: str
    serial: int = 0
    state: str = "UNAVAILABLE"
    reason: str = ""
    methods: dict[str, Any] = {}

    @property
    def tag(self) -> str:
        """The tag `name:version`."""
        return f"{self.name}:{self.version}"

    @property
    def is_available(self) -> bool:
        """Whether a warm worker serves it."""
        return self.state == "AVAILABLE"

    def is_meant_by(self, model: str) -> bool:
        """Return whether `name` or `name:version` (or its serial) means this version."""
        name, _, version = model.partition(":")
        if name != self.name:
            return False
        return version in ("", "latest", str(self.serial)) or self.version.startswith(version)


def choose_method(model: ModelSpec, name: str | None) -> MethodSpec:
    """Return the method that a caller means; None stands for the default one.

    Raises:
        NotFound: The model has no such method, or several and no default.
    """
    chosen = model.default_method() if name is None else name
    if chosen is None:
        raise NotFound(f"{model.tag} has no default method." + did_you_mean("", model.methods))
    if chosen not in model.methods:
        near = did_you_mean(chosen, model.methods)
        raise NotFound(f"{model.tag} has no method {chosen!r}.{near}")
    return model.methods[chosen]


def spread(
    method: MethodSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments, a lone dict of exactly the method's arguments taken as keywords."""
    if len(args) != 1 or kwargs or not isinstance(args[0], Mapping):
        return args, kwargs
    (given,) = args
    arguments = method.arguments
    if len(arguments) == 1 and isinstance(arguments[0].spec, DictSpec):
        inner = arguments[0].spec.items
        if inner.keys() == given.keys():
            return args, kwargs  # it is the argument itself
    if {argument.name for argument in arguments} != set(given):
        return args, kwargs
    return (), given


def check_timeout(timeout: Any) -> float:
    """Return a timeout in seconds, at most MAX_TIMEOUT: more is the same to everybody.

    Raises:
        InvalidInput: It is no positive number.
    """
    if type(timeout) is float and 0 < timeout <= MAX_TIMEOUT:
        return timeout
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or not timeout > 0:
        raise InvalidInput(f"timeout is {timeout!r}; expected a positive number of seconds.")
    return float(min(timeout, MAX_TIMEOUT))


def client_closed() -> StateError:
    """Return the error of a call of a client that is closed."""
    return StateError("The client is closed; make a new one.")
