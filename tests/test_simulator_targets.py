"""What the shipped policy must reach, in virtual time, with nothing set by hand.

The seeds are range(n). Where fewer requests or seeds are simulated than benchmarks/batching.py
does, it is said; that script shows the whole comparison in docs/batching.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfrunner.simulator.arrivals import Poisson
from tfrunner.simulator.contestants import CONTESTANTS, SHIPPED, contest
from tfrunner.simulator.models import Affine, Drift
from tfrunner.simulator.reference import Static
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.search import static_settings
from tfrunner.simulator.suite import PROCESSES, RESNET, setups, situation
from tfrunner.simulator.theory import latency_bound
from tfrunner.simulator.traces import Trace, of_times
from tfrunner.simulator.world import simulate

MS = 1e-3
REFERENCES = tuple(name for name in CONTESTANTS if name != SHIPPED)


def drawn(arrivals, requests: int, seed: int = 0) -> Trace:
    """Return requests."""
    return arrivals.draw(requests, np.random.default_rng(seed))


def standard(setup: str, process: str, deadlines: float) -> tuple[Scenario, Trace]:
    """Return a standard scenario, and a trace that lasts so many deadlines."""
    scenario, arrivals, requests = situation(setup, process, deadlines)
    return scenario, drawn(arrivals, requests)


# --- mean latency ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", [0.0, 0.3 * MS], ids=["no transfer", "transfer"])
@pytest.mark.parametrize("load", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_mean_latency_of_one_worker_keeps_the_bound(load, way):
    """At most 1.01 of Inoue's bound over seeds 0 to 19.

    With 2000 requests for each seed; the benchmark takes 20 000 at nine loads.
    """
    rate = load / RESNET.per_row
    scenario = Scenario(RESNET, max_batch_size=4096, transfer=way, queue_requests=10**6)
    means = [
        contest(SHIPPED, scenario, drawn(Poisson(rate), 2000, seed), seed=seed).summary().mean
        for seed in range(20)
    ]
    bound = latency_bound(rate, base=RESNET.base + way, per_row=RESNET.per_row)
    assert np.mean(means) <= 1.01 * bound


def test_the_bound_is_tight_and_a_fixed_wait_breaks_it():
    """Otherwise the test above could not fail: 10 ms of waiting for a full batch is seen."""
    rate = 0.3 / RESNET.per_row
    scenario = Scenario(RESNET, max_batch_size=4096, queue_requests=10**6)
    trace = drawn(Poisson(rate), 4000)
    bound = latency_bound(rate, base=RESNET.base, per_row=RESNET.per_row)
    assert simulate(scenario, trace, Static()).summary().mean > 0.97 * bound
    assert simulate(scenario, trace, Static(4096, 10 * MS)).summary().mean > 1.5 * bound


@pytest.mark.parametrize("workers", [1, 4, 64])
def test_a_lone_request_takes_its_run_and_its_way(workers):
    """Nothing is added, whatever was learned before and whatever the deadline is."""
    for deadline in (60.0, 8 * MS):
        scenario = Scenario(RESNET, (1.0,) * workers, deadline=deadline, transfer=0.3 * MS)
        outcome = contest(SHIPPED, scenario, of_times(np.arange(200) * 0.05))
        assert outcome.latency == pytest.approx([RESNET.mean(1, 0.0) + 0.3 * MS] * 200)


# --- goodput --------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("setup", ["one", "cnn", "tight"])
def test_goodput_is_that_of_the_best_fixed_setting(setup, process):
    """At least 95 % of the best pair of size and wait found by trying all, for that trace.

    For one seed and 20 deadlines, 10 where those are long; the benchmark takes 40, two seeds
    and all setups.
    """
    scenario, trace = standard(setup, process, 20 if setup == "tight" else 10)
    own = contest(SHIPPED, scenario, trace).summary()
    best = static_settings(scenario, trace)[0]
    assert own.goodput >= 0.95 * best.summary.goodput, f"{best.rows} rows, {best.timeout} s"


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("setup", setups())
def test_goodput_is_that_of_every_reference_policy(setup, process):
    """At least 98 % of each: nobody needs to choose a policy.

    For one seed and 40 deadlines, 20 where those are long and nothing changes later; the
    benchmark takes 40 and two seeds.
    """
    scenario, trace = standard(setup, process, 20 if setup in ("one", "cnn") else 40)
    own = contest(SHIPPED, scenario, trace).summary()
    others = {name: contest(name, scenario, trace).summary().goodput for name in REFERENCES}
    best = max(others, key=others.__getitem__)
    assert own.goodput >= 0.98 * others[best], f"{best}: {others[best]:.0f}, own {own.goodput:.0f}"


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0])
def test_overload_costs_no_goodput_and_is_refused_at_once(factor):
    """At least 95 % of the peak; who is refused knows it in the same moment."""
    scenario = setups()["one"].scenario
    goodput = {}
    for load in (0.9, 1.0, factor):
        rate = load * scenario.capacity
        outcome = contest(SHIPPED, scenario, drawn(Poisson(rate), int(2 * rate)))
        goodput[load] = outcome.summary().goodput
    assert goodput[factor] >= 0.95 * max(goodput.values())
    refused = outcome.failed[~np.isnan(outcome.failed)]
    assert len(refused) > 0.25 * len(outcome.failed)
    assert (refused < 5 * MS).mean() > 0.99


# --- change ---------------------------------------------------------------------------------


def test_after_the_model_slowed_down_few_deadlines_are_missed():
    """Twice the time from one moment on: of what comes 50 batches later 95 % are in time."""
    drifting = Drift(Affine(2 * MS, 0.1 * MS), 1.0, 2.0)
    scenario = Scenario(drifting, (1.0,) * 2, deadline=30 * MS, transfer=0.3 * MS)
    trace = drawn(Poisson(0.7 * scenario.capacity), 20_000)
    outcome = contest(SHIPPED, scenario, trace)
    later = trace.times > 1.0 + 25 * 2 * drifting.mean(64, 1.0)
    assert later.sum() > 1000
    assert outcome.is_in_time[later].mean() > 0.95


def test_a_slow_first_run_does_not_shrink_the_batches():
    """Two seconds of compilation for each size that may run: then all is as if it never was."""
    usual = Scenario(RESNET, deadline=60.0, transfer=0.3 * MS, sizes=(1, 4, 16, 64), is_warm=False)
    slow = replace(usual, first_run=2.0)
    salvos = np.repeat([0.0, 5.0, 10.0, 15.0], usual.sizes)
    steady = drawn(Poisson(0.7 * usual.capacity), 8000).times
    trace = of_times(np.concatenate([salvos, 20.0 + steady]))
    compiled, plain = (contest(SHIPPED, each, trace) for each in (slow, usual))
    assert (compiled.latency[: len(salvos)] > 2.0).all()
    later = slice(-len(steady), None)
    assert compiled.latency[later].mean() <= 1.1 * plain.latency[later].mean()
