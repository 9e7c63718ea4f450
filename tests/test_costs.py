"""What a batch costs: learned size by size, robust against what happens once."""

from __future__ import annotations

import random

import pytest

from tfrunner.dispatcher.costbook import CostBook
from tfrunner.dispatcher.costs import PRIOR, CostTable
from tfrunner.dispatcher.drift import DRIFT_RUNS

CNN = {1: 0.00052, 8: 8 / 3670, 16: 16 / 3126, 32: 32 / 2835, 64: 64 / 3803}
"""Seconds of a small CNN on one core, by rows: its best sizes are 8 and 64."""


def taught(costs: dict[int, float], *, runs: int = 3) -> CostTable:
    """Return a table that has seen each size run so often."""
    table = CostTable()
    for rows, seconds in costs.items():
        for _ in range(runs):
            table.observe(rows, seconds)
    return table


def test_nothing_known_is_a_prior():
    """And says so."""
    table = CostTable()
    assert not table.is_known
    assert table.predict(7) == PRIOR and table.best(7) == 7


def test_each_size_has_a_cost_of_its_own():
    """No line is fitted: the CNN's 8 rows are better than its 16 and 32."""
    table = taught(CNN)
    for rows, seconds in CNN.items():
        assert table.predict(rows) == pytest.approx(seconds)
    assert [table.best(rows) for rows in (1, 7, 8, 31, 63, 64)] == [1, 1, 8, 8, 8, 64]


def test_sizes_not_seen_lie_between_their_neighbours():
    """Straight lines, never beyond the two known sizes."""
    table = taught({2: 0.002, 10: 0.010})
    assert [table.predict(rows) for rows in (3, 6, 9)] == pytest.approx([0.003, 0.006, 0.009])


def test_beyond_the_largest_size_the_last_slope_goes_on():
    """As after 32 rows, from half of it on; never falling."""
    assert taught({1: 1.0, 16: 2.0, 32: 4.0}).predict(48) == pytest.approx(6.0)
    assert taught({1: 1.0, 16: 4.0, 32: 3.0}).predict(48) == pytest.approx(3.0)


def test_below_the_smallest_size_the_first_slope_goes_back():
    """At most in proportion; a single size says nothing about others."""
    assert taught({8: 3.0, 16: 5.0}).predict(4) == pytest.approx(2.0)
    assert taught({8: 1.0, 16: 10.0}).predict(4) == pytest.approx(0.5)
    assert taught({8: 3.0}).predict(1) == pytest.approx(3.0)


def test_large_sizes_share_steps():
    """A bound of 4096 rows does not make 4096 rows of a table."""
    table = CostTable()
    for rows in range(1, 4097):
        for _ in range(2):
            table.observe(rows, 0.001 + 0.0001 * rows)
    assert len(table.as_data()) <= 64 + 8 * 6
    for rows in (100, 1000, 4000):
        assert table.predict(rows) == pytest.approx(0.001 + 0.0001 * rows, rel=0.07)


def test_a_first_run_that_compiles_is_not_counted():
    """2 s once, 2 ms ever after: of the first size, and of one that comes later."""
    table = CostTable()
    for seconds in (2.0, 0.002, 0.002):
        table.observe(4, seconds)
    assert table.predict(4) == pytest.approx(0.002)
    table.observe(8, 2.0, is_first=True)
    assert table.predict(8) == pytest.approx(0.002), "it says nothing about 8 rows"
    assert table.novelty > 0.1
    table.observe(8, 0.003)
    assert table.predict(8) == pytest.approx(0.003)


def test_first_runs_that_are_as_fast_as_others_count_at_once():
    """Most models have no costly first run."""
    table = taught({4: 0.002})
    table.observe(8, 0.004, is_first=True)
    assert table.predict(8) == pytest.approx(0.004)


def test_one_outlier_changes_little():
    """It counts for a few times what was expected, and is forgotten."""
    table = taught({4: 0.002}, runs=30)
    table.observe(4, 5.0)
    assert table.predict(4) < 0.003
    for _ in range(30):
        table.observe(4, 0.002)
    assert table.predict(4) == pytest.approx(0.002, rel=0.05)


def test_the_mean_and_the_upper_estimate_of_noise():
    """The mean is found; hardly any run is above the upper estimate."""
    random.seed(0)
    table = CostTable()
    draws = [random.gauss(0.010, 0.001) for _ in range(3000)]
    above = 0
    for index, seconds in enumerate(draws):
        above += index > 100 and seconds > table.upper(4)
        table.observe(4, seconds)
    assert table.predict(4) == pytest.approx(0.010, rel=0.1)
    assert above < 0.03 * len(draws)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_drift_changes_the_whole_table(factor: float):
    """After a few runs that disagree to the same side, also for sizes that have not run since."""
    table = taught({1: 0.001, 8: 0.004, 64: 0.020}, runs=20)
    for _ in range(DRIFT_RUNS):
        table.observe(8, factor * 0.004)
    for rows, seconds in ((1, 0.001), (8, 0.004), (64, 0.020)):
        assert table.predict(rows) == pytest.approx(factor * seconds, rel=0.01)


def test_a_size_that_is_new_in_a_drift_is_not_changed_by_it():
    """It was measured at the new speed."""
    table = taught({1: 0.001, 8: 0.004}, runs=20)
    for index in range(DRIFT_RUNS):
        table.observe(8, 0.012)
        if index == 3:
            table.observe(32, 0.030, is_first=True)
    assert table.predict(32) == pytest.approx(0.030)
    assert table.predict(1) == pytest.approx(0.003)


