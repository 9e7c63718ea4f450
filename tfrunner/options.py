"""What runners ask for: bounds and timeouts, for all methods or for one, and fixed arguments.

Plain data. The same words stand in `to_runner(...)`, in `Runner(...)` and in a configuration
file; `precedence` says whose word counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tfrunner.errors import ConfigError, did_you_mean


class MethodOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for one method.

    Args:
        max_batch_size: Most rows in one batch.
        max_latency_ms: Milliseconds after which a call without a timeout of its own fails.
    """

    max_batch_size: int | None = None
    max_latency_ms: float | None = None


class RunnerOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for one runner or model; None: nothing.

    Args:
        max_batch_size: Most rows in one batch.
        max_latency_ms: Milliseconds after which a call without a timeout of its own fails.
            It is no wait: a lone request leaves at once.
        batching: False: no method merges the rows of different requests.
        workers: Worker processes.
        methods: What holds for single methods, before the rest.
    """

    max_batch_size: int | None = None
    max_latency_ms: float | None = None
    batching: bool | None = None
    workers: int | None = None
    methods: dict[str, MethodOptions] = {}


class RunnableSource(msgspec.Struct, frozen=True):
    """Where a worker finds the class that it hosts, and what it constructs it with.

    Args:
        module: Name under which it is imported.
        folder: What must be on Python's path for it.
        file: The module's file, so that no other module of that name is taken for it.
        name: The class's qualified name in the module.
        parameters: Keyword arguments of its constructor, as `packing.pack` writes them.
        parameters_file: Where the supervisor has put them, "" while they stand here.
    """

    module: str
    folder: str
    file: str
    name: str
    parameters: bytes = b""
    parameters_file: str = ""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner of a Service needs of the server.

    Args:
        runner: The runner's name.
        tag: Tag of its model.
        spec: The encoded ModelSpec.
        kind: What workers host for it: "tensorflow", "runnable" or "echo".
        embedded: Whether api processes load it themselves, and no worker does.
        options: What it asks for.
        source: The class that workers host, where it is one.
        resources: What it can use: "nvidia.com/gpu", "cpu".
        is_multithreaded: Whether one call may use several cores.
    """

    runner: str
    tag: str
    spec: bytes
    kind: str = "tensorflow"
    embedded: bool = False
    options: RunnerOptions = RunnerOptions()
    source: RunnableSource | None = None
    resources: tuple[str, ...] = ("nvidia.com/gpu", "cpu")
    is_multithreaded: bool = True


class ModelOptions(msgspec.Struct, frozen=True):
    """How runners of a model call it.

    Args:
        partial_kwargs: By method, arguments that hold where a caller gives no others.
    """

    partial_kwargs: dict[str, dict[str, Any]] = {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelOptions:
        """Return the options that a dict holds.

        Raises:
            ConfigError: It has an unknown key, or a value of the wrong type.
        """
        for key in values:
            if key not in cls.__struct_fields__:
                near = did_you_mean(key, cls.__struct_fields__)
                raise ConfigError(f"a model has no option {key!r}.{near}")
        partial = values.get("partial_kwargs", {})
        if not isinstance(partial, Mapping) or not all(
            isinstance(each, Mapping) for each in partial.values()
        ):
            raise ConfigError(
                f"partial_kwargs is {partial!r}; expected arguments by method, as in "
                '{"__call__": {"factor": 3.0}}.'
            )
        return cls({method: dict(arguments) for method, arguments in partial.items()})

    def with_options(self, **changes: Any) -> ModelOptions:
        """Return a copy with changes.

        Raises:
            ConfigError: There is no such option, or its value has the wrong type.
        """
        return self.from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return msgspec.structs.asdict(self)


def read_options(
    values: Mapping[str, Any],
    *,
    at: str,
    methods: Mapping[str, Any] | None = None,
) -> RunnerOptions:
    """Return what is asked, checked key by key.

    Args:
        values: By key; None counts as not given.
        at: Where they stand, for messages: "runner 'digits'".
        methods: By method name, what is asked for it.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range; the
            message names key, what was expected, and what was given.
    """
    known = [key for key in RunnerOptions.__struct_fields__ if key != "methods"]
    given = _check(values, known, at)
    by_method = {}
    for name, wanted in (methods or {}).items():
        place = f"{at}, method {name!r}"
        if not isinstance(wanted, Mapping):
            raise ConfigError(f"{place}: given {wanted!r}; expected a table of options.")
        by_method[name] = MethodOptions(**_check(wanted, MethodOptions.__struct_fields__, place))
    return RunnerOptions(**given, methods=by_method)


def check_methods(options: RunnerOptions, known: Iterable[str], *, at: str) -> None:
    """Check that options name only methods that there are.

    Raises:
        ConfigError: One does not exist.
    """
    names = list(known)
    for name in options.methods:
        if name not in names:
            raise ConfigError(f"{at} has no method {name!r}.{did_you_mean(name, names)}")


def check_strategy(strategy: object) -> None:
    """Refuse a strategy: the server decides where workers run.

    Raises:
        ConfigError: There is one.
    """
    if strategy is not None:
        raise ConfigError(
            f"scheduling_strategy is {strategy!r}; leave it out: the server decides where workers "
            "run, by `--workers-per-gpu`, or `workers` in a table of the configuration."
        )


def find_size(layers: Iterable[RunnerOptions], method: str | None = None) -> int | None:
    """Return the most rows of a batch by precedence, None where nobody asked for any.

    Args:
        layers: Whose word counts, first the most important.
        method: Its name; None: what holds for methods that are not named.
    """
    for layer in layers:
        own = layer.methods.get(method) if method is not None else None
        for asked in (own, layer):
            if asked is not None and asked.max_batch_size is not None:
                return asked.max_batch_size
    return None


def find_timeout(layers: Iterable[RunnerOptions], method: str) -> float | None:
    """Return the seconds that a call may take by precedence, None where nobody said."""
    for layer in layers:
        for asked in (layer.methods.get(method), layer):
            if asked is not None and asked.max_latency_ms is not None:
                return asked.max_latency_ms / 1e3
    return None


def _check(values: Mapping[str, Any], known: Iterable[str], at: str) -> dict[str, Any]:
    names = list(known)
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"{at}: there is no option {key!r}.{did_you_mean(key, names)}")
        if value is None:
            continue
        if key == "batching":
            fits, expected = isinstance(value, bool), "true or false"
        elif key == "max_latency_ms":
            fits, expected = _is_number(value, int, float) and value > 0, "a number above 0"
        else:
            fits, expected = _is_number(value, int) and value >= 1, "a whole number of at least 1"
        if not fits:
            raise ConfigError(f"{at}: {key} is {value!r}; expected {expected}.")
    return {key: value for key, value in values.items() if value is not None}


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
