"""A SavedModel served by a session, as TensorFlow 1 did it. Imports TensorFlow.

It needs no object graph, only signatures: so it loads what `tf.saved_model.load` refuses
(graphs that write to variables of TensorFlow 1, or give them back; several graphs in one
folder), and it runs signatures without the cost of an eager call. Its variables are a copy
of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfrunner.errors import CorruptModel
from tfrunner.framework import quiet_loaders
from tfrunner.specs import MethodSpec, Node, leaves
from tfrunner_workers import meta_graphs
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.meta_graphs import Head
from tfrunner_workers.sessions import MULTI_THREADED, as_array, configuration, prepared


class Bound(NamedTuple):
    """A method in a session.

    Args:
        run: What executes it.
        inputs: Names of the graph's tensors that it takes, in `leaves` order.
        outputs: Names of those that it gives, in the order of the output's leaves.
    """

    run: Method
    inputs: list[str]
    outputs: list[str]


class SessionModel:
    """A graph and a session with its variables.

    Args:
        session: TensorFlow's.
        bound: The signatures that were asked for, by method.
    """

    def __init__(self, session: Any, bound: dict[str, Bound]) -> None:
        self.session = session
        self.bound = bound

    @property
    def methods(self) -> dict[str, Method]:
        """The methods as functions of arrays."""
        return {name: each.run for name, each in self.bound.items()}

    def __repr__(self) -> str:
        return f"<SessionModel [{', '.join(self.bound)}]>"

    def close(self) -> None:
        """Give back the memory of its variables."""
        self.session.close()


def is_needed(folder: str | Path) -> bool:
    """Return whether a SavedModel can be served by a session only.

    TensorFlow 2 stores an object graph beside the graph; without it there are no functions to
    restore. Of several graphs it does not choose one. What cannot be read needs no session.
    """
    try:
        return not meta_graphs.has_objects(Path(folder))
    except CorruptModel:
        return False


def describe(folder: str | Path) -> dict[str, MethodSpec]:
    """Return what the signatures of a SavedModel take and give; nothing is loaded.

    Args:
        folder: With `saved_model.pb` or `saved_model.pbtxt`.

    Returns:
        Each signature that can be served, not batchable, by name. Inputs and outputs come in
        the order of their names, outputs as a dict. Signatures with sparse or ragged tensors,
        or with placeholders that nobody feeds, are left out.

    Raises:
        CorruptModel: It cannot be read, or no signature can be served; says why.
    """
    heads = meta_graphs.read_heads(Path(folder))
    if not heads.served:
        why = "; ".join(f"{name}: {reason}" for name, reason in heads.refused.items())
        raise CorruptModel(
            f"{folder} has no signature that can be served: {why or 'there are none'}."
        )
    return {name: head.method for name, head in heads.served.items()}


def load(
    folder: str | Path,
    methods: Mapping[str, MethodSpec],
    *,
    executor: str = MULTI_THREADED,
    threads: int = 0,
) -> SessionModel:
    """Return signatures of a SavedModel as methods, its variables restored.

    Args:
        folder: The SavedModel.
        methods: What to serve; each is the signature of its name, or, where there is none of
            this name, the one signature that takes and gives tensors of the same names.
        executor: `sessions.MULTI_THREADED` or `sessions.SINGLE_THREADED`.
        threads: Threads for one operation, and operations at a time; 0: what TensorFlow was
            told.

    Raises:
        CorruptModel: TensorFlow cannot load it, or it is not what `methods` says.
    """
    heads = meta_graphs.read_heads(Path(folder))
    chosen = {}
    for name, method in methods.items():
        if (head := find_head(heads.served, method)) is None:
            reason = heads.refused.get(name, f"there are: {', '.join(heads.served) or 'none'}")
            raise CorruptModel(
                f"{folder} has no signature that takes and gives what method {name!r} does: "
                f"{reason}."
            )
        chosen[name] = head
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=configuration(executor, threads))
    try:
        with graph.as_default(), quiet_loaders(tf):
            tf.compat.v1.saved_model.load(session, heads.tags, str(folder), clear_devices=True)
        bound = {name: _bind(session, head, methods[name]) for name, head in chosen.items()}
    except Exception as exc:
        session.close()
        raise CorruptModel(f"{folder} cannot be loaded into a session: {exc}") from exc
    return SessionModel(session, bound)


def find_head(heads: Mapping[str, Head], method: MethodSpec) -> Head | None:
    """Return the signature that a method stands for, None if there is none, or no only one."""
    if (named := heads.get(method.name)) is not None:
        return named if _fits(named, method) else None
    fitting = [head for head in heads.values() if _fits(head, method)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(head: Head, method: MethodSpec) -> bool:
    """Return whether names and dtypes of a signature's tensors are those of a method."""
    return _dtypes(head.method, is_output=False) == _dtypes(method, is_output=False) and (
        method.output is None
        or _dtypes(head.method, is_output=True) == _dtypes(method, is_output=True)
    )


def _dtypes(method: MethodSpec, *, is_output: bool) -> list[tuple[str, str]]:
    """Return name and dtype of a method's inputs or outputs, sorted."""
    nodes = [method.output] if is_output else [each.spec for each in method.arguments]
    return sorted((leaf.name, leaf.dtype) for node in nodes if node for leaf in leaves(node))


def _bind(session: Any, head: Head, method: MethodSpec) -> Bound:
    """Return a signature as a function of its inputs in the order of the method's leaves."""
    output: Node | None = method.output if method.output is not None else head.method.output
    assert output is not None  # a head has one
    inputs = [head.inputs[leaf.name] for leaf in method.inputs]
    outputs = [head.outputs[leaf.name] for leaf in leaves(output)]
    tensor = session.graph.get_tensor_by_name
    run = prepared(session, list(map(tensor, inputs)), list(map(tensor, outputs)))

    def execute(arrays: list[Any]) -> Output:
        return Output([as_array(value) for value in run(*arrays)], output)

    return Bound(execute, inputs, outputs)
