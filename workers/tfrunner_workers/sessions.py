"""Sessions: what they are configured with, what they take and give. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfrunner.tensors import Array

MULTI_THREADED = ""
SINGLE_THREADED = "SINGLE_THREADED_EXECUTOR"
"""TensorFlow's names of the executors: the second runs operations one after another, which
saves their hand-over between threads; each operation still uses all its threads. It refuses
loops and branches in the form of TensorFlow 1 (Switch, Merge, Enter)."""

Run = Callable[..., list[Any]]
"""Takes one array for each feed, gives one value for each fetch."""


def configuration(executor: str, threads: int, *, is_whole: bool = False) -> Any:
    """Return a session's configuration.

    Args:
        executor: MULTI_THREADED or SINGLE_THREADED.
        threads: Threads for one operation, and operations at a time; 0: what TensorFlow was
            told. (The first session or eager call of a process fixes them for all.)
        is_whole: Whether the graph is whole before the first run: fewer copies of it are kept
            (64 MB of constants: 320 MB less for two sessions).
    """
    threading = tf.config.threading
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads or threading.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=threads or threading.get_inter_op_parallelism_threads(),
        allow_soft_placement=True,
    )
    config.gpu_options.allow_growth = True
    config.experimental.executor_type = executor
    config.experimental.optimize_for_static_graph = is_whole
    config.experimental.disable_output_partition_graphs = True
    return config


def as_array(value: Any) -> Array:
    """Return what a session fetched as an array; a lone text becomes an array of objects."""
    if isinstance(value, np.ndarray):
        return value
    array: Array = np.array(value, dtype=object if isinstance(value, bytes) else None)
    return array
