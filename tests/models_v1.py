"""SavedModels and GraphDefs as TensorFlow 1 wrote them. Importing this imports TensorFlow.

Each builder writes a folder with `tf.compat.v1.saved_model.Builder` and returns nothing: no
object graph, only a graph, its variables, and signatures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

Heads = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Inputs and outputs of each signature, by name."""

WORDS = ("red", "green", "blue")


@contextlib.contextmanager
def first_control_flow() -> Iterator[None]:
    """Build loops and branches as TensorFlow 1 did: Switch, Merge, Enter, Exit."""
    was_second = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        if was_second:
            v1.enable_control_flow_v2()


def write(
    folder: Path,
    build: Callable[[], Heads],
    *,
    tags: tuple[str, ...] = ("serve",),
    init: Callable[[], Any] | None = None,
) -> None:
    """Write a SavedModel of one graph.

    Args:
        folder: Must not exist.
        build: Adds to the default graph; returns the signatures.
        tags: What the graph is found by.
        init: Returns what is run when the model is loaded.
    """
    builder = v1.saved_model.Builder(str(folder))
    with first_control_flow(), tf.Graph().as_default(), v1.Session() as session:
        heads = build()
        definitions = {name: signature(*head) for name, head in heads.items()}
        main = init() if init else None
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder.add_meta_graph_and_variables(
            session,
            list(tags),
            signature_def_map=definitions,
            main_op=main,
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
        )
    builder.save()


def signature(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
    """Return the definition of one signature."""
    info = v1.saved_model.build_tensor_info
    return v1.saved_model.build_signature_def(
        {name: info(tensor) for name, tensor in inputs.items()},
        {name: info(tensor) for name, tensor in outputs.items()},
        v1.saved_model.PREDICT_METHOD_NAME,
    )


def linear(folder: Path, *, tags: tuple[str, ...] = ("serve",), is_resource: bool = False) -> None:
    """Write x [?, 3] float32 -> y = x @ [[1], [2], [3]] + 0.5, from variables of TensorFlow 1."""

    def build() -> Heads:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        with v1.variable_scope("dense", use_resource=is_resource):
            kernel = v1.get_variable("kernel", initializer=np.float32([[1], [2], [3]]))
            bias = v1.get_variable("bias", initializer=np.float32([0.5]))
        return {"serving_default": ({"x": x}, {"y": tf.matmul(x, kernel) + bias})}

    write(folder, build, tags=tags)


def heads(folder: Path) -> None:
    """Three signatures over one graph: two inputs, several outputs, text and numbers."""

    def build() -> Heads:
        left = v1.placeholder(tf.float32, [None, 2], name="left")
        right = v1.placeholder(tf.int32, [None], name="right")
        text = v1.placeholder(tf.string, [None], name="text")
        factor = v1.placeholder_with_default(np.float32(2), [], name="factor")
        scale = v1.get_variable("scale", initializer=np.float32([1, 10]), use_resource=False)
        scaled = left * scale * factor
        total = tf.reduce_sum(scaled, axis=1) + tf.cast(right, tf.float32)
        return {
            "serving_default": (
                {"right": right, "left": left},
                {"total": total, "scaled": scaled, "label": tf.strings.as_string(right)},
            ),
            "classify": ({"left": left}, {"classes": tf.argmax(scaled, axis=1)}),
            "upper": ({"text": text}, {"text": tf.strings.upper(text), "size": tf.size(text)}),
        }

    write(folder, build)


def loop(folder: Path) -> None:
    """Write n [] int32, x [?] float32 -> x doubled n times, by a loop of TensorFlow 1."""

    def build() -> Heads:
        x = v1.placeholder(tf.float32, [None], name="x")
        n = v1.placeholder(tf.int32, [], name="n")
        factor = v1.get_variable("factor", initializer=np.float32(2), use_resource=False)
        _, y = v1.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, y * factor), [0, x])
        return {"serving_default": ({"x": x, "n": n}, {"y": y})}

    write(folder, build)


