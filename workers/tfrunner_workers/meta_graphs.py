"""What the signatures of a SavedModel's graph take, give and do, read from its `saved_model.pb`.

Needed where there is no object graph, as in the SavedModels of TensorFlow 1: nothing is loaded
or run here. Imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfrunner.errors import CorruptModel
from tfrunner.specs import Argument, DictSpec, MethodSpec, TensorSpec
from tfrunner.tensors import DTYPES, STRING
from tfrunner_workers.signatures import CHANGES_STATE, CHANGES_STATE_TOO

SERVE = "serve"
"""The tag that TensorFlow gives to graphs that are to be served."""

NOT_SERVED = ("__saved_model_init_op", "__saved_model_train_op")
"""Signatures in which TensorFlow keeps what it runs itself."""

CHANGES_REFERENCE = frozenset(
    {
        *("ScatterUpdate", "ScatterAdd", "ScatterSub", "ScatterMul", "ScatterDiv", "ScatterMin"),
        *("ScatterMax", "ScatterNdAdd", "ScatterNdSub", "ScatterNdMin", "ScatterNdMax"),
        *("CountUpTo", "StridedSliceAssign", "LookupTableInsert", "LookupTableImport"),
        *("QueueEnqueue", "QueueEnqueueMany", "QueueDequeue", "QueueDequeueMany"),
        *("QueueDequeueUpTo", "QueueDequeueUpToV2", "Stage", "Unstage", "StackPush", "StackPop"),
    }
)
"""Operations of TensorFlow 1 that change what a session keeps, beside `Assign...`, `Apply...`
and `SparseApply...`."""

PLACEHOLDERS = ("Placeholder", "PlaceholderV2")


class Head(NamedTuple):
    """One signature.

    Args:
        method: What it takes and gives; inputs and outputs in the order of their names.
        inputs: Names of the graph's tensors, by name of the input.
        outputs: Names of the graph's tensors, by name of the output.
    """

    method: MethodSpec
    inputs: dict[str, str]
    outputs: dict[str, str]


class Heads(NamedTuple):
    """The signatures of one graph.

    Args:
        tags: What the graph is found by.
        served: Those that can be served, by name.
        refused: Why the others cannot, by name.
    """

    tags: list[str]
    served: dict[str, Head]
    refused: dict[str, str]


def read_heads(folder: Path) -> Heads:
    """Return the signatures of the graph that is to be served.

    Args:
        folder: Of a SavedModel.

    Raises:
        CorruptModel: It cannot be read, or it is not clear which of its graphs is meant.
    """
    meta = _choose(list(_read(folder).meta_graphs), folder)
    nodes = _Nodes(meta.graph_def)
    served, refused = {}, {}
    for name in sorted(meta.signature_def):
        if name in NOT_SERVED:
            continue
        head = _head(name, meta.signature_def[name], nodes)
        if isinstance(head, Head):
            served[name] = head
        else:
            refused[name] = head
    return Heads(list(meta.meta_info_def.tags), served, refused)


def has_objects(folder: Path) -> bool:
    """Return whether a SavedModel has one graph only, with the objects of TensorFlow 2.

    Raises:
        CorruptModel: It cannot be read.
    """
    graphs = _read(folder).meta_graphs
    return len(graphs) == 1 and graphs[0].HasField("object_graph_def")


def _read(folder: Path) -> Any:
    """Return the parsed `saved_model.pb`, or `saved_model.pbtxt`."""
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    try:
        if binary.exists():
            return SavedModel.FromString(binary.read_bytes())
        return text_format.Parse(text.read_text(), SavedModel())
    except FileNotFoundError as exc:
        raise CorruptModel(f"{folder} is no SavedModel: it has no saved_model.pb") from exc
    except Exception as exc:  # protobuf's own errors
        raise CorruptModel(f"{folder}: its saved_model.pb cannot be read: {exc}") from exc


def _choose(graphs: list[Any], folder: Path) -> Any:
    """Return the only graph, or the one tagged "serve"; the fewer other tags the better."""
    if len(graphs) == 1:
        return graphs[0]
    tagged = [graph for graph in graphs if SERVE in graph.meta_info_def.tags]
    if not tagged:
        names = [sorted(graph.meta_info_def.tags) for graph in graphs]
        raise CorruptModel(
            f"{folder} holds {len(graphs)} graphs, tagged {names}; expected one graph, or one "
            f"that is tagged {SERVE!r}."
        )
    return min(tagged, key=lambda graph: len(graph.meta_info_def.tags))


def _head(name: str, definition: Any, nodes: _Nodes) -> Head | str:
    """Return a signature, or why it cannot be served."""
    inputs: dict[str, tuple[str, TensorSpec]] = {}
    outputs: dict[str, tuple[str, TensorSpec]] = {}
    for found, infos in ((inputs, definition.inputs), (outputs, definition.outputs)):
        for key in sorted(infos):
            if (spec := _spec(key, infos[key])) is None:
                kind = "input" if found is inputs else "output"
                return f"{kind} {key!r} is no dense tensor of a dtype that is served"
            found[key] = (infos[key].name, spec)
    if not outputs:
        return "it gives nothing"
    feeds = [tensor for tensor, _ in inputs.values()]
    operations = nodes.needed([tensor for tensor, _ in outputs.values()], feeds)
    if unfed := [node for node, operation in operations if operation in PLACEHOLDERS]:
        return f"placeholder {unfed[0]!r} of its graph is none of its inputs"
    method = MethodSpec(
        name,
        tuple(Argument(key, spec) for key, (_, spec) in inputs.items()),
        DictSpec({key: spec for key, (_, spec) in outputs.items()}),
        repeatable=not any(_changes_state(operation) for _, operation in operations),
    )
    return Head(
        method,
        {key: tensor for key, (tensor, _) in inputs.items()},
        {key: tensor for key, (tensor, _) in outputs.items()},
    )


def _spec(name: str, info: Any) -> TensorSpec | None:
    """Return what a TensorInfo says; None if it is sparse, ragged, or of another dtype."""
    if info.WhichOneof("encoding") != "name":
        return None
    dtype = tf.as_dtype(info.dtype).base_dtype
    label = STRING if dtype == tf.string else dtype.name
    if label not in DTYPES:
        return None
    if info.tensor_shape.unknown_rank:
        return TensorSpec(name, label, None)
    sizes = (int(dim.size) for dim in info.tensor_shape.dim)
    return TensorSpec(name, label, tuple(None if size < 0 else size for size in sizes))


def _changes_state(operation: str) -> bool:
    return (
        operation.startswith((*CHANGES_STATE, "Apply", "SparseApply"))
        or operation in CHANGES_STATE_TOO
        or operation in CHANGES_REFERENCE
    )


class _Nodes:
    """The operations of a GraphDef, and of the functions that it calls."""

    def __init__(self, graph: Any) -> None:
        self.by_name: Mapping[str, Any] = {node.name: node for node in graph.node}
        self.functions = {each.signature.name: each for each in graph.library.function}

    def needed(self, outputs: Sequence[str], feeds: Sequence[str]) -> list[tuple[str, str]]:
        """Return name and type of every operation that runs when outputs are fetched.

        Args:
            outputs: Names of tensors.
            feeds: Names of tensors that are given, so that what is behind them does not run.
        """
        given = {_full(tensor) for tensor in feeds}
        waiting = [tensor for tensor in outputs if _full(tensor) not in given]
        seen: set[str] = set()
        found: list[tuple[str, str]] = []
        functions: set[str] = set()
        while waiting:
            name = _node_name(waiting.pop())
            if name in seen or name not in self.by_name:
                continue
            seen.add(name)
            node = self.by_name[name]
            found.append((name, node.op))
            functions.update(_called(node))
            waiting += [each for each in node.input if _full(each) not in given]
        return found + self._inside(functions)

    def _inside(self, names: set[str]) -> list[tuple[str, str]]:
        """Return the operations of functions, and of those that they call."""
        waiting, seen = set(names), set()
        found: list[tuple[str, str]] = []
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.functions:
                continue
            seen.add(name)
            for node in self.functions[name].node_def:
                found.append((node.name, node.op))
                waiting.update(_called(node))
        return found


def _called(node: Any) -> Iterator[str]:
    """Yield the names of functions that an operation may call."""
    yield node.op
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        for function in value.list.func:
            yield function.name


def _full(tensor: str) -> str:
    """Return a tensor's name with its number: what a GraphDef calls `x` is `x:0`."""
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
