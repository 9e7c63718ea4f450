"""Restored functions as frozen graphs. The only module that imports TensorFlow's private ones.

Variables become constants, so the graph optimizer can fold and fuse; lookup tables are built
again inside the session; a session's callable then runs the graph without the cost of an eager
call. Loops and branches stay the functions that they are (`While`, `If`): a session's usual
executor lowers them itself, and the single-threaded one can run them only so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfrunner.tensors import Array
from tfrunner_workers.sessions import Run, configuration, prepared

TABLES = ("HashTableV2", "MutableHashTableV2")
"""Operations that hold a lookup table, of which a session's own can be made."""

STATEFUL = (
    *("HashTable", "MutableHashTable", "MutableHashTableOfTensorsV2", "MutableDenseHashTableV2"),
    *("Variable", "VariableV2", "TemporaryVariable", "VarHandleOp"),
    *("FIFOQueueV2", "RandomShuffleQueueV2", "PaddingFIFOQueueV2"),
)
"""Operations that hold what a new session would lack."""


class Table(NamedTuple):
    """A lookup table's content: keys and their values, arrays of one axis, and their dtypes."""

    keys: Array
    values: Array
    dtypes: tuple[Any, Any]


class Frozen(NamedTuple):
    """A graph without variables.

    Args:
        graph: The GraphDef.
        inputs: Names of its input tensors, in the order of the function's signature.
        dtypes: Theirs.
        outputs: Names of its output tensors, in the order of the function's outputs.
        tables: The lookup tables that it uses, by the name of their handle's tensor.
        variables: Those that are no constants, by the name of their handle's tensor.
    """

    graph: Any
    inputs: list[str]
    dtypes: list[Any]
    outputs: list[str]
    tables: dict[str, Table]
    variables: dict[str, Any]


class Session(NamedTuple):
    """A graph that runs, and how to give its memory back."""

    run: Run
    close: Callable[[], None]


def freeze(concrete: Any) -> Frozen:
    """Return a concrete function with its variables as constants, its tables copied.

    Raises:
        ValueError: It holds what can be neither.
    """
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    captured = {inner.name: outer for outer, inner in concrete.graph.captures}
    tables = {
        tensor.name: _copy(captured[tensor.name], graph)
        for tensor in frozen.inputs
        if tensor.name in captured
    }
    inputs = [tensor for tensor in frozen.inputs if tensor.name not in tables]
    return Frozen(
        graph,
        [tensor.name for tensor in inputs],
        [tensor.dtype.as_numpy_dtype for tensor in inputs],
        [tensor.name for tensor in frozen.outputs],
        tables,
        {},
    )


def copy(concrete: Any) -> Frozen:
    """Return a concrete function's graph as it is, its variables and tables to be copied.

    Raises:
        ValueError: It holds what cannot be copied.
    """
    graph = concrete.graph.as_graph_def()
    owned = {id(variable.handle): variable for variable in concrete.variables}
    captured = {inner.name: outer for outer, inner in concrete.graph.captures}
    variables = {name: owned[id(held)] for name, held in captured.items() if id(held) in owned}
    others = {name: held for name, held in captured.items() if name not in variables}
    tables = {
        name: _copy(held, graph) for name, held in others.items() if held.dtype == tf.resource
    }
    constants = {name: held.numpy() for name, held in others.items() if name not in tables}
    inputs = [tensor for tensor in concrete.inputs if tensor.name not in captured]
    return Frozen(
        graph,
        [tensor.name for tensor in inputs],
        [tensor.dtype.as_numpy_dtype for tensor in inputs],
        [tensor.name for tensor in concrete.outputs],
        tables,
        {**variables, **constants},
    )


def freeze_session(session: Any, inputs: list[str], outputs: list[str]) -> Frozen:
    """Return a part of a session's graph with its variables as constants, its tables copied.

    Args:
        session: With its variables and tables filled.
        inputs: Names of the tensors that are given.
        outputs: Names of the tensors that are wanted.

    Raises:
        ValueError: It holds what can be neither.
    """
    graph = tf.compat.v1.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), [name.partition(":")[0] for name in outputs]
    )
    stateful = [node for node in graph.node if node.op in STATEFUL]
    if stateful:
        raise ValueError(f"it holds a {stateful[0].op}, which cannot become a constant")
    tables = {
        f"{node.name}:0": _copy_in_session(session, node)
        for node in graph.node
        if node.op in TABLES
    }
    given = [session.graph.get_tensor_by_name(name) for name in inputs]
    dtypes = [tensor.dtype.as_numpy_dtype for tensor in given]
    return Frozen(graph, inputs, dtypes, outputs, tables, {})


