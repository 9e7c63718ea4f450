"""The methods of a runner: how a call is made of what a caller gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tfrunner import config
from tfrunner.casting import Call, cast
from tfrunner.connections import Connection, refuse_in_event_loop
from tfrunner.deadlines import bounded
from tfrunner.entry import Model
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.runnable import Runnable, describe_runnable
from tfrunner.specs import MethodSpec, ModelSpec
from tfrunner.tags import Tag


class Owner(Protocol):
    """What a method needs of its runner."""

    @property
    def tag(self) -> str:
        """The model's tag."""

    def connected(self) -> Connection:
        """Return the way to the model."""


class RunnerMethod:
    """One method of a runner, `runner.<method>`.

    Args:
        runner: Whose method it is.
        spec: What it takes and gives.
        partial: Arguments that hold where a caller gives no others.

    Attributes:
        timeout: Seconds of a call that does not say.
    """

    def __init__(self, runner: Owner, spec: MethodSpec, partial: Mapping[str, Any]) -> None:
        self._runner = runner
        self.spec = spec
        self.timeout = config.DEFAULTS.timeout
        self._partial = dict(partial)

    def run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Return the method's outputs as NumPy arrays, nested as the model nests them.

        Callable from any thread, but not in a running event loop.

        Args:
            args: Inputs by position: arrays, numbers, nested lists, tensors.
            timeout: Seconds; by default the runner's `max_latency_ms`, else 60; in an endpoint
                no more than its request has left. A model in this process is not stopped by it.
            kwargs: Inputs by name.

        Raises:
            InvalidInput: The inputs do not fit the method's specification.
            StateError: The runner was not initialized, or an event loop runs here.
            ModelError: The model's own code raised.
            DeadlineExceeded: No answer came in time.
        """
        refuse_in_event_loop("runner")
        connection = self._runner.connected()
        return connection.run(self.spec, self._cast(args, kwargs), self._seconds(timeout))

    async def async_run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Return the method's outputs; like `run`, for use in an event loop."""
        connection = self._runner.connected()
        return await connection.async_run(
            self.spec, self._cast(args, kwargs), self._seconds(timeout)
        )

    def _cast(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return the call; what the caller gives, by position too, goes before what is fixed."""
        if self._partial:
            given = [argument.name for argument in self.spec.arguments[: len(args)]]
            fixed = {name: value for name, value in self._partial.items() if name not in given}
            kwargs = {**fixed, **kwargs}
        return cast(self.spec, args, kwargs)

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return bounded(self.timeout)
        config.check_positive("timeout", timeout, least=0.001)
        return bounded(float(timeout))

    def __repr__(self) -> str:
        return f"<RunnerMethod {self._runner.tag} {self.spec.name}>"


def check_partial(model: Model | None, spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return the fixed arguments of a model's options, by method.

    Raises:
        ConfigError: There is no such method or argument.
    """
    partial = model.options.partial_kwargs if model is not None else {}
    for name, arguments in partial.items():
        if name not in spec.methods:
            near = did_you_mean(name, spec.methods)
            raise ConfigError(f"partial_kwargs: {spec.tag} has no method {name!r}.{near}")
        known = [argument.name for argument in spec.methods[name].arguments]
        for key in arguments if len(known) > 1 else ():
            if key not in known:
                near = did_you_mean(key, known)
                raise ConfigError(f"partial_kwargs: {name} has no argument {key!r}.{near}")
    return partial


def describe_model(
    model: Model | ModelSpec | type[Runnable], name: str | None, models: Sequence[Model]
) -> ModelSpec:
    """Return a model as callers see it; a Runnable has the runner's name.

    Raises:
        ConfigError: It is none, or a Runnable's declarations do not fit.
    """
    if isinstance(model, Model):
        return model.spec
    if isinstance(model, ModelSpec):
        return model
    if not (isinstance(model, type) and issubclass(model, Runnable)):
        raise ConfigError(
            f"a runner cannot be made of {model!r}; expected a saved model (`tfrunner.models."
            "get(tag)`) or a subclass of tfrunner.Runnable."
        )
    metadata: dict[str, Any] = {"runnable": f"{model.__module__}:{model.__qualname__}"}
    if models:
        metadata["models"] = [str(each.tag) for each in models]
    return describe_runnable(model, Tag(name or model.__name__.lower()).name, metadata=metadata)
