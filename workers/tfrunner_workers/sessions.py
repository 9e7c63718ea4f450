"""Sessions: what they are configured with, what they take and give. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import CallableOptions

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


def prepared(session: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Run:
    """Return a call of a session that TensorFlow prepares once: the graph cut and optimized.

    `Session.make_callable` puts its feeds into a dict and looks its graph up by their names in
    every call: 50 of the 54 us of a linear model, and threads that have gone to sleep before
    the next operation. What is prepared is reached only by a method that is not public (Keras
    had use for it); where a TensorFlow has it no more, the public one does the same. So it does
    for a tensor that is given back as it came, which TensorFlow refuses to prepare.

    Args:
        session: TensorFlow's; what the call reads is in its graph, and has been initialized.
        feeds: Tensors that it takes, as arrays of exactly their dtypes, in native byte order.
        fetches: Tensors that it gives.

    Returns:
        The call. It raises ValueError for an array whose shape is not that of its tensor.
    """
    taken, given = [each.name for each in feeds], [each.name for each in fetches]
    make = getattr(session, "_make_callable_from_options", None)
    if make is None or set(taken) & set(given):
        public: Run = session.make_callable(list(fetches), feed_list=list(feeds))
        return public
    call, shapes = make(CallableOptions(feed=taken, fetch=given)), [_Sizes.of(x) for x in feeds]

    def run(*arrays: Array) -> list[Any]:
        for array, sizes in zip(arrays, shapes, strict=True):
            sizes.check(array)
        values: list[Any] = call(*arrays)
        return values

    return run


class _Sizes(NamedTuple):
    """What a fed tensor's graph knows of its shape: the rank, None if open, and (axis, size)."""

    name: str
    rank: int | None
    known: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tensor: Any) -> _Sizes:
        rank = tensor.shape.rank
        sizes = enumerate(tensor.shape.as_list() if rank is not None else ())
        return cls(tensor.name, rank, tuple((axis, n) for axis, n in sizes if n is not None))

    def check(self, array: Array) -> None:
        """Raise ValueError for an array of another shape."""
        if self.rank is None:
            return
        if array.ndim != self.rank or any(array.shape[axis] != n for axis, n in self.known):
            known = dict(self.known)
            shape = tuple(known.get(axis) for axis in range(self.rank))
            raise ValueError(f"an array of shape {array.shape} is no {self.name} of shape {shape}")


def as_array(value: Any) -> Array:
    """Return what a session fetched as an array; a lone text becomes an array of objects."""
    if isinstance(value, np.ndarray):
        return value
    array: Array = np.array(value, dtype=object if isinstance(value, bytes) else None)
    return array
