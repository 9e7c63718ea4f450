"""What a worker does with a loaded model before it says ready: warm it, and probe it.

Each method runs once at every size that it may get, because a first run costs tracing and
autotuning. Then batchable methods are probed. A failing input is logged; it is not a failing
model, since zeros may be no legal input.
"""

from __future__ import annotations

import logging
import time

from tfrunner.protocol import MethodState
from tfrunner.specs import MethodSpec
from tfrunner.tensors import Array
from tfrunner_workers import samples
from tfrunner_workers.hosted import Hosted, Method, describe
from tfrunner_workers.probe import probe

logger = logging.getLogger("tfrunner.worker")

SECONDS = 10.0
"""After this long only the sizes 1, 2 and the largest are still run."""

QUICK = 1.0
"""Seconds; a size that ran for less runs again, to show what a warm run takes."""


def warm(hosted: Hosted, limit: int) -> tuple[MethodState, ...]:
    """Run every method at its sizes, probe the batchable ones, and say how each is to be run.

    A method that is not repeatable is neither run nor probed: running it changes the model.

    Args:
        hosted: The loaded model.
        limit: Most rows in one batch.
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
        example = hosted.example(name)
        _run_sizes(method, run, limit, example, deadline)
        states.append(_probe(method, run, limit, example))
    return tuple(states)


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
) -> None:
    took = []
    for position, rows in enumerate(sizes(limit) if method.batchable else [1]):
        if position > 2 and time.monotonic() > deadline:
            took.append("the others not in time")
            break
        try:
            seconds = _run(method, run, rows, example)
        except Exception as exc:
            logger.warning("%s: warm-up with %d rows failed: %s", method.name, rows, describe(exc))
            break
        took.append(f"{rows}: " + ", then ".join(f"{each * 1e3:.2f} ms" for each in seconds))
    if took:
        logger.info("%s: warm: rows %s", method.name, "; ".join(took))


def _run(method: MethodSpec, run: Method, rows: int, example: list[Array] | None) -> list[float]:
    """Return the seconds of a first run, and of a second one if the first was quick."""
    if example is None:
        arrays = samples.zeros(method, rows)
    else:
        arrays = samples.repeated(method, example, rows)
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < QUICK):
        started = time.perf_counter()
        run(arrays)
        seconds.append(time.perf_counter() - started)
    return seconds


def _probe(method: MethodSpec, run: Method, limit: int, example: list[Array] | None) -> MethodState:
    if not method.batchable:
        return MethodState(method.name, False, method.repeatable)
    finding = probe(method, run, limit=limit, example=example)
    if not finding.is_safe:
        logger.warning("%s: batching is off: %s", method.name, finding.note)
    elif finding.note:
        logger.warning("%s: %s", method.name, finding.note)
    return MethodState(method.name, finding.is_safe, method.repeatable, finding.note)
