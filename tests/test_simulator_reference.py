"""The policies of other systems do what those systems do, seen through the real core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfrunner.simulator.arrivals import Poisson
from tfrunner.simulator.models import Affine
from tfrunner.simulator.reference import Aimd, Cork, Deferred, Static
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.traces import Trace, of_times
from tfrunner.simulator.world import simulate

MS = 1e-3
SCENARIO = Scenario(Affine(4 * MS, 1 * MS), max_batch_size=8, alarm=0.0)


def at(*times: float) -> Trace:
    """Return requests of one row at these moments."""
    return of_times(np.array(times))


def profile(rows: int) -> float:
    """Return what a batch of the scenario takes."""
    return SCENARIO.cost.mean(rows, 0.0)


def drawn(rate: float, requests: int = 4000) -> Trace:
    """Return Poisson requests."""
    return Poisson(rate).draw(requests, np.random.default_rng(0))


def test_static_waits_for_a_full_batch_or_its_timeout():
    """A lone request waits all the time; the one that fills the batch sends it."""
    lone = simulate(SCENARIO, at(0.0), Static(4, 10 * MS))
    assert lone.latency == pytest.approx([15 * MS])
    four = simulate(SCENARIO, at(0.0, 1 * MS, 2 * MS, 3 * MS), Static(4, 10 * MS))
    assert four.sizes == {4: 1}
    assert four.latency[-1] == pytest.approx(8 * MS)


def test_static_never_runs_more_rows_than_its_size():
    """However many wait; a size above what the model allows means that bound."""
    busy = drawn(2000.0)
    assert max(simulate(SCENARIO, busy, Static(5, 0.0)).sizes) == 5
    assert max(simulate(SCENARIO, busy, Static(500, 0.0)).sizes) == 8


def test_static_without_a_wait_is_work_conserving():
    """What waits leaves as soon as the worker is idle."""
    outcome = simulate(SCENARIO, at(0.0, 1 * MS, 2 * MS), Static())
    assert outcome.sizes == {1: 1, 2: 1}
    assert outcome.latency == pytest.approx([5 * MS, 10 * MS, 9 * MS])


def test_aimd_grows_while_the_objective_is_met():
    """By one row after each full batch, from one up to the bound."""
    outcome = simulate(SCENARIO, drawn(2000.0), Aimd(1.0))
    assert set(range(1, 9)) <= set(outcome.sizes)
    assert max(outcome.sizes) == 8


def test_aimd_shrinks_by_a_tenth_where_batches_take_too_long():
    """Batches of 6 take 10 ms: it goes to and fro below 7 rows."""
    outcome = simulate(SCENARIO, drawn(2000.0), Aimd(10 * MS))
    assert max(outcome.sizes) == 7
    assert outcome.sizes[5] + outcome.sizes[6] + outcome.sizes[7] > 0.9 * outcome.batches


def test_the_cork_sends_a_lone_request_at_once():
    """Nothing has waited yet, so that company is worth nothing."""
    outcome = simulate(SCENARIO, at(*np.arange(20) * 0.1), Cork(0.1))
    assert outcome.latency == pytest.approx([5 * MS] * 20)


def test_the_cork_waits_for_company_once_waiting_was_paid():
    """Under load some batches leave later than the worker was free: it idles meanwhile."""
    trace = drawn(600.0)
    corked = simulate(SCENARIO, trace, Cork(0.1)).summary()
    eager = simulate(SCENARIO, trace, Static()).summary()
    assert corked.rows > eager.rows
    assert corked.utilisation < eager.utilisation


def test_deferred_sends_at_the_last_moment_at_which_one_more_could_have_joined():
    """The deadline less a batch of two: 50 - 6 = 44 ms; then it runs 5."""
    scenario = replace(SCENARIO, deadline=50 * MS)
    outcome = simulate(scenario, at(0.0), Deferred(profile, 50 * MS))
    assert outcome.latency == pytest.approx([49 * MS])


def test_deferred_sends_its_target_size_at_once():
    """Eight rows take 12 ms, twice that is within the deadline: the eighth sends them."""
    scenario = replace(SCENARIO, deadline=50 * MS)
    outcome = simulate(scenario, at(*np.arange(8) * MS), Deferred(profile, 50 * MS))
    assert outcome.sizes == {8: 1}
    assert outcome.latency[-1] == pytest.approx(12 * MS)


def test_deferred_aims_lower_where_the_deadline_is_tight():
    """Twice the time of the target must fit: 2 (4 + b) <= 16 ms allows four rows."""
    scenario = replace(SCENARIO, deadline=16 * MS)
    outcome = simulate(scenario, at(*[0.0] * 5), Deferred(profile, 16 * MS))
    assert outcome.sizes[4] == 1 and outcome.latency[0] == pytest.approx(8 * MS)
