"""The simulated world around the real core: what takes how long, and that nothing is lost."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tfrunner.dispatcher.policy import Choice
from tfrunner.errors import StateError
from tfrunner.simulator.arrivals import Bursts, Mixed, Poisson
from tfrunner.simulator.callers import Part
from tfrunner.simulator.models import CNN, Affine, Drift, Noisy, Table
from tfrunner.simulator.reference import Static
from tfrunner.simulator.results import Outcome
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.theory import latency_bound
from tfrunner.simulator.traces import Trace, of_times
from tfrunner.simulator.world import World, simulate

MS = 1e-3
SIMPLE = Scenario(Affine(4 * MS, 1 * MS), max_batch_size=8, transfer=0.5 * MS)


def at(*times: float) -> Trace:
    """Return requests of one row at these moments."""
    return of_times(np.array(times))


def rng() -> np.random.Generator:
    """Return a fresh source of chance."""
    return np.random.default_rng(0)


# --- time -----------------------------------------------------------------------------------


def test_a_lone_request_takes_its_run_and_the_way_there_and_back():
    """Nothing else: however many come one by one."""
    outcome = simulate(SIMPLE, at(*np.arange(50) * 0.1), Static())
    assert outcome.latency == pytest.approx([5.5 * MS] * 50)
    assert outcome.sizes == Counter({1: 50})
    assert outcome.busy == pytest.approx(50 * 5 * MS)


def test_requests_that_come_meanwhile_share_the_next_batch():
    """Three of them run when the first is back: 0.5 + 5 of the first, 0.5 + 7 of their own."""
    outcome = simulate(SIMPLE, at(0.0, 1 * MS, 2 * MS, 3 * MS), Static())
    assert outcome.sizes == Counter({1: 1, 3: 1})
    assert outcome.latency == pytest.approx([5.5 * MS, 12 * MS, 11 * MS, 10 * MS])


def test_a_full_batch_that_is_staged_runs_without_the_way_between():
    """Its inputs are there when the first ends: only the way back is paid."""
    nine = at(0.0, *[1 * MS] * 8)
    outcome = simulate(SIMPLE, nine, Static())
    assert outcome.sizes == Counter({1: 1, 8: 1})
    # 0.25 there, 5 run, 12 run, 0.25 back; asked 1 ms later than the first.
    assert outcome.latency[1:] == pytest.approx([16.5 * MS] * 8)


def test_a_slow_worker_takes_longer():
    """Half the speed, twice the run; the way is the same."""
    outcome = simulate(replace(SIMPLE, speeds=(0.5,)), at(0.0), Static())
    assert outcome.latency == pytest.approx([10.5 * MS])


@pytest.mark.parametrize(
    ("alarm", "latency"),
    [
        pytest.param(0.0, 2.2 * MS + 5.5 * MS, id="exact"),
        pytest.param(1 * MS, 3 * MS + 5.5 * MS, id="whole milliseconds"),
    ],
)
def test_the_alarm_rings_as_the_shell_sleeps(alarm, latency):
    """A wait of 2.2 ms takes 3 where sleeps are rounded up."""
    scenario = replace(SIMPLE, alarm=alarm)
    outcome = simulate(scenario, at(0.0), Static(8, 2.2 * MS))
    assert outcome.latency == pytest.approx([latency])


def test_the_first_run_of_a_size_takes_longer_on_each_worker():
    """Unless the worker was warmed with that size."""
    late = replace(SIMPLE, first_run=0.2, is_warm=False)
    moments = (0.0, 1.0, 2.0)
    assert simulate(late, at(*moments), Static()).latency == pytest.approx(
        [205.5 * MS, 5.5 * MS, 5.5 * MS]
    )
    warmed = replace(late, is_warm=True)
    assert simulate(warmed, at(*moments), Static()).latency == pytest.approx([5.5 * MS] * 3)


def test_a_model_that_drifts_changes_at_its_moment():
    """A batch before it takes the old time, one after it the new."""
    drifting = replace(SIMPLE, cost=Drift(SIMPLE.cost, 1.0, 3.0))
    latency = simulate(drifting, at(0.0, 1.0), Static()).latency
    assert latency == pytest.approx([5.5 * MS, 15.5 * MS])


# --- nothing is lost ------------------------------------------------------------------------


def test_every_request_is_settled_once():
    """Answered, failed, or expired without an answer: their numbers add up."""
    scenario = replace(SIMPLE, speeds=(1.0, 0.7), deadline=0.05)
    trace = Mixed(Bursts(500.0, 4000.0), 1, 12, keys=3, clients=2).draw(5000, rng())
    outcome = simulate(scenario, trace, Static())
    answered, failed = ~np.isnan(outcome.latency), ~np.isnan(outcome.failed)
    assert not (answered & failed).any()
    assert answered.sum() > 500 and failed.sum() > 500
    assert failed.sum() == outcome.codes.total()
    assert (outcome.latency[answered] >= 5.5 * MS / 1.0 - 1e-12).all()
    assert max(outcome.sizes) == 8, "an oversize request is cut"


def test_a_request_of_several_batches_is_answered_with_the_last_one():
    """Twelve rows run as eight and four, one after the other: 12.5 and 8.5 ms."""
    twelve = replace(at(0.0), rows=np.array([12]))
    outcome = simulate(SIMPLE, twelve, Static())
    assert outcome.sizes == {8: 1, 4: 1}
    assert outcome.latency == pytest.approx([21 * MS])


def test_batches_are_padded_to_the_sizes_that_may_run():
    """Three rows take the time of four."""
    padding = replace(SIMPLE, sizes=(1, 4, 8))
    assert simulate(padding, at(0.0, 0.0, 0.0), Static()).latency == pytest.approx([8.5 * MS] * 3)
    assert (padding.warmed, [padding.padded(rows) for rows in (1, 2, 5)]) == ((1, 4, 8), [1, 4, 8])


def test_the_same_seed_gives_the_same_simulation():
    """To the last digit; another seed draws other times of the batches."""
    noisy = replace(SIMPLE, cost=Noisy(SIMPLE.cost, 0.5))
    trace = Poisson(300.0).draw(1000, rng())
    one, same, other = (simulate(noisy, trace, Static(), seed=seed) for seed in (1, 1, 2))
    assert (one.latency == same.latency).all()
    assert (one.latency != other.latency).any()


def test_two_models_have_their_own_requests_and_workers():
    """What is asked of one never runs on the other's workers."""
    slow = replace(SIMPLE, cost=Affine(20 * MS, 0.0), speeds=(1.0, 1.0))
    parts = [Part(SIMPLE, at(0.0, 0.1)), Part(slow, at(0.0, 0.05, 0.1))]
    one, two = World(parts, Static(), rng()).run()
    assert one.latency == pytest.approx([5.5 * MS] * 2)
    assert two.latency == pytest.approx([20.5 * MS] * 3)


