"""Runnables: classes of the user's own that workers host and the dispatcher batches.

Declarations only; `tfrunner_workers.runnables` constructs and calls them. Nothing here needs
TensorFlow, and a runnable that does not import it runs without it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from tfrunner import packing
from tfrunner.declarations import Declaration, check_batch_dim, describe_method, refuse_streams
from tfrunner.errors import ConfigError, InvalidInput, TFRunnerError, did_you_mean
from tfrunner.options import RunnableSource
from tfrunner.specs import ModelSpec

GPU = "nvidia.com/gpu"
CPU = "cpu"
RESOURCES = (GPU, CPU)

MARK = "__tfrunner_method__"
"""The attribute of a function that holds what `@Runnable.method` said of it."""

F = TypeVar("F", bound=Callable[..., Any])


class Runnable:
    """A class that workers host: subclass it, and mark what callers may call.

        class Doubler(tfrunner.Runnable):
            SUPPORTED_RESOURCES = ("cpu",)

            def __init__(self, factor=2):
                self.factor = factor

            @tfrunner.Runnable.method(batchable=True)
            def predict(self, rows):
                return rows * self.factor

        runner = tfrunner.Runner(Doubler, runnable_init_params={"factor": 3})

    Attributes:
        SUPPORTED_RESOURCES: "nvidia.com/gpu" and "cpu", those that it can use. Workers of one
            that does not name the GPU see none; one that names only the GPU needs it.
        SUPPORTS_CPU_MULTI_THREADING: Whether one call may use several cores. Otherwise each
            worker gets one thread, and there is one for each core unless a number is given.
    """

    SUPPORTED_RESOURCES: ClassVar[tuple[str, ...]] = (CPU,)
    SUPPORTS_CPU_MULTI_THREADING: ClassVar[bool] = True

    @staticmethod
    def method(
        function: Any = None,
        *,
        batchable: bool = False,
        batch_dim: int | tuple[int, int] = 0,
        repeatable: bool = True,
        input_spec: Any = None,
        output_spec: Any = None,
    ) -> Any:
        """Mark a method that callers may call; with or without parentheses.

        Args:
            function: The method, where there are no parentheses.
            batchable: Whether rows of different requests may be given to it together. It then
                gets arrays, or lists of rows, and returns as many rows as it was given.
            batch_dim: The axis that counts rows; or one of inputs and one of outputs.
            repeatable: Whether a request may be run again after its worker died.
            input_spec: What it takes, for checks and casts before it is called: a TensorSpec
                for its only argument, or a dict of them by argument, or a list in their order;
                arguments that are left out take anything.
            output_spec: What it returns, for people and the API page: a TensorSpec, or a dict,
                list or tuple of those.

        Raises:
            ConfigError: The function cannot be a method: it streams, its arguments have no
                names, or a value above does not fit.
        """
        declaration = Declaration(
            batchable=batchable,
            batch_dim=check_batch_dim(batch_dim),
            repeatable=repeatable,
            input_spec=input_spec,
            output_spec=output_spec,
        )

        def mark(function: F) -> F:
            describe_method(function.__name__, function, declaration)  # refuses what cannot be
            setattr(function, MARK, declaration)
            return function

        return mark if function is None else mark(function)

    @classmethod
    def add_method(cls, function: Callable[..., Any], name: str = "", **options: Any) -> None:
        """Give the class one more method.

        Args:
            function: Takes the instance first.
            name: By default the function's own.
            options: Those of `Runnable.method`.

        Raises:
            ConfigError: As `Runnable.method`, or the class has an attribute of that name.
        """
        chosen = name or function.__name__
        if chosen in vars(cls):
            raise ConfigError(f"{cls.__qualname__} has {chosen!r} already; name another.")

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(self, *args, **kwargs)

        method.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        method.__name__, method.__doc__ = chosen, function.__doc__
        refuse_streams(chosen, function)
        setattr(cls, chosen, Runnable.method(**options)(method))


def declared_methods(runnable: type[Runnable]) -> dict[str, Declaration]:
    """Return what was said of each method, those of base classes first.

    A method that overrides a marked one is marked as that one was.
    """
    found: dict[str, Declaration] = {}
    for owner in reversed(runnable.__mro__):
        for name, function in vars(owner).items():
            declaration = getattr(function, MARK, None)
            if isinstance(declaration, Declaration):
                found[name] = declaration
    return found


def describe_runnable(
    runnable: type[Runnable], name: str, *, metadata: Mapping[str, Any] | None = None
) -> ModelSpec:
    """Return a Runnable as callers see it: a model of version 1.

    Raises:
        ConfigError: It has no method, or says something of its class that does not fit.
    """
    where = runnable.__qualname__
    for resource in check_resources(runnable):
        if resource not in RESOURCES:
            near = did_you_mean(resource, RESOURCES)
            raise ConfigError(f"{where}.SUPPORTED_RESOURCES names {resource!r}.{near}")
    methods = {
        key: describe_method(key, getattr(runnable, key), declaration)
        for key, declaration in declared_methods(runnable).items()
    }
    if not methods:
        raise ConfigError(
            f"{where} has no method that callers may call: mark one with @tfrunner.Runnable.method."
        )
    return ModelSpec(name, "1", 1, methods, metadata=dict(metadata or {}))


def check_resources(runnable: type[Runnable]) -> tuple[str, ...]:
    """Return what a Runnable can use.

    Raises:
        ConfigError: It does not say so as a tuple of names.
    """
    given = runnable.SUPPORTED_RESOURCES
    if isinstance(given, str) or not isinstance(given, (tuple, list)) or not given:
        raise ConfigError(
            f"{runnable.__qualname__}.SUPPORTED_RESOURCES is {given!r}; expected a tuple such as "
            f'("{GPU}", "{CPU}").'
        )
    return tuple(given)


def pack_parameters(parameters: Mapping[str, Any], *, at: str) -> bytes:
    """Return the constructor's keyword arguments as a worker gets them.

    Tuples arrive as lists, and arrays as read-only ones.

    Raises:
        ConfigError: One is neither plain data nor a NumPy array.
    """
    for name, value in parameters.items():
        try:
            packing.unpack(packing.pack({name: value}))
        except TFRunnerError as exc:
            raise ConfigError(
                f"{at}: runnable_init_params[{name!r}] is a {type(value).__name__} that cannot "
                f"be handed to a worker process ({exc.message}). Give numbers, text, lists, dicts "
                "or NumPy arrays; load anything else in __init__, by its path or tag."
            ) from exc
    return packing.pack(dict(parameters))


def unpack_parameters(data: bytes) -> dict[str, Any]:
    """Return the constructor's keyword arguments from what `pack_parameters` gave."""
    found = packing.unpack(data) if data else {}
    if not isinstance(found, dict):
        raise InvalidInput("the parameters of a Runnable are no mapping")
    return found


def source_of(runnable: type[Runnable], parameters: bytes) -> RunnableSource:
    """Return where a worker finds the class.

    Raises:
        ConfigError: It finds it nowhere: the class was made in `__main__` or in a function.
    """
    module, name = runnable.__module__, runnable.__qualname__
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None:
        raise ConfigError(
            f"{name} was defined in {module!r}, which workers cannot import: move the class into "
            "a module of its own, or serve the file that holds its Service."
        )
    if "<locals>" in name:
        raise ConfigError(
            f"{name} was defined inside a function, where workers cannot find it: define the "
            f"class at the top of {module!r}."
        )
    path = Path(file).resolve()
    levels = module.count(".") + (path.name == "__init__.py")
    return RunnableSource(module, str(path.parents[levels]), str(path), name, parameters)
