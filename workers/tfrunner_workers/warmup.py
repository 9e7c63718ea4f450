"""What a worker does with a loaded model before it says ready: warm it, and probe it.

Each method runs once at every size that it may get, because a first run costs tracing and
autotuning. Then batchable methods are probed. A failing input is logged; it is not a failing
model, since zeros may be no legal input.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import msgspec

from tfrunner.protocol import MethodState
from tfrunner.specs import ANY, MethodSpec
from tfrunner.tensors import Array
from tfrunner_workers import samples
from tfrunner_workers.hosted import Hosted, Method, describe
from tfrunner_workers.probe import probe
from tfrunner_workers.sizes import UNWARMED, AllowedSizes, is_costly

logger = logging.getLogger("tfrunner.worker")

SECONDS = 10.0
"""After this long only the sizes 1, 2 and the largest are still run."""

QUICK = 1.0
"""Seconds; a size that ran for less runs again, to show what a warm run takes."""

RUNS = 4
"""How often a size is run at most. The quickest of the later runs is what the dispatcher
reckons with at first: other processes start at the same time and disturb the rest."""

SHORT = 0.02
"""Seconds; what takes longer is not asked what it costs in CPU time."""


def warm(
    hosted: Hosted, limit: int, *, limits: Mapping[str, int] | None = None
) -> tuple[MethodState, ...]:
    """Run every method at its sizes, probe the batchable ones, and say how each is to be run.

    A method that is not repeatable is neither run nor probed: running it changes the model.
    Nor is one that takes anything: no input can be made up for it.

    Args:
        hosted: The loaded model.
        limit: Most rows in one batch.
        limits: Most rows in one batch of single methods.
    """
    deadline = time.monotonic() + SECONDS
    states = []
    for name, run in hosted.methods.items():
        method = hosted.spec.methods[name]
        if not method.repeatable:
            note = "neither warmed nor probed: running it changes the model"
            logger.info("%s: %s", name, note)
            states.append(MethodState(name, method.batchable, False, note))
            continue
        if any(leaf.dtype == ANY for leaf in method.inputs):
            logger.info("%s: neither warmed nor probed: it has no input_spec", name)
            states.append(MethodState(name, method.batchable, True))
            continue
        most, example = (limits or {}).get(name, limit), hosted.example(name)
        if example is not None:
            method, example = samples.as_called(method, example)
        state = _warm_method(method, run, most, example, deadline)
        if state.sizes:
            hosted.methods[name] = AllowedSizes(method, run, state.sizes)
        states.append(state)
    return tuple(states)


def _warm_method(
    method: MethodSpec, run: Method, limit: int, example: list[Array] | None, deadline: float
) -> MethodState:
    """Run a method at its sizes, probe it, and see whether other sizes are costly."""
    took = _run_sizes(method, run, limit, example, deadline)
    state = _probe(method, run, limit, example)
    costs = tuple((rows, min(seconds[1:] or seconds)) for rows, seconds in took.items())
    allowed: tuple[int, ...] = ()
    if state.batchable and len(took) > 2:
        other = [rows for rows in UNWARMED if rows < limit and rows not in took]
        if is_costly(method, run, other, example):
            allowed = tuple(sorted(took))
            logger.info(
                "%s: a new size is costly; batches are filled up to %s rows", method.name, allowed
            )
    most = limit if method.batchable else 1
    is_short = most in took and min(took[most]) < SHORT
    cpu = _cpu_seconds(run, samples.made_up(method, most, example)) if is_short else 0.0
    return msgspec.structs.replace(state, costs=costs, sizes=allowed, cpu_seconds=cpu)


def declared(hosted: Hosted) -> tuple[MethodState, ...]:
    """Return the methods as the specification declares them, nothing run."""
    return tuple(
        MethodState(name, hosted.spec.methods[name].batchable, hosted.spec.methods[name].repeatable)
        for name in hosted.methods
    )


def sizes(limit: int) -> list[int]:
    """Return the sizes to warm: 1, 2 and the largest first, then the powers of two between."""
    first = [size for size in (1, 2, limit) if size <= limit]
    between = [2**power for power in range(2, limit.bit_length()) if 2**power < limit]
    return list(dict.fromkeys([*first, *between]))


def _run_sizes(
    method: MethodSpec, run: Method, limit: int, example: list[Array] | None, deadline: float
) -> dict[int, list[float]]:
    """Return the seconds of each run at each size that was run."""
    took: dict[int, list[float]] = {}
    texts = []
    for position, rows in enumerate(sizes(limit) if method.batchable else [1]):
        if position > 2 and time.monotonic() > deadline:
            texts.append("the others not in time")
            break
        try:
            took[rows] = _run(method, run, rows, example)
        except Exception as exc:
            logger.warning("%s: warm-up with %d rows failed: %s", method.name, rows, describe(exc))
            break
        first, *later = took[rows]
        texts.append(f"{rows}: {first * 1e3:.2f} ms" + _then(later))
    if texts:
        logger.info("%s: warm: rows %s", method.name, "; ".join(texts))
    return took


def _then(seconds: list[float]) -> str:
    return f", then {min(seconds) * 1e3:.2f} ms" if seconds else ""


def _run(method: MethodSpec, run: Method, rows: int, example: list[Array] | None) -> list[float]:
    """Return the seconds of a first run, and of more that follow while they are quick."""
    arrays = samples.made_up(method, rows, example)
    seconds: list[float] = []
    while not seconds or (len(seconds) < RUNS and sum(seconds) < QUICK):
        started = time.perf_counter()
        run(arrays)
        seconds.append(time.perf_counter() - started)
    return seconds


def _cpu_seconds(run: Method, arrays: list[Array]) -> float:
    """Return the CPU time that a run takes, of all threads."""
    found = []
    for _ in range(RUNS):
        started = time.process_time()
        run(arrays)
        found.append(time.process_time() - started)
    return min(found)


def _probe(method: MethodSpec, run: Method, limit: int, example: list[Array] | None) -> MethodState:
    if not method.batchable:
        return MethodState(method.name, False, method.repeatable)
    finding = probe(method, run, limit=limit, example=example)
    if not finding.is_safe:
        logger.warning("%s: batching is off: %s", method.name, finding.note)
    elif finding.note:
        logger.warning("%s: %s", method.name, finding.note)
    return MethodState(method.name, finding.is_safe, method.repeatable, finding.note)
