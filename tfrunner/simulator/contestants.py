"""The policies that are compared, by the names that people type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from tfrunner.dispatcher.policy import Policy
from tfrunner.dispatcher.predictive import Predictive
from tfrunner.errors import ConfigError
from tfrunner.simulator.parsing import parse_number, parse_seconds
from tfrunner.simulator.reference import Aimd, Cork, Deferred, Static
from tfrunner.simulator.results import Outcome, Summary
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.search import static_settings
from tfrunner.simulator.traces import Trace
from tfrunner.simulator.world import simulate

SHIPPED = "tfrunner"
BEST_STATIC = "best-static"
"""Not a policy but a search: the pair of size and wait with the best goodput on that very trace."""


class Row(NamedTuple):
    """One policy on one trace.

    Attributes:
        arrivals: What the trace is called.
        policy: The policy; a best static one names its pair.
        summary: What came of it.
    """

    arrivals: str
    policy: str
    summary: Summary


class Contestant(NamedTuple):
    """A policy that can take part.

    Attributes:
        make: Returns a new one for a scenario.
        text: What it does, in a line.
    """

    make: Callable[[Scenario], Policy]
    text: str


CONTESTANTS = {
    SHIPPED: Contestant(lambda _: Predictive(), "the shipped policy"),
    "work-conserving": Contestant(lambda _: Static(), "all that waits, at once (Triton, TEI)"),
    "static": Contestant(lambda _: Static(0, 0.005), "a full batch or 5 ms (TensorFlow Serving)"),
    "aimd": Contestant(lambda s: Aimd(s.deadline), "a size that grows and shrinks (Clipper)"),
    "cork": Contestant(lambda s: Cork(s.deadline), "a fitted line and past waits (BentoML)"),
    "deferred": Contestant(
        lambda s: Deferred(lambda rows: s.cost.mean(rows, 0.0) + s.transfer, s.deadline),
        "the last moment at which one more could join (Symphony)",
    ),
}


def contest(name: str, scenario: Scenario, trace: Trace, *, seed: int = 0) -> Outcome:
    """Return what comes of a trace under a policy of that name.

    All but the shipped one have exact timers: their systems sleep in microseconds.

    Raises:
        ConfigError: There is no such policy.
    """
    make = policy_maker(name)
    if name != SHIPPED:
        scenario = replace(scenario, alarm=0.0)
    return simulate(scenario, trace, make(scenario), seed=seed)


def policy_maker(name: str) -> Callable[[Scenario], Policy]:
    """Return what makes a new policy of that name: one of CONTESTANTS, or `static:ROWS,TIME`.

    Raises:
        ConfigError: There is no such policy.
    """
    kind, _, rest = name.partition(":")
    if kind == "static" and rest:
        rows, _, seconds = rest.partition(",")
        most, timeout = int(parse_number(rows)), parse_seconds(seconds or "0")
        return lambda _: Static(most, timeout)
    contestant = CONTESTANTS.get(name)
    if contestant is None:
        known = ", ".join((*CONTESTANTS, "static:ROWS,TIME", BEST_STATIC))
        raise ConfigError(f"there is no policy {name!r}; known: {known}.")
    return contestant.make


def compare(
    names: Iterable[str], arrivals: str, scenario: Scenario, trace: Trace, *, seed: int = 0
) -> list[Row]:
    """Return a row for each policy on one trace.

    Args:
        names: Policies, or BEST_STATIC.
        arrivals: What the trace is called.
        scenario: The model and its workers.
        trace: The requests.
        seed: Of what is left to chance while batches run.

    Raises:
        ConfigError: There is no such policy.
    """
    rows = []
    for name in names:
        if name == BEST_STATIC:
            best = static_settings(scenario, trace, seed=seed)[0]
            shown = f"static {best.rows}, {best.timeout * 1e3:g} ms"
            rows.append(Row(arrivals, shown, best.summary))
        else:
            summary = contest(name, scenario, trace, seed=seed).summary()
            rows.append(Row(arrivals, name, summary))
    return rows