def test_a_worker_that_hangs_is_replaced_and_its_batch_runs_again():
    """The core fences it; the world kills it, and tells that it is gone."""
    hangs = replace(SIMPLE, first_run=1000.0, is_warm=False, deadline=60.0)
    outcome = simulate(hangs, at(0.0), Static())
    assert outcome.fenced >= 1
    assert np.isnan(outcome.latency).all()


def test_idle_workers_are_not_taken_for_dead():
    """They say hello all the time: after a long silence nobody is fenced."""
    outcome = simulate(SIMPLE, at(0.0, 30.0), Static())
    assert outcome.fenced == 0
    assert outcome.latency == pytest.approx([5.5 * MS] * 2)


class Restless:
    """A policy that never sends, and asks to be asked again at once."""

    def __init__(self) -> None:
        self._static = Static()

    def order(self, queues, now):
        """Return the queues by arrival."""
        return self._static.order(queues, now)

    def size(self, queue, view):
        """Return a wait that ends now."""
        return Choice(0, again=view.now)

    def observe(self, queue, **seen):
        """Learn nothing."""


def test_a_core_that_never_rests_is_told_of():
    """Virtual time would stand still for ever."""
    with pytest.raises(StateError, match="asks to be woken"):
        simulate(SIMPLE, at(0.0), Restless())