def branch(folder: Path) -> None:
    """Write x [?] float32 -> x + 1 if its sum is positive, else -x, by a branch of TensorFlow 1."""

    def build() -> Heads:
        x = v1.placeholder(tf.float32, [None], name="x")
        one = v1.get_variable("one", initializer=np.float32(1), use_resource=False)
        y = v1.cond(tf.reduce_sum(x) > 0, lambda: x + one, lambda: -x)
        return {"serving_default": ({"x": x}, {"y": y})}

    write(folder, build)


def table(folder: Path, vocabulary: Path) -> None:
    """Write words [?] string -> number of its line in an asset file, -1 for others.

    Args:
        folder: Where the model is written.
        vocabulary: A file with one word a line; it is copied into the model.
    """

    def build() -> Heads:
        words = v1.placeholder(tf.string, [None], name="words")
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        found = tf.lookup.StaticHashTable(initializer, -1).lookup(words)
        return {"serving_default": ({"words": words}, {"ids": found})}

    write(folder, build, init=v1.tables_initializer)


def counter(folder: Path) -> None:
    """Write step [] int64 -> count + step, which it keeps."""

    def build() -> Heads:
        step = v1.placeholder(tf.int64, [], name="step")
        count = v1.get_variable("count", initializer=np.int64(0), use_resource=False)
        return {"serving_default": ({"step": step}, {"count": v1.assign_add(count, step)})}

    write(folder, build)


def variable_output(folder: Path) -> None:
    """Write x [?] float32 -> 2 x, and a variable of TensorFlow 1 itself."""

    def build() -> Heads:
        x = v1.placeholder(tf.float32, [None], name="x")
        weight = v1.get_variable("weight", initializer=np.float32([1, 2]), use_resource=False)
        return {"serving_default": ({"x": x}, {"y": x * 2, "weight": weight})}

    write(folder, build)


def unfed(folder: Path) -> None:
    """Write a signature that needs a placeholder which is none of its inputs, and a whole one."""

    def build() -> Heads:
        x = v1.placeholder(tf.float32, [None], name="x")
        training = v1.placeholder(tf.bool, [], name="training")
        y = v1.cond(training, lambda: x * 2, lambda: x * 3)
        return {
            "lacking": ({"x": x}, {"y": y}),
            "whole": ({"x": x, "training": training}, {"y": y}),
        }

    write(folder, build)


def two_graphs(folder: Path) -> None:
    """Two graphs in one folder: "train" has other numbers than "serve"."""
    builder = v1.saved_model.Builder(str(folder))
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        weight = v1.get_variable("weight", initializer=np.float32(3), use_resource=False)
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(
            session, ["train"], {"serving_default": signature({"x": x}, {"y": x - weight})}
        )
        builder.add_meta_graph(
            ["serve"], {"serving_default": signature({"x": x}, {"y": x * weight})}
        )
    builder.save()


def sparse(folder: Path) -> None:
    """Two signatures: one takes a sparse tensor, which is not served, one a dense one."""

    def build() -> Heads:
        values = v1.sparse_placeholder(tf.float32, name="values")
        x = v1.placeholder(tf.float32, [None], name="x")
        total = tf.sparse.reduce_sum(values)
        return {"sparse": ({"values": values}, {"sum": total}), "dense": ({"x": x}, {"y": x + 1})}

    write(folder, build)


def nothing(folder: Path) -> None:
    """A graph without signatures."""

    def build() -> Heads:
        v1.get_variable("unused", initializer=np.float32(3), use_resource=False)
        return {}

    write(folder, build)


def frozen_graph(path: Path) -> None:
    """A frozen GraphDef: input x [?, 3] float32, output y = x @ [[1], [2], [3]]."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        tf.matmul(x, np.float32([[1], [2], [3]]), name="y")
    path.write_bytes(graph.as_graph_def().SerializeToString())
