"""Restored functions as frozen graphs. The only module that imports TensorFlow's private ones.

Variables become constants, so the graph optimizer can fold and fuse; a session's callable then
runs the graph without the cost of an eager call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfrunner.tensors import Array

MULTI_THREADED = ""
SINGLE_THREADED = "SINGLE_THREADED_EXECUTOR"
"""TensorFlow's names of the executors: the second runs operations one after another, which
saves their hand-over between threads; each operation still uses all its threads."""

Run = Callable[[Sequence[Array]], list[Any]]


class Frozen(NamedTuple):
    """A graph without variables.

    Args:
        graph: The GraphDef.
        inputs: Names of its input tensors, in the order of the function's signature.
        outputs: Names of its output tensors, in the order of the function's outputs.
    """

    graph: Any
    inputs: list[str]
    outputs: list[str]


def freeze(concrete: Any) -> Frozen:
    """Return a concrete function with its variables as constants.

    Raises:
        ValueError: It holds what cannot become a constant, such as a lookup table.
    """
    frozen = convert_variables_to_constants_v2(concrete)
    return Frozen(
        frozen.graph.as_graph_def(),
        [tensor.name for tensor in frozen.inputs],
        [tensor.name for tensor in frozen.outputs],
    )


def in_session(frozen: Frozen, *, executor: str, threads: int) -> Run:
    """Return a frozen graph as a function of its inputs, run by a session of its own.

    Args:
        frozen: The graph.
        executor: MULTI_THREADED or SINGLE_THREADED.
        threads: Threads for one operation, and operations at a time.
    """
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(frozen.graph, name="")
    settings = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    settings.gpu_options.allow_growth = True
    settings.experimental.executor_type = executor
    session = tf.compat.v1.Session(graph=graph, config=settings)
    feeds = [graph.get_tensor_by_name(name) for name in frozen.inputs]
    fetches = [graph.get_tensor_by_name(name) for name in frozen.outputs]
    run = session.make_callable(fetches, feed_list=feeds)
    return lambda arrays: run(*arrays)


def variable_bytes(concrete: Any) -> int:
    """Return the size of the variables that a concrete function reads."""
    return sum(int(v.shape.num_elements() or 0) * v.dtype.size for v in concrete.variables)
