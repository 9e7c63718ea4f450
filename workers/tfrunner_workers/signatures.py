"""What the functions of a restored SavedModel take and give.

Only TensorFlow's public API: a function's concrete functions, their structured signatures,
and their graphs. Imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfrunner.errors import InvalidInput, NotFound, did_you_mean
from tfrunner.specs import (
    Argument,
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    Variant,
)
from tfrunner.tensors import DTYPES, STRING

CHANGES_STATE = ("Assign", "ResourceScatter", "ResourceApply", "ResourceSparseApply")
"""Beginnings of the names of operations that write to variables."""

CHANGES_STATE_TOO = (
    *("ResourceStridedSliceAssign", "ScatterNdUpdate", "WriteFile"),
    *("LookupTableInsertV2", "LookupTableRemoveV2", "LookupTableImportV2"),
    *("QueueEnqueueV2", "QueueEnqueueManyV2", "QueueDequeueV2", "QueueDequeueManyV2"),
)


def functions(restored: Any) -> dict[str, Any]:
    """Return the callable functions of a restored object: its attributes, then signatures."""
    found = {}
    for name in dir(restored):
        if name.startswith("__") and name != "__call__":
            continue
        value = getattr(restored, name, None)
        if isinstance(value, tf.types.experimental.PolymorphicFunction) and concretes(value):
            found[name] = value
    for name, value in getattr(restored, "signatures", {}).items():
        found.setdefault(name, value)
    return found


def concretes(function: Any) -> list[Any]:
    """Return the concrete functions of a restored function; it is itself one in `signatures`."""
    if isinstance(function, tf.types.experimental.ConcreteFunction):
        return [function]
    return list(getattr(function, "concrete_functions", ()))


def find(restored: Any, name: str) -> Any:
    """Return the function of that name.

    Raises:
        NotFound: There is none, or it was saved without any traced signature.
    """
    known = functions(restored)
    if name not in known:
        raise NotFound(
            f"The model has no callable method {name!r}: it must be a tf.function with an "
            f"input_signature, or one that was called before saving.{did_you_mean(name, known)}"
        )
    return known[name]


def describe(function: Any, name: str, *, batchable: bool = False) -> MethodSpec:
    """Return the specification of a restored function.

    Traces that take the same structure and dtypes are described as one, and sizes that differ
    between them are left open: each of the traced sizes can be called. Others become variants.
    A batchable method must take any number of rows, so each of its variants is described as
    its most open trace alone.

    Raises:
        InvalidInput: It takes or gives something that is no tensor, or a sparse one.
    """
    groups = trace_groups(function)
    repeatable = not any(changes_state(trace) for group in groups for trace in group)
    described = [_describe(group, name, batchable=batchable) for group in groups]
    first = described[0]
    return MethodSpec(
        name,
        first.arguments,
        first.output,
        repeatable=repeatable,
        variants=tuple(described[1:]),
    )


def _describe(traces: list[Any], name: str, *, batchable: bool) -> Variant:
    """Return what traces take and give that differ in sizes only."""
    if batchable:
        traces = [max(traces, key=lambda trace: _count_open(trace.structured_input_signature))]
    first = tuple(_arguments(traces[0], name))
    inputs: Node | None = TupleSpec(tuple(argument.spec for argument in first))
    output: Node | None = node_of(traces[0].structured_outputs, _output_leaf(name))
    for trace in traces[1:]:
        more = tuple(argument.spec for argument in _arguments(trace, name))
        inputs = merge(inputs, TupleSpec(more))
        output = merge(output, node_of(trace.structured_outputs, _output_leaf(name)))
    if isinstance(inputs, TupleSpec):
        pairs = zip(first, inputs.items, strict=True)
        first = tuple(Argument(argument.name, spec) for argument, spec in pairs)
    return Variant(first, output)


def trace_groups(function: Any) -> list[list[Any]]:
    """Return a function's traces, those together that take the same tensors but for sizes.

    Of traces that differ in Python values only, those with the fewest True among them are kept
    (`training=True` is not for serving). The first trace leads the first group.
    """
    traces = concretes(function)
    traces.sort(key=lambda trace: _count_true(trace.structured_input_signature))
    groups: dict[str, list[Any]] = {}
    chosen: dict[str, str] = {}
    for trace in traces:
        signature = trace.structured_input_signature
        values = repr(_skeleton(signature))
        if chosen.setdefault(repr(_dtypes(signature)), values) == values:
            groups.setdefault(values, []).append(trace)
    return list(groups.values())


def similar_traces(function: Any) -> list[Any]:
    """Return the traces that take what the chosen one takes, but for sizes; it comes first."""
    return trace_groups(function)[0]


def node_of(value: Any, leaf: Callable[[Any, str], TensorSpec], name: str = "") -> Node:
    """Return the structure of a value, its tensors described by `leaf(tensor, name)`."""
    if value is None:
        return NothingSpec()
    if isinstance(value, dict):
        items = {str(key): node_of(value[key], leaf, _join(name, key)) for key in sorted(value)}
        return DictSpec(items)
    if isinstance(value, (list, tuple)):
        parts = tuple(
            node_of(child, leaf, _join(name or "output", index))
            for index, child in enumerate(value)
        )
        return ListSpec(parts) if isinstance(value, list) else TupleSpec(parts)
    return leaf(value, name or "output_0")


def _join(name: str, key: Any) -> str:
    return f"{name}_{key}" if name else str(key)


def _output_leaf(method: str) -> Callable[[Any, str], TensorSpec]:
    def leaf(value: Any, name: str) -> TensorSpec:
        return _tensor_spec(value, name, f"output {name!r} of method {method!r}")

    return leaf


def _arguments(trace: Any, method: str) -> Iterator[Argument]:
    """Yield what a trace takes; Python constants among its arguments are not inputs."""
    args, kwargs = trace.structured_input_signature
    parameters = list(getattr(getattr(trace, "function_type", None), "parameters", ()))
    taken: set[str] = set()
    keyed = [(None, value) for value in args] + [(key, kwargs[key]) for key in sorted(kwargs)]
    for index, (key, value) in enumerate(keyed):
        if not _has_tensors(value):
            continue
        fallback = key or (parameters[index] if index < len(parameters) else f"input_{index}")
        name = getattr(value, "name", None) or fallback
        name = fallback if name in taken else name
        taken.add(name)
        yield Argument(name, _input_node(value, name, method))


def _input_node(value: Any, name: str, method: str) -> Node:
    """Return the structure of one argument."""
    at = f"input {name!r} of method {method!r}"
    if isinstance(value, dict):
        return DictSpec({str(key): _input_node(value[key], key, method) for key in sorted(value)})
    if isinstance(value, (list, tuple)):
        parts = tuple(
            _input_node(child, getattr(child, "name", None) or f"{name}_{index}", method)
            for index, child in enumerate(value)
        )
        return ListSpec(parts) if isinstance(value, list) else TupleSpec(parts)
    if _is_spec(value):
        return _tensor_spec(value, name, at)
    return NothingSpec()


def _tensor_spec(value: Any, name: str, at: str) -> TensorSpec:
    if not isinstance(value, (tf.TensorSpec, tf.RaggedTensorSpec)):
        raise InvalidInput(
            f"{at} is a {type(value).__name__}; expected a dense or ragged tensor. Sparse "
            "tensors are not served: convert them inside the function."
        )
    if value.dtype.name not in DTYPES:
        raise InvalidInput(
            f"{at} has dtype {value.dtype.name}, which is not served; cast it inside the function."
        )
    sizes = value.shape
    shape = None if sizes.rank is None else tuple(sizes.as_list())
    dtype = STRING if value.dtype == tf.string else value.dtype.name
    return TensorSpec(name, dtype, shape, getattr(value, "ragged_rank", 0))


def _is_spec(value: Any) -> bool:
    return isinstance(value, tf.TypeSpec)


def _has_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_tensors(child) for child in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_tensors(child) for child in value)
    return _is_spec(value)


def _count_true(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_count_true(child) for child in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_count_true(child) for child in value)
    return int(value is True)


def _count_open(value: Any) -> int:
    """Return how many sizes a signature leaves open."""
    if isinstance(value, dict):
        return sum(_count_open(child) for child in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_count_open(child) for child in value)
    if not isinstance(value, (tf.TensorSpec, tf.RaggedTensorSpec)):
        return 0
    return 100 if value.shape.rank is None else value.shape.as_list().count(None)


def _skeleton(value: Any) -> Any:
    """Return what two signatures must share to be described as one: all but sizes."""
    if isinstance(value, dict):
        return {key: _skeleton(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(_skeleton(child) for child in value)]
    if isinstance(value, tf.RaggedTensorSpec):
        return f"{value.dtype.name}, ragged rank {value.ragged_rank}"
    return value.dtype.name if isinstance(value, tf.TensorSpec) else repr(value)


def _dtypes(value: Any) -> list[str]:
    """Return the dtypes of a signature's tensors, by which a call's variant is known."""
    if isinstance(value, dict):
        return [name for key in sorted(value) for name in _dtypes(value[key])]
    if isinstance(value, (list, tuple)):
        return [name for child in value for name in _dtypes(child)]
    return [str(_skeleton(value))] if _is_spec(value) else []


def merge(first: Node | None, second: Node | None) -> Node | None:
    """Return what describes both structures, None where nothing does."""
    if isinstance(first, TensorSpec) and isinstance(second, TensorSpec):
        if (first.dtype, first.ragged_rank) != (second.dtype, second.ragged_rank):
            return None
        shape = _merge_shapes(first.shape, second.shape)
        return TensorSpec(first.name, first.dtype, shape, first.ragged_rank)
    if isinstance(first, DictSpec) and isinstance(second, DictSpec):
        keys = list(first.items)
        parts = _merge_all(list(first.items.values()), list(second.items.values()))
        same = keys == list(second.items)
        return DictSpec(dict(zip(keys, parts, strict=True))) if same and parts else None
    if isinstance(first, ListSpec) and isinstance(second, ListSpec):
        parts = _merge_all(first.items, second.items)
        return ListSpec(tuple(parts)) if parts else None
    if isinstance(first, TupleSpec) and isinstance(second, TupleSpec):
        parts = _merge_all(first.items, second.items)
        return TupleSpec(tuple(parts)) if parts else None
    if isinstance(first, NothingSpec) and isinstance(second, NothingSpec):
        return first
    return None


def _merge_all(first: Sequence[Node], second: Sequence[Node]) -> list[Node] | None:
    if len(first) != len(second):
        return None
    merged = [merge(a, b) for a, b in zip(first, second, strict=True)]
    return None if None in merged else [node for node in merged if node is not None]


def _merge_shapes(
    first: tuple[int | None, ...] | None, second: tuple[int | None, ...] | None
) -> tuple[int | None, ...] | None:
    if first is None or second is None or len(first) != len(second):
        return None
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))


def changes_state(trace: Any) -> bool:
    """Return whether a trace's graph writes to variables, tables, queues or files."""
    return any(
        operation.startswith(CHANGES_STATE) or operation in CHANGES_STATE_TOO
        for operation in _operations(trace.graph)
    )


def _operations(graph: Any) -> Iterator[str]:
    """Yield the types of all operations of a graph and of the functions that it calls."""
    for operation in graph.get_operations():
        yield operation.type
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            yield node.op
