"""Plans: the ways to execute a method. The fastest that agrees with the reference is kept.

The reference is the restored function (a session, where only that could load the model).
Nothing is believed: every other way is compared with the reference on rows that differ, at
several sizes, then timed against it in turn at one row, eight and the largest batch. Of those
that are about as fast as the fastest, one is taken that splits batches, since it can begin the
next while one runs; else the one that costs the least CPU time. What cannot be built, disagrees,
or is not clearly faster leaves the reference, and the reason is said. A plan that was chosen
before on such a device is only compared again, not timed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

from tfrunner.specs import MethodSpec, TensorSpec, leaves
from tfrunner.tensors import Array
from tfrunner_workers import samples
from tfrunner_workers.hosted import Method, describe
from tfrunner_workers.probe import is_close
from tfrunner_workers.recall import SMALL_SECONDS
from tfrunner_workers.savedmodel import LoadedModel
from tfrunner_workers.splitting import Split
from tfrunner_workers.timing import CLOCKS, Clocks, Times, in_turn
from tfrunner_workers.ways import SPLIT, Build, Plan, Settings, Ways, find_ways

logger = logging.getLogger("tfrunner.worker")

REFERENCE = "reference"

GAIN = 1.1
"""A plan replaces the reference only if it is so many times faster: noise decides nothing."""

NEAR = 0.9
"""Plans so near the fastest are as fast; what they cost in CPU time is what others lack."""

NEAR_SPLIT = 0.8
"""The same for one that splits batches. Alone on its cores it is not faster (CNN 28x28, 64 rows:
8.3 ms either way); in a server that keeps them busy it does 7 to 15 % more rows/s."""

BETWEEN = 3
"""Rows at which plans are compared too, since ways that fill rows up fill none up at 1, 8, 64."""


Cases = dict[int, list[Array]]
"""A method's inputs, by rows."""


class Record(NamedTuple):
    """How a method is executed, and why.

    Args:
        method: Its name.
        plan: Name of the plan.
        gain: How many times as fast as the reference, over all sizes; 1 for the reference, 0
            where it was not timed.
        reason: Why this one, and why others are not used.
        seconds: Median of one run, by plan and rows; empty where nothing was timed.
    """

    method: str
    plan: str
    gain: float
    reason: str
    seconds: dict[str, dict[int, float]]


class Trial(NamedTuple):
    """What became of the ways that were tried.

    Args:
        plans: Those that agree with the reference.
        failures: Why the others are not used, by name.
    """

    plans: dict[str, Plan]
    failures: dict[str, str]


def choose_all(
    model: LoadedModel, settings: Settings, *, known: Mapping[str, str] | None = None
) -> list[Record]:
    """Give every method of a loaded model its fastest plan that agrees with the reference.

    Args:
        model: Its `methods` are replaced.
        settings: What plans are built for.
        known: Plans that were chosen before on such a device, by method: they are taken if
            they still agree, without being timed.

    Returns:
        What was chosen for each method.
    """
    changes = [name for name, method in model.spec.methods.items() if not method.repeatable]
    records = []
    for name, method in model.spec.methods.items():
        if changes:
            reason = f"{changes[0]} changes variables at run time"
            record = Record(name, REFERENCE, 1.0, reason, {})
        else:
            record = _choose(model, method, settings, known=(known or {}).get(name))
        logger.info("%s: plan %s: %s", name, record.plan, record.reason)
        records.append(record)
    return records


def _choose(
    model: LoadedModel, method: MethodSpec, settings: Settings, *, known: str | None
) -> Record:
    """Give one method the known plan if it still agrees, else the fastest that agrees."""
    if known == REFERENCE:
        return Record(method.name, REFERENCE, 0.0, "it was chosen before", {})
    try:
        ways = find_ways(model, method, settings)
        recalled = recall(model, method, ways, known=known, limit=settings.limit)
        return recalled or choose(model, method, ways, limit=settings.limit)
    except Exception as exc:
        return Record(method.name, REFERENCE, 1.0, f"no other plan: {_reason(exc)}", {})


def recall(
    model: LoadedModel, method: MethodSpec, ways: Ways, *, known: str | None, limit: int
) -> Record | None:
    """Give one method the plan that was chosen before; None if it does not agree any more.

    Args:
        model: Its method is replaced.
        method: Which one.
        ways: What may be built.
        known: Name of the plan.
        limit: Most rows in one batch.

    Raises:
        InvalidInput: No inputs can be made up to compare plans with.
    """
    build = next((group[known] for group in ways if known in group), None) if known else None
    if known is None or build is None:
        return None
    trial = _try({known: build}, model.methods[method.name], _cases(model, method, limit))
    if not trial.plans:
        return None
    model.methods[method.name] = trial.plans[known].run
    return Record(method.name, known, 0.0, "it was chosen before, and still agrees", {})


def choose(
    model: LoadedModel,
    method: MethodSpec,
    ways: Ways,
    *,
    limit: int,
    clocks: Clocks = CLOCKS,
) -> Record:
    """Give one method its fastest plan that agrees with the reference.

    Args:
        model: Its method is replaced.
        method: Which one.
        ways: What may be tried beside the reference.
        limit: Most rows in one batch.
        clocks: Give seconds.

    Raises:
        InvalidInput: No inputs can be made up to compare plans with.
    """
    cases = _cases(model, method, limit)
    reference = model.methods[method.name]
    trial = _try_ways(ways, reference, cases)
    record = _fastest(method.name, reference, trial, cases, clocks)
    for name, plan in trial.plans.items():
        if name == record.plan:
            model.methods[method.name] = plan.run
        else:
            plan.close()
    return record