def test_sizes_that_are_new_in_a_drift_do_not_hide_it():
    """They agree with themselves: that says nothing about those that ran before."""
    table = taught({1: 0.001, 8: 0.002, 32: 0.004}, runs=5)
    for index in range(DRIFT_RUNS):
        table.observe(8, 3 * 0.002)
        table.observe(16, 0.009, is_first=index == 0)
    assert table.predict(32) == pytest.approx(0.012, rel=0.05)
    assert table.predict(16) == pytest.approx(0.009)


def test_noise_is_no_drift():
    """Runs that are off to both sides leave other sizes alone."""
    table = taught({1: 0.001, 8: 0.004}, runs=20)
    for index in range(200):
        table.observe(8, 0.004 * (2.0 if index % 2 else 0.5))
    assert table.predict(1) == pytest.approx(0.001)


def test_seeds_count_until_runs_say_more():
    """What a worker measured at warm-up is used at once, and replaced soon."""
    table = CostTable()
    table.seed([(1, 0.001), (64, 0.010)])
    assert table.is_known and table.predict(64) == pytest.approx(0.010)
    for _ in range(10):
        table.observe(64, 0.011)
    assert table.predict(64) == pytest.approx(0.011, rel=0.02)
    table.seed([(64, 5.0)])
    assert table.predict(64) == pytest.approx(0.011, rel=0.02)


def test_transfer_is_what_a_round_trip_takes_beside_the_run():
    """Never negative; a single long one counts little."""
    table = CostTable()
    for seconds in (0.0002, 0.0002, -1.0, 0.0002, 10.0):
        table.observe_transfer(seconds)
    assert 0.0001 < table.transfer < 0.0004


def test_batches_of_no_rows_teach_nothing():
    """A request may have none, and a size of zero has no rows/s."""
    table = CostTable()
    table.seed([(0, 0.001)])
    for _ in range(5):
        table.observe(0, 0.001)
    assert not table.is_known
    table.observe(4, 0.002)
    table.observe(4, 0.002)
    assert table.best(4) == 4 and table.predict(0) >= 0.0


def test_the_best_size_reckons_with_the_way():
    """One row at a time is best for the model alone, not with the way there and back."""
    table = taught({1: 0.001, 8: 0.0081}, runs=20)
    assert table.best(8) == 1
    for _ in range(20):
        table.observe_transfer(0.001)
        table.observe(8, 0.0081)
    assert table.best(8) == 8


# --- keeping --------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was():
    """Predictions are the same."""
    table = taught(CNN, runs=5)
    again = CostTable.from_data(table.as_data())
    for rows in (1, 3, 8, 20, 64, 100):
        assert again.predict(rows) == pytest.approx(table.predict(rows))
        assert again.upper(rows) == pytest.approx(table.upper(rows))


@pytest.mark.parametrize(
    "data",
    [
        *(None, {}, "x", [1], [[1, 2]], [[1, 0.1, 0.1, 0.1]], [["1", 0.1, 0.1]]),
        *([[0, 0.1, 0.1]], [[-1, 0.1, 0.1]], [[1.5, 0.1, 0.1]], [[True, 0.1, 0.1]]),
        *([[1, 0.0, 0.1]], [[1, -0.1, 0.1]], [[1, 0.1, -0.1]], [[1, float("nan"), 0.1]]),
        *([[1, float("inf"), 0.1]], [[1, 1e12, 0.1]], [[2**40, 0.1, 0.1]]),
    ],
    ids=repr,
)
def test_what_is_no_table_is_refused(data: object):
    """With the reason."""
    with pytest.raises(ValueError, match="expected"):
        CostTable.from_data(data)


def test_a_book_keeps_methods_classes_and_crowds_apart():
    """And comes back class by class."""
    book = CostBook()
    for method, kind, together, seconds in (
        ("a", "gpu", 1, 0.001),
        ("a", "gpu", 2, 0.002),
        ("b", "gpu", 1, 0.003),
        ("a", "cpu", 1, 0.004),
    ):
        for _ in range(20):
            book.table(method, kind, together).observe(8, seconds)
    assert book.device_classes() == ["cpu", "gpu"]
    again = CostBook()
    again.recall("gpu", book.as_data("gpu"))
    assert again.device_classes() == ["gpu"]
    assert again.table("a", "gpu", 1).predict(8) == pytest.approx(0.001)
    assert again.table("a", "gpu", 3).predict(8) == pytest.approx(0.002)
    assert again.table("b", "gpu").predict(8) == pytest.approx(0.003)


def test_a_new_crowd_begins_with_what_is_known_of_others():
    """And learns for itself."""
    book = CostBook()
    for _ in range(20):
        book.table("a", "gpu", 1).observe(8, 0.003)
    assert book.table("a", "gpu", 4).predict(8) == pytest.approx(0.003)
    for _ in range(40):
        book.table("a", "gpu", 4).observe(8, 0.012)
    assert book.table("a", "gpu", 4).predict(8) == pytest.approx(0.012, rel=0.05)
    assert book.table("a", "gpu", 1).predict(8) == pytest.approx(0.003)


@pytest.mark.parametrize(
    "data",
    [None, [], {"a": 1}, {"a": {"x": []}}, {"a": {"0": []}}, {"a": {"1": [[1, 2]]}}],
    ids=repr,
)
def test_a_book_takes_in_nothing_of_data_that_are_wrong(data: object):
    """Not even the part before the mistake."""
    book = CostBook()
    with pytest.raises(ValueError, match="expected"):
        book.recall("gpu", {"good": {"1": [[1, 0.1, 0.0]]}, **data} if data else data)
    assert book.device_classes() == []


def test_the_repr_shows_the_first_sizes():
    """For logs and failing tests."""
    assert repr(taught({1: 0.001, 8: 0.004})) == "<CostTable [1: 1 ms, 8: 4 ms]>"
    assert repr(CostTable()) == "<CostTable [nothing known]>"