def in_session(frozen: Frozen, *, executor: str, threads: int) -> Session:
    """Return a frozen graph as a function of its inputs, run by a session of its own.

    Args:
        frozen: The graph.
        executor: `sessions.MULTI_THREADED` or `sessions.SINGLE_THREADED`.
        threads: Threads for one operation, and operations at a time.
    """
    graph = tf.Graph()
    fills: list[tuple[Any, dict[Any, Any]]] = []
    with graph.as_default():
        held = {name: _make_table(table, fills) for name, table in frozen.tables.items()}
        held |= {name: _make_variable(each, fills) for name, each in frozen.variables.items()}
        tf.graph_util.import_graph_def(frozen.graph, input_map=held, name="")
    session = tf.compat.v1.Session(
        graph=graph, config=configuration(executor, threads, is_whole=True)
    )
    for fill, content in fills:
        session.run(fill, {name: _value(each) for name, each in content.items()})
    feeds = [graph.get_tensor_by_name(name) for name in frozen.inputs]
    fetches = [graph.get_tensor_by_name(name) for name in frozen.outputs]
    return Session(prepared(session, feeds, fetches), session.close)


def _value(content: Any) -> Any:
    """Return a variable's value; arrays are what they are."""
    return content.numpy() if hasattr(content, "numpy") else content


def _make_table(table: Table, fills: list[tuple[Any, dict[Any, Any]]]) -> Any:
    """Return the handle of a new table in the default graph; add to `fills` what fills it."""
    keys, values = (tf.compat.v1.placeholder(dtype, [None]) for dtype in table.dtypes)
    handle = tf.raw_ops.HashTableV2(key_dtype=keys.dtype, value_dtype=values.dtype)
    fill = tf.raw_ops.InitializeTableV2(table_handle=handle, keys=keys, values=values)
    fills.append((fill, {keys: table.keys, values: table.values}))
    return handle


def _make_variable(variable: Any, fills: list[tuple[Any, dict[Any, Any]]]) -> Any:
    """Return the handle of a new variable in the default graph, or a captured tensor's value."""
    if not hasattr(variable, "handle"):
        return tf.constant(variable)
    value = tf.compat.v1.placeholder(variable.dtype, variable.shape)
    handle = tf.raw_ops.VarHandleOp(
        dtype=variable.dtype, shape=variable.shape, shared_name=f"copied_{len(fills)}"
    )
    fill = tf.raw_ops.AssignVariableOp(resource=handle, value=value)
    fills.append((fill, {value: variable}))
    return handle


def variable_bytes(concrete: Any) -> int:
    """Return the size of the variables that a concrete function reads."""
    return sum(int(v.shape.num_elements() or 0) * v.dtype.size for v in concrete.variables)


def _copy(handle: Any, graph: Any) -> Table:
    """Return the content of the lookup table behind a captured handle.

    Raises:
        ValueError: It is no table, or one whose values are more than numbers or texts.
    """
    if handle.dtype != tf.resource:
        raise ValueError(f"it holds a {handle.dtype.name} that cannot become a constant")
    for dtypes in sorted(set(_lookups(graph))):
        key, value = map(tf.as_dtype, dtypes)
        try:
            content = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=key, Tvalues=value)
        except tf.errors.OpError:
            continue  # it is of other dtypes, or no table
        return _table(content[0].numpy(), content[1].numpy(), (key, value))
    raise ValueError("it holds a resource that cannot become a constant")


def _copy_in_session(session: Any, node: Any) -> Table:
    """Return the content of the lookup table that an operation of a session's graph holds.

    Raises:
        ValueError: Its values are more than numbers or texts.
    """
    dtypes = tf.as_dtype(node.attr["key_dtype"].type), tf.as_dtype(node.attr["value_dtype"].type)
    with session.graph.as_default():
        content = tf.raw_ops.LookupTableExportV2(
            table_handle=session.graph.get_tensor_by_name(f"{node.name}:0"),
            Tkeys=dtypes[0],
            Tvalues=dtypes[1],
        )
    keys, values = session.run(list(content))
    return _table(keys, values, dtypes)


def _table(keys: Array, values: Array, dtypes: tuple[Any, Any]) -> Table:
    if values.ndim != 1:
        raise ValueError("it holds a lookup table of tensors, which cannot be copied")
    return Table(keys, values, dtypes)


def _lookups(graph: Any) -> Iterator[tuple[int, int]]:
    """Yield the dtypes of keys and values with which a graph looks up, as numbers."""
    nodes = list(graph.node)
    for function in graph.library.function:
        nodes.extend(function.node_def)
    for node in nodes:
        if node.op == "LookupTableFindV2":
            yield node.attr["Tin"].type, node.attr["Tout"].type
