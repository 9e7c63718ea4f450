"""The ways to execute a method beside its reference, each built only when it is tried.

1. frozen: variables as constants, in a session, so that the graph optimizer can fold them;
2. session: the same graph with its own copy of the variables, where freezing fails or would
   cost too much;
3. v1 loader: the exported signature that the method is, loaded as TensorFlow 1 did, where its
   graph holds what cannot be copied;
4. XLA: compiled for a few sizes, rows filled up to the next one; only where the user allows it.

The first three come with TensorFlow's usual executor and with the single-threaded one, and 1 and
2 with batches split between two threads too. A way is only tried where none of those before it
agrees with the reference (4 beside 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfrunner import ragged
from tfrunner.entry import SAVED_MODEL
from tfrunner.specs import (
    DictSpec,
    ListSpec,
    MethodSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
)
from tfrunner.tensors import DTYPES, Array
from tfrunner_workers import session_model, signatures
from tfrunner_workers.freezing import (
    Frozen,
    copy,
    freeze,
    freeze_session,
    in_session,
    variable_bytes,
)
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.savedmodel import LoadedModel
from tfrunner_workers.sessions import MULTI_THREADED, SINGLE_THREADED, as_array
from tfrunner_workers.splitting import THREADS, Split
from tfrunner_workers.xla import compile_method

SINGLE = ", single-threaded executor"
EXECUTORS = {"": MULTI_THREADED, SINGLE: SINGLE_THREADED}
SPLIT = ", split batches"
FROZEN, SESSION, V1_LOADER, XLA = "frozen", "session", "v1 loader", "xla"

FREEZE_BYTES = 64 * 2**20
"""Variables above it are not frozen. Freezing for two sessions takes, on two cores: 16 MB
2 s and 0.3 GB at the peak; 64 MB 9 s, 1.2 GB; 128 MB 26 s, 2.4 GB; 256 MB 52 s, 4.7 GB."""

COPY_BYTES = 512 * 2**20
"""Variables above it are not copied into a session: 64 MB take 0.25 s and 256 MB 0.7 s for two
sessions. Each has its copy until one is chosen; what the other held is used again."""


class Plan(NamedTuple):
    """A way that was built: what runs it, and how to give its memory back."""

    run: Method
    close: Callable[[], None]


Build = Callable[[], Plan]
"""Builds a way; raises ValueError with the reason, or an error of TensorFlow, if it cannot."""


Ways = Sequence[Mapping[str, Build]]
"""What may be tried for a method, by name: a group only where the one before it gave nothing."""


class Settings(NamedTuple):
    """What ways are built for.

    Args:
        limit: Most rows in one batch.
        threads: Threads that the worker may use.
        xla: Whether methods may be compiled by XLA.
        splits: Whether batches may be split between two threads.
        freeze_bytes: Most bytes of variables that become constants.
        copy_bytes: Most bytes of variables that are copied.
    """

    limit: int
    threads: int
    xla: bool = False
    splits: bool = True
    freeze_bytes: int = FREEZE_BYTES
    copy_bytes: int = COPY_BYTES


def find_ways(model: LoadedModel, method: MethodSpec, settings: Settings) -> Ways:
    """Return the ways of a method.

    Args:
        model: It has a `session` where only that could load it.
        method: Which of its methods.
        settings: What for.

    Raises:
        ValueError: It has none; says why.
    """
    if method.variants:
        raise ValueError("it has several signatures")
    traces = [None] if model.session else _traces(model, method)
    if len(traces) != 1:
        raise ValueError("it has several traces")
    if method.output is None:
        raise ValueError("its output is unknown")
    loaded: dict[str, Build] = {
        V1_LOADER + suffix: functools.partial(_loaded, model, method, executor, settings)
        for suffix, executor in EXECUTORS.items()
    }
    if model.session is not None:
        del loaded[V1_LOADER]  # it is the reference
        make = functools.partial(_freeze_session, model, method, settings)
        return [_in_sessions(FROZEN, make, method, settings), loaded]
    make = functools.partial(_freeze_trace, traces[0], method, settings)
    first = _in_sessions(FROZEN, make, method, settings)
    if settings.xla:
        first[XLA] = functools.partial(_compiled, model, method, traces[0], settings.limit)
    make = functools.partial(_copy_trace, traces[0], method, settings)
    reference = model.methods[method.name]  # one copy of many variables is enough
    return [first, _in_sessions(SESSION, make, method, settings, whole=reference), loaded]


def _traces(model: LoadedModel, method: MethodSpec) -> list[Any]:
    return signatures.similar_traces(signatures.find(model.restored, method.name))


def _in_sessions(
    name: str,
    make: Callable[[], _Ordered],
    method: MethodSpec,
    settings: Settings,
    *,
    whole: Method | None = None,
) -> dict[str, Build]:
    """Return the ways to run one graph, which is made when the first of them is built.

    Args:
        name: What they are called by.
        make: Makes it.
        method: Whose graph it is.
        settings: What the ways are for.
        whole: What runs single rows where batches are split; None: a session of their own.
    """
    assert method.output is not None  # find_ways sees to it
    once, output = functools.cache(make), method.output
    ways: dict[str, Build] = {
        name + suffix: functools.partial(_in_session, once, output, executor, settings.threads)
        for suffix, executor in EXECUTORS.items()
    }
    if settings.splits and settings.threads == THREADS and method.batchable:
        part = functools.partial(_in_session, once, output, SINGLE_THREADED, 1)
        single = ways[name + SINGLE] if whole is None else lambda: Plan(whole, lambda: None)
        ways[name + SPLIT] = functools.partial(_split, method, single, part, settings.threads)
    return ways


def _split(method: MethodSpec, whole: Build, part: Build, threads: int) -> Plan:
    """Return a way that splits batches between threads."""
    outputs = leaves(method.output) if method.output is not None else ()
    if any(leaf.ragged_rank for leaf in (*method.inputs, *outputs)):
        raise ValueError("ragged rows are not split")
    single, several = whole(), part()
    split = Split(method, single.run, several.run, threads)

    def close() -> None:
        for each in (split, single, several):
            each.close()

    return Plan(split, close)


class _Ordered(NamedTuple):
    """A frozen graph, and which of its outputs each part of the specification is."""

    frozen: Frozen
    order: list[int]
    inputs: list[TensorSpec]


def _freeze_trace(trace: Any, method: MethodSpec, settings: Settings) -> _Ordered:
    _check_size(variable_bytes(trace), settings.freeze_bytes)
    return _put_in_order(freeze(trace), trace, method)


def _copy_trace(trace: Any, method: MethodSpec, settings: Settings) -> _Ordered:
    _check_size(variable_bytes(trace), settings.copy_bytes)
    return _put_in_order(copy(trace), trace, method)


def _put_in_order(frozen: Frozen, trace: Any, method: MethodSpec) -> _Ordered:
    assert method.output is not None
    order = _order_of(trace, method.output)
    parts = sum(1 + leaf.ragged_rank for leaf in method.inputs)
    if len(frozen.inputs) != parts or sorted(order) != list(range(len(frozen.outputs))):
        raise ValueError("its graph has other inputs or outputs")
    return _Ordered(frozen, order, method.inputs)


def _freeze_session(model: LoadedModel, method: MethodSpec, settings: Settings) -> _Ordered:
    assert model.session is not None  # find_ways sees to it
    _check_size(_size(model.path / SAVED_MODEL / "variables"), settings.freeze_bytes)
    bound = model.session.bound[method.name]
    frozen = freeze_session(model.session.session, bound.inputs, bound.outputs)
    return _Ordered(frozen, list(range(len(bound.outputs))), method.inputs)


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ValueError(
            f"{size / 2**20:.0f} MB of variables are too many to copy (over {most / 2**20:.0f} MB)"
        )


def _in_session(make: Callable[[], _Ordered], output: Node, executor: str, threads: int) -> Plan:
    frozen, order, inputs = make()
    session = in_session(frozen, executor=executor, threads=threads)
    run, dtypes, parts = session.run, frozen.dtypes, list(leaves(output))
    is_dense = not any(leaf.ragged_rank for leaf in (*inputs, *parts))

    def execute(arrays: list[Array]) -> Output:
        values = run(*arrays)
        return Output([as_array(values[index]) for index in order], output)

    def execute_ragged(arrays: list[Array]) -> Output:
        values = run(*_flat(arrays, inputs, dtypes))
        ordered = iter([as_array(values[index]) for index in order])
        return Output([_gather(leaf, ordered) for leaf in parts], output)

    return Plan(execute if is_dense else execute_ragged, session.close)


def _loaded(model: LoadedModel, method: MethodSpec, executor: str, settings: Settings) -> Plan:
    folder = model.path / SAVED_MODEL
    _check_size(_size(folder / "variables"), settings.copy_bytes)
    loaded = session_model.load(
        folder, {method.name: method}, executor=executor, threads=settings.threads
    )
    return Plan(loaded.methods[method.name], loaded.close)


def _compiled(model: LoadedModel, method: MethodSpec, trace: Any, limit: int) -> Plan:
    assert method.output is not None  # find_ways sees to it
    run = compile_method(
        signatures.find(model.restored, method.name),
        method,
        order=_order_of(trace, method.output),
        limit=limit,
        reference=model.methods[method.name],
    )
    return Plan(run, lambda: None)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))


def _order_of(trace: Any, output: Node) -> list[int]:
    """Return which output of a function's graph each part of the specification's leaves is."""
    numbers: Iterator[int] = iter(range(10**6))

    def number(value: Any) -> Any:
        if value is None:
            return None
        return [next(numbers) for _ in range(1 + getattr(value, "ragged_rank", 0))]

    with_numbers = tf.nest.map_structure(number, trace.structured_outputs)
    return list(_order(with_numbers, output))


def _order(numbers: Any, node: Node) -> Iterator[int]:
    """Yield the numbers of a function's outputs in the order of the specification's leaves."""
    match node:
        case TensorSpec():
            yield from numbers
        case DictSpec(items=mapping):
            for key, child in mapping.items():
                yield from _order(numbers[key], child)
        case ListSpec(items=items) | TupleSpec(items=items):
            for value, child in zip(numbers, items, strict=True):
                yield from _order(value, child)
        case NothingSpec():
            return


def _flat(arrays: list[Array], inputs: list[TensorSpec], dtypes: list[Any]) -> Iterator[Array]:
    """Yield what a frozen graph takes: of a ragged tensor its values, then its row splits."""
    wanted = iter(dtypes)
    for array, leaf in zip(arrays, inputs, strict=True):
        next(wanted)  # of the values, which have it
        if not leaf.ragged_rank:
            yield array
            continue
        rows, lengths = ragged.flatten(array, leaf.ragged_rank)
        inner = (leaf.shape or ())[leaf.ragged_rank + 1 :]
        yield ragged.join(rows, DTYPES[leaf.dtype], tuple(size or 0 for size in inner))
        for sizes in lengths:
            yield np.concatenate([[0], np.cumsum(sizes)]).astype(next(wanted))


def _gather(leaf: TensorSpec, values: Iterator[Array]) -> Array:
    """Return one output: a ragged one comes as its values, then its row splits."""
    array = next(values)
    if not leaf.ragged_rank:
        return array
    return ragged.nest(array, [np.diff(next(values)) for _ in range(leaf.ragged_rank)])
