"""What a Runnable says of its methods, read as specifications: arguments, rows, defaults.

Everything that cannot be served is refused here, where the class is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from tfrunner import packing
from tfrunner.errors import ConfigError, InvalidInput, did_you_mean
from tfrunner.specs import (
    ANY,
    Argument,
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
)


class Declaration(msgspec.Struct, frozen=True):
    """What was said of one method of a Runnable."""

    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    repeatable: bool = True
    input_spec: Any = None
    output_spec: Any = None


def describe_method(
    name: str, function: Callable[..., Any], declaration: Declaration
) -> MethodSpec:
    """Return a method as callers see it; its arguments are those of the Python function.

    Raises:
        ConfigError: See `Runnable.method`.
    """
    refuse_streams(name, function)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for each in parameters:
        if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
            sign = "**" if each.kind is each.VAR_KEYWORD else "*"
            raise ConfigError(
                f"{name} takes {sign}{each.name}: callers, and the batching, need to know its "
                "arguments. Name each one, or take one dict or list as a single argument."
            )
    if declaration.batchable and not parameters:
        raise ConfigError(f"{name} is batchable and takes no argument that could have rows.")
    names = [each.name for each in parameters]
    given = _by_argument(name, declaration.input_spec, names)
    arguments = tuple(
        Argument(each.name, given.get(each.name) or _anything(each.name), _default(name, each))
        for each in parameters
    )
    output = declaration.output_spec
    return MethodSpec(
        name,
        arguments,
        output=None if output is None else to_node(output, "", at=f"output_spec of {name}"),
        batchable=declaration.batchable,
        batch_dim=declaration.batch_dim,
        repeatable=declaration.repeatable,
    )


def to_node(spec: Any, name: str, *, at: str) -> Node:
    """Return a specification from Python's form: nested dicts, lists and tuples of TensorSpecs.

    Args:
        spec: A TensorSpec, None, or a dict, list or tuple.
        name: For a tensor that has none.
        at: Where it stands, for the message.

    Raises:
        ConfigError: It holds anything else.
    """
    if isinstance(spec, TensorSpec):
        return spec if spec.name else msgspec.structs.replace(spec, name=name)
    if isinstance(spec, (DictSpec, ListSpec, TupleSpec, NothingSpec)):
        return spec
    if isinstance(spec, dict):
        return DictSpec({str(key): to_node(each, str(key), at=at) for key, each in spec.items()})
    if isinstance(spec, (list, tuple)):
        items = tuple(to_node(each, f"{name}_{i}", at=at) for i, each in enumerate(spec))
        return ListSpec(items) if isinstance(spec, list) else TupleSpec(items)
    raise ConfigError(
        f"{at} holds {spec!r}; expected tfrunner.specs.TensorSpec(name, dtype, shape), or dicts, "
        "lists and tuples of those."
    )


def _anything(name: str) -> TensorSpec:
    return TensorSpec(name, ANY, None)


def _default(method: str, parameter: inspect.Parameter) -> bytes | None:
    """Return the default of an argument as it travels, None if it has none."""
    if parameter.default is parameter.empty:
        return None
    try:
        return packing.pack(parameter.default)
    except InvalidInput as exc:
        raise ConfigError(
            f"{method}: the default of {parameter.name!r} is a "
            f"{type(parameter.default).__name__}, which is no plain value. Use None, and make it "
            "in the method."
        ) from exc


def refuse_streams(name: str, function: Callable[..., Any]) -> None:
    """Refuse what does not return one result.

    Raises:
        ConfigError: It is a generator, or async.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{name} is a generator: streaming is not served. Return a list.")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"{name} is async: a worker runs one batch after the other. Use a plain `def`."
        )


def _by_argument(method: str, spec: Any, names: list[str]) -> dict[str, Node]:
    """Return the specifications by argument."""
    at = f"input_spec of {method}"
    if spec is None:
        return {}
    if isinstance(spec, TensorSpec):
        spec = [spec]
    if isinstance(spec, (list, tuple)):
        if len(spec) != len(names):
            raise ConfigError(f"{at} has {len(spec)} specifications; it takes {len(names)}.")
        spec = dict(zip(names, spec, strict=True))
    if not isinstance(spec, dict):
        raise ConfigError(f"{at} is {spec!r}; expected TensorSpecs, by argument.")
    for name in spec:
        if name not in names:
            raise ConfigError(f"{at}: there is no argument {name!r}.{did_you_mean(name, names)}")
    return {name: to_node(each, name, at=at) for name, each in spec.items()}


def check_batch_dim(given: Any) -> tuple[int, int]:
    """Return the axes that count rows, of inputs and of outputs.

    Raises:
        ConfigError: It says neither one axis nor two.
    """
    pair = (given, given) if isinstance(given, int) else given
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not all(type(axis) is int and axis >= 0 for axis in pair):
        raise ConfigError(
            f"batch_dim is {given!r}; expected an axis such as 0, or one of inputs and one of "
            "outputs: (0, 1)."
        )
    return (pair[0], pair[1])