# --- numbers --------------------------------------------------------------------------------


def test_a_summary_tells_rates_latencies_and_shares():
    """Four requests, one of them refused, one late."""
    scenario = replace(SIMPLE, deadline=10 * MS, speeds=(1.0, 1.0))
    outcome = Outcome(at(0.0, 1.0, 2.0, 3.0), scenario)
    outcome.count_failure(1, "overloaded", 1.0)
    for number, moment in ((0, 0.005), (2, 2.008), (3, 3.2)):
        outcome.count_rows(type("Span", (), {"request": number, "start": 0, "stop": 1}), moment)
    outcome.count_batch(2, 0.4)
    outcome.count_batch(1, 0.24)
    summary = outcome.summary()
    assert summary.goodput == pytest.approx(2 / 3.0)
    assert summary.mean == pytest.approx((5 + 8 + 200) * MS / 3)
    assert summary.p50 == pytest.approx(8 * MS)
    assert (summary.in_time, summary.refused, summary.rows) == (0.5, 0.25, 1.5)
    assert summary.utilisation == pytest.approx(0.64 / 6.4)


def test_nothing_answered_has_no_latency():
    """And is no error: an overload may refuse everything."""
    outcome = Outcome(at(1.0), SIMPLE)
    outcome.count_failure(0, "overloaded", 1.0)
    summary = outcome.summary()
    assert math.isnan(summary.mean) and math.isnan(summary.p99)
    assert (summary.goodput, summary.refused) == (0.0, 1.0)


def test_costs_are_what_they_say():
    """Lines between measured sizes, proportion beyond them; noise of mean one."""
    table = Table((1, 4, 8), (1 * MS, 4 * MS, 4 * MS))
    assert [table.mean(rows, 0.0) for rows in (1, 2, 4, 6, 8, 16)] == pytest.approx(
        [1 * MS, 2 * MS, 4 * MS, 4 * MS, 4 * MS, 8 * MS]
    )
    assert [round(rows / CNN.mean(rows, 0.0)) for rows in (8, 16, 32, 64)] == [
        *(3670, 3126, 2835, 3803)
    ]
    chance = rng()
    drawn = np.array([Noisy(Affine(1.0, 0.0), 0.5).draw(1, 0.0, chance) for _ in range(20_000)])
    assert drawn.mean() == pytest.approx(1.0, rel=0.02)
    assert np.quantile(drawn, 0.99) == pytest.approx(2.82, rel=0.05)


def test_capacity_is_that_of_the_best_size_after_all_drift():
    """Two workers, one of half speed, three times slower in the end."""
    scenario = Scenario(Drift(CNN, 5.0, 3.0), (1.0, 0.5), max_batch_size=64)
    assert scenario.capacity == pytest.approx(3803 * 1.5 / 3)
    assert replace(scenario, max_batch_size=32).capacity == pytest.approx(3670 * 1.5 / 3)


@pytest.mark.parametrize(
    ("load", "bound"),
    [(0.01, 2.257), (0.1, 3.414), (0.3, 4.376), (0.5, 6.111), (0.7, 10.166), (0.9, 30.454)],
)
def test_the_bound_is_that_of_the_paper(load, bound):
    """ResNet50 on a V100, as in its table 1 and figure 4."""
    assert latency_bound(load / 0.000144, base=0.001957, per_row=0.000144) == pytest.approx(
        bound * MS, rel=1e-3
    )