def _try_ways(ways: Ways, reference: Method, cases: Cases) -> Trial:
    """Try one group of ways after the other, until one agrees with the reference."""
    failures: dict[str, str] = {}
    for group in ways:
        trial = _try(group, reference, cases)
        failures.update(trial.failures)
        if trial.plans:
            return Trial(trial.plans, failures)
    return Trial({}, failures)


def _try(ways: Mapping[str, Build], reference: Method, cases: Cases) -> Trial:
    """Build ways and compare each with the reference; what fails does no harm."""
    plans, failures = {}, {}
    for name, build in ways.items():
        try:
            plan = build()
        except Exception as exc:
            failures[name] = _reason(exc)
            continue
        reason = _disagreement(plan.run, reference, cases)
        if not reason and isinstance(plan.run, Split) and not plan.run.fits:
            reason = "outputs of its parts do not fit together"
        if reason:
            failures[name] = reason
            plan.close()
        else:
            plans[name] = plan
    return Trial(plans, failures)


def _disagreement(plan: Method, reference: Method, cases: Cases) -> str:
    """Return how a plan differs from the reference, "" if it gives the same."""
    for arrays in cases.values():
        expected = reference(arrays)
        try:
            got = plan(arrays)
        except Exception as exc:
            return f"it fails: {_reason(exc)}"
        if got.structure != expected.structure or len(got.arrays) != len(expected.arrays):
            return "it gives another structure of outputs"
        for leaf, one, other in zip(
            leaves(expected.structure), got.arrays, expected.arrays, strict=True
        ):
            if not _is_same(leaf, one, other):
                return f"it gives another output {leaf.name!r}"
    return ""


def _is_same(leaf: TensorSpec, got: Array, expected: Array) -> bool:
    """Return whether two outputs are equal, ragged ones row by row."""
    if not leaf.ragged_rank:
        return is_close(got, expected)
    if got.shape != expected.shape:
        return False
    row = TensorSpec(leaf.name, leaf.dtype, None, leaf.ragged_rank - 1)
    return all(_is_same(row, *pair) for pair in zip(got, expected, strict=True))


def _cases(model: LoadedModel, method: MethodSpec, limit: int) -> Cases:
    """Return inputs of different rows to compare with: one row, the largest batch, between."""
    example = model.example(method.name)
    if not method.batchable:
        return {1: example if example is not None else samples.different(method, 1)}
    rows = (
        samples.different(method, limit)
        if example is None
        else samples.varied(method, example, limit)
    )
    wanted = sorted({1, min(BETWEEN, limit), min(8, limit), limit})
    return {size: samples.take(method, rows, 0, size) for size in wanted}


def _fastest(method: str, reference: Method, trial: Trial, cases: Cases, clocks: Clocks) -> Record:
    """Time all plans in turn; return the fastest, the reference unless one is clearly faster."""
    others = "; ".join(f"{name}: {reason}" for name, reason in trial.failures.items())
    if not trial.plans:
        return Record(method, REFERENCE, 1.0, others or "there is no other way", {})
    runs = {REFERENCE: reference, **{name: plan.run for name, plan in trial.plans.items()}}
    times: dict[str, dict[int, Times]] = {name: {} for name in runs}
    for size, arrays in cases.items():
        if size == BETWEEN and size < max(cases):
            continue  # it was only compared
        for name, each in in_turn(runs, arrays, clocks).items():
            times[name][size] = each
    seconds = {name: {rows: each.wall for rows, each in of.items()} for name, of in times.items()}
    gains = {name: _gain(seconds[REFERENCE], seconds[name]) for name in trial.plans}
    best = _best(gains, {name: each[max(cases)].cpu for name, each in times.items()})
    suffix = f" ({others})" if others else ""
    if gains[best] < GAIN:
        reason = f"{best}, the best other plan, is only {gains[best]:.2f} times as fast{suffix}"
        return Record(method, REFERENCE, 1.0, reason, seconds)
    reason = f"{gains[best]:.1f} times as fast as the reference{suffix}"
    return Record(method, best, gains[best], reason, seconds)


def _best(gains: Mapping[str, float], cpu: Mapping[str, float]) -> str:
    """Return the plan to use; `cpu` is what a full batch costs in CPU time, by plan."""
    gains = {name: gain for name, gain in gains.items() if gain >= GAIN} or gains
    split = [name for name in gains if name.endswith(SPLIT)]
    others = [name for name in gains if name not in split] or split
    fastest = max(gains[name] for name in others)
    is_small = min(cpu.values()) < SMALL_SECONDS  # then one thread is as good as all
    for name in split:
        if not is_small and gains[name] >= NEAR_SPLIT * fastest:
            return name
    return min((n for n in others if gains[n] >= NEAR * fastest), key=lambda name: cpu[name])


def _gain(reference: Mapping[int, float], plan: Mapping[int, float]) -> float:
    """Return how many times as fast a plan is: the geometric mean over the sizes."""
    return math.exp(sum(math.log(reference[rows] / plan[rows]) for rows in plan) / len(plan))


def _reason(exc: Exception) -> str:
    """Return why something failed: our own words, or the first line of TensorFlow's that says."""
    text = str(exc) if type(exc) is ValueError else describe(exc)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith("Graph execution error:"):
        lines = lines[1:]
    return lines[0].rstrip(".") if lines else type(exc).__name__
