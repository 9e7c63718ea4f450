"""What every peer serves: the restored function, or tfrunner's frozen graph.

Runs in a peer's own environment: needs TensorFlow and NumPy, knows nothing of tfrunner.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SETTINGS = "TFRUNNER_BENCHMARK_SETTINGS"
"""The environment variable with a server's settings, as JSON: every peer's processes inherit it."""


class Settings(NamedTuple):
    """What a server is told.

    Args:
        folder: The model's: `saved_model/`, `frozen.pb` and `frozen.json`.
        plan: "restored" or "frozen".
        shape: Of one row.
        outputs: Numbers in one row of the answer.
        port: Where to answer HTTP, on 127.0.0.1.
        rows: Most rows in one batch.
        wait: Milliseconds to wait for a batch to fill.
        workers: Processes that run the model.
        is_fast: Whether to take the faster of two transports, where a peer has two.
    """

    folder: str
    plan: str
    shape: list[int]
    outputs: int
    port: int
    rows: int
    wait: float
    workers: int
    is_fast: bool


def read_settings() -> Settings:
    """Return what the environment says."""
    return Settings(**json.loads(os.environ[SETTINGS]))


def load(settings: Settings) -> Callable[[Any], Any]:
    """Return a function from float32 rows to rows, warmed at one row and a full batch."""
    run = _frozen(settings) if settings.plan == "frozen" else _restored(settings)
    for rows in (1, settings.rows):
        run(np.zeros([rows, *settings.shape], "float32"))
    return run


def _restored(settings: Settings) -> Callable[[Any], Any]:
    import tensorflow as tf

    restored = tf.saved_model.load(f"{settings.folder}/saved_model")
    return lambda rows: restored.serve(rows).numpy()


def _frozen(settings: Settings) -> Callable[[Any], Any]:
    """Return the graph that tfrunner froze, in a session set up as tfrunner sets it up."""
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    meta = json.loads((Path(settings.folder) / "frozen.json").read_text())
    graph = tf.Graph()
    with graph.as_default():
        definition = tf.compat.v1.GraphDef()
        definition.ParseFromString((Path(settings.folder) / "frozen.pb").read_bytes())
        tf.graph_util.import_graph_def(definition, name="")
    threads = len(os.sched_getaffinity(0))
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    config.experimental.executor_type = meta["executor"]
    session = tf.compat.v1.Session(graph=graph, config=config)
    options = CallableOptions(feed=meta["inputs"], fetch=meta["outputs"])
    run = session._make_callable_from_options(options)  # what tfrunner calls, too
    return lambda rows: run(rows)[0]


def row_of(body: bytes, settings: Settings) -> tuple[Any, bool]:
    """Return one row of a body, and whether it came as raw bytes.

    A JSON body of exactly as many bytes as the raw row has does not occur: the suite sees to it.
    """
    if len(body) == 4 * int(np.prod(settings.shape)):
        return np.frombuffer(body, "<f4").reshape(settings.shape), True
    return np.asarray(json.loads(body)["x"], "float32"), False
