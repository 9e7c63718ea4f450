"""Plans: the ways to execute a method. The fastest that agrees with the reference is kept.

The reference is the restored function. A frozen graph in a session gives the same numbers
with less work around them: for small models a multiple of the speed. Nothing is believed:
every plan is compared with the reference on rows that differ, at several sizes, then timed
against it in turn at one row, eight and the largest batch. What cannot be frozen, disagrees,
or is not clearly faster leaves the reference.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

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
from tfrunner.tensors import Array
from tfrunner_workers import samples, signatures
from tfrunner_workers.freezing import (
    MULTI_THREADED,
    SINGLE_THREADED,
    Frozen,
    Run,
    freeze,
    in_session,
    variable_bytes,
)
from tfrunner_workers.hosted import Method, Output, describe
from tfrunner_workers.probe import is_close
from tfrunner_workers.savedmodel import LoadedModel

logger = logging.getLogger("tfrunner.worker")

REFERENCE = "reference"
PLANS = {"frozen": MULTI_THREADED, "frozen, single-threaded executor": SINGLE_THREADED}

FREEZE_BYTES = 128 * 2**20
"""Variables above it are not frozen: 0.4 GB took 35 s and 6.5 GB of memory, 2.2 GB fails."""

GAIN = 1.1
"""A plan replaces the reference only if it is so many times faster: noise decides nothing."""

SECONDS = 0.25
"""How long each plan is timed at each size."""

RUNS = 15
"""How often a plan is timed at each size, if that is not too slow."""


class Choice(NamedTuple):
    """How a method is executed.

    Args:
        plan: Name of the plan.
        run: What executes it.
        reason: Why this one.
    """

    plan: str
    run: Method
    reason: str


def choose_all(model: LoadedModel, *, limit: int, threads: int) -> None:
    """Give every method of a loaded model its fastest plan that agrees with the reference.

    Args:
        model: Its `methods` are replaced.
        limit: Most rows in one batch.
        threads: Threads that the worker may use.
    """
    changes = [name for name, method in model.spec.methods.items() if not method.repeatable]
    for name, method in model.spec.methods.items():
        reference = model.methods[name]
        if changes:
            choice = Choice(REFERENCE, reference, f"{changes[0]} changes variables at run time")
        else:
            try:
                choice = _choose(model, method, reference, limit=limit, threads=threads)
            except Exception as exc:
                choice = Choice(REFERENCE, reference, f"no other plan: {describe(exc)}")
        model.methods[name] = choice.run
        logger.info("%s: plan %s: %s", name, choice.plan, choice.reason)


def _choose(
    model: LoadedModel, method: MethodSpec, reference: Method, *, limit: int, threads: int
) -> Choice:
    traces = signatures.similar_traces(signatures.find(model.restored, method.name))
    if len(traces) != 1 or method.output is None:
        return Choice(REFERENCE, reference, "it has several traces, or an unknown output")
    size = variable_bytes(traces[0])
    if size > FREEZE_BYTES:
        return Choice(REFERENCE, reference, f"{size / 2**20:.0f} MB of variables are too many")
    order = list(_order(_numbered(traces[0].structured_outputs), method.output))
    frozen = freeze(traces[0])
    inputs = sum(1 for argument in method.arguments for _ in leaves(argument.spec))
    if len(frozen.inputs) != inputs or sorted(order) != list(range(len(frozen.outputs))):
        return Choice(REFERENCE, reference, "its frozen graph has other inputs or outputs")
    cases = _cases(model, method, limit)
    plans: dict[str, Method] = {}
    for name, executor in PLANS.items():
        plan = _plan(frozen, method.output, order, executor=executor, threads=threads)
        if _agrees(plan, reference, cases):
            plans[name] = plan
    if not plans:
        return Choice(REFERENCE, reference, "the frozen graph gives other outputs")
    return _fastest(reference, plans, cases)


def _plan(frozen: Frozen, output: Node, order: list[int], *, executor: str, threads: int) -> Method:
    run: Run = in_session(frozen, executor=executor, threads=threads)

    def execute(arrays: list[Array]) -> Output:
        values = run(arrays)
        return Output([_array(values[index]) for index in order], output)

    return execute


def _array(value: Any) -> Array:
    """Return what a session fetched as an array; a lone text becomes an array of objects."""
    if isinstance(value, np.ndarray):
        return value
    array: Array = np.array(value, dtype=object if isinstance(value, bytes) else None)
    return array


def _numbered(structure: Any) -> Any:
    """Return a function's outputs with each tensor replaced by its number in the graph."""
    numbers: Iterator[int] = iter(range(10**6))
    return tf.nest.map_structure(lambda value: None if value is None else next(numbers), structure)


def _order(numbers: Any, node: Node) -> Iterator[int]:
    """Yield the numbers of a function's outputs in the order of the specification's leaves."""
    match node:
        case TensorSpec():
            yield int(numbers)
        case DictSpec(items=mapping):
            for key, child in mapping.items():
                yield from _order(numbers[key], child)
        case ListSpec(items=items) | TupleSpec(items=items):
            for value, child in zip(numbers, items, strict=True):
                yield from _order(value, child)
        case NothingSpec():
            return


def _cases(model: LoadedModel, method: MethodSpec, limit: int) -> list[list[Array]]:
    """Return inputs of different rows: one row, eight, the largest batch."""
    example = model.example(method.name)
    if not method.batchable:
        return [example if example is not None else samples.different(method, 1)]
    wanted = sorted({1, min(8, limit), limit})
    rows = (
        samples.different(method, limit)
        if example is None
        else samples.varied(method, example, limit)
    )
    return [samples.take(method, rows, 0, size) for size in wanted]


def _agrees(plan: Method, reference: Method, cases: list[list[Array]]) -> bool:
    """Return whether a plan gives what the reference gives, structure included."""
    for arrays in cases:
        got, expected = plan(arrays), reference(arrays)
        if got.structure != expected.structure or len(got.arrays) != len(expected.arrays):
            return False
        if not all(map(is_close, got.arrays, expected.arrays)):
            return False
    return True


def _fastest(reference: Method, plans: dict[str, Method], cases: list[list[Array]]) -> Choice:
    """Time all plans in turn; return the fastest, the reference unless one is clearly faster."""
    gains = dict.fromkeys(plans, 0.0)
    for arrays in cases:
        took = _time({REFERENCE: reference, **plans}, arrays)
        for name in plans:
            gains[name] += math.log(took[REFERENCE] / took[name]) / len(cases)
    best = max(gains, key=lambda name: gains[name])
    gain = math.exp(gains[best])
    if gain < GAIN:
        return Choice(REFERENCE, reference, f"the best other plan is only {gain:.2f} times as fast")
    return Choice(best, plans[best], f"{gain:.1f} times as fast as the reference")


def _time(plans: dict[str, Method], arrays: list[Array]) -> dict[str, float]:
    """Return the median seconds of each plan, run in turn so that noise hits all alike."""
    for run in plans.values():
        _once(run, arrays)  # warms it
    taken: dict[str, list[float]] = {name: [_once(run, arrays)] for name, run in plans.items()}
    deadline = time.perf_counter() + SECONDS * len(plans)
    for _ in range(RUNS):
        if time.perf_counter() > deadline:
            break
        for name, run in plans.items():
            taken[name].append(_once(run, arrays))
    return {name: median(seconds) for name, seconds in taken.items()}


def _once(run: Callable[[list[Array]], Output], arrays: list[Array]) -> float:
    started = time.perf_counter()
    run(arrays)
    return time.perf_counter() - started
