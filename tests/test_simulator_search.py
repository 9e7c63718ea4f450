"""The best fixed setting, the number of workers, the names of policies, and what people type."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from tfrunner.errors import ConfigError
from tfrunner.simulator.arrivals import Bursts, Diurnal, Poisson, Step
from tfrunner.simulator.charts import bars
from tfrunner.simulator.contestants import BEST_STATIC, CONTESTANTS, compare, contest
from tfrunner.simulator.models import CNN, Affine, Table
from tfrunner.simulator.parsing import parse_arrivals, parse_model, parse_seconds
from tfrunner.simulator.plots import draw_comparison, draw_lines
from tfrunner.simulator.reference import Static
from tfrunner.simulator.scenario import Scenario, sizes_up_to
from tfrunner.simulator.search import plan_workers, static_settings
from tfrunner.simulator.suite import office, processes, setups
from tfrunner.simulator.traces import Trace
from tfrunner.simulator.world import simulate

MS = 1e-3
SCENARIO = Scenario(Affine(4 * MS, 1 * MS), max_batch_size=8, deadline=30 * MS)


def drawn(rate: float, requests: int = 1000) -> Trace:
    """Return Poisson requests."""
    return Poisson(rate).draw(requests, np.random.default_rng(0))


# --- the best fixed setting -----------------------------------------------------------------


def test_every_pair_of_size_and_wait_is_tried_and_the_best_comes_first():
    """At a load that single rows cannot bear, large batches win."""
    found = static_settings(replace(SCENARIO, deadline=100 * MS), drawn(600.0))
    assert {each.rows for each in found} == {1, 2, 4, 8}
    assert len(found) == 4 * 7
    goodputs = [each.summary.goodput for each in found]
    assert goodputs == sorted(goodputs, reverse=True)
    assert found[0].rows == 8 and found[-1].rows == 1
    assert goodputs[0] > 2 * goodputs[-1]


def test_waits_as_long_as_the_deadline_are_not_tried():
    """Nothing could be answered in time."""
    assert max(each.timeout for each in static_settings(SCENARIO, drawn(5.0, 9))) == 20 * MS


def test_of_equal_goodput_the_shorter_mean_is_better():
    """With nearly no load every pair answers all in time: no wait is best."""
    best = static_settings(SCENARIO, drawn(5.0, 100))[0]
    assert (best.timeout, best.summary.in_time) == (0.0, 1.0)


def test_sizes_are_the_powers_of_two_and_the_largest():
    """A bound that is no power of two is tried as well."""
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(8) == (1, 2, 4, 8)
    assert sizes_up_to(12) == (1, 2, 4, 8, 12)


# --- how many workers -----------------------------------------------------------------------


def test_a_plan_is_the_smallest_number_of_workers_that_keeps_p99():
    """One fewer does not keep it."""
    scenario, trace = replace(SCENARIO, deadline=60.0), drawn(3000.0, 4000)
    tried = plan_workers(scenario, trace, Static, p99=20 * MS)
    best = tried[-1]
    assert 2 < best.workers < 16
    assert best.latency <= 20 * MS
    for workers, is_kept in ((best.workers, True), (best.workers - 1, False)):
        fleet = replace(scenario, speeds=(1.0,) * workers)
        latency = np.nan_to_num(simulate(fleet, trace, Static()).latency, nan=np.inf)
        assert (np.quantile(latency, 0.99, method="higher") <= 20 * MS) == is_kept


def test_requests_that_are_refused_break_the_promise():
    """A p99 over the answered ones alone would be kept by refusing all others."""
    scenario = replace(SCENARIO, queue_requests=1)
    tried = plan_workers(scenario, drawn(3000.0), Static, p99=29 * MS)
    assert tried[-1].workers > 1
    assert tried[-1].summary.refused <= 0.01


def test_what_no_number_of_workers_keeps_is_refused():
    """A lone request takes 5 ms."""
    with pytest.raises(ConfigError, match="takes 5 ms, more than the 4 ms"):
        plan_workers(SCENARIO, drawn(10.0), Static, p99=4 * MS)


# --- who takes part -------------------------------------------------------------------------


def test_policies_are_compared_by_name_on_the_same_trace():
    """And the search for the best static pair names what it found."""
    rows = compare(("work-conserving", BEST_STATIC), "some", SCENARIO, drawn(500.0))
    assert [row.arrivals for row in rows] == ["some", "some"]
    assert rows[0].policy == "work-conserving"
    assert rows[1].policy in {f"static {r}, {t} ms" for r in (1, 2, 4, 8) for t in (0, 1, 2, 5)}
    assert rows[1].summary.goodput >= rows[0].summary.goodput


@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_policy_answers_what_one_worker_can_bear(name):
    """At a third of the capacity, with a deadline of seven runs: 95 of 100 at least."""
    scenario = replace(SCENARIO, deadline=100 * MS)
    assert contest(name, scenario, drawn(200.0)).summary().in_time > 0.95


def test_an_unknown_policy_is_refused():
    """With those that are known."""
    with pytest.raises(ConfigError, match="no policy 'best'; known: tfrunner, work-conserving"):
        contest("best", SCENARIO, drawn(1.0, 1))


def test_the_standard_arrivals_load_a_fleet_as_they_say():
    """About two thirds of its capacity, but for the overload."""
    scenario = setups()["one"].scenario
    rate = scenario.capacity
    for name, arrivals in processes(rate, 20_000 / rate).items():
        trace = arrivals.draw(20_000, np.random.default_rng(0))
        load = len(trace) / trace.seconds / rate
        assert (1.9 < load < 2.1) if name == "overload" else (0.5 < load < 0.85), name
    assert (office(rate, 1.0).times == office(rate, 1.0).times).all()


# --- what people type -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("0.1ms", 1e-4), ("100us", 1e-4), ("2s", 2.0), ("3", 3.0)]
)
def test_times_are_read_with_their_units(text, seconds):
    """Seconds where there is none."""
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "-1ms", "1h", "1 2", "nan", "1e999x"])
def test_what_is_no_time_is_refused(text):
    """With what was expected."""
    with pytest.raises(ConfigError, match="expected one like 50ms"):
        parse_seconds(text)


def test_models_are_read():
    """A line, measured sizes in any order, and the built-in one."""
    assert parse_model("affine:1ms,0.1ms") == Affine(1 * MS, 0.1 * MS)
    assert parse_model("table:8=3ms,1=1ms") == Table((1, 8), (1 * MS, 3 * MS))
    assert parse_model("cnn") is CNN


def test_arrivals_are_read():
    """With their defaults where they may be left out."""
    assert parse_arrivals("poisson:5000") == Poisson(5000.0)
    assert parse_arrivals("bursts:100,900") == Bursts(100.0, 900.0)
    assert parse_arrivals("bursts:100,900,2s,50ms") == Bursts(100.0, 900.0, 2.0, 0.05)
    assert parse_arrivals("step:10,20,5s") == Step(10.0, 20.0, 5.0)
    assert parse_arrivals("diurnal:100,0.5") == Diurnal(100.0, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "affine", "affine:1ms", "affine:1ms,2ms,3ms", "affine:0,0", "affine:1ms,-1ms"),
        *("table:", "table:0=1ms", "table:1=0ms", "table:x=1ms", "table:1", "resnet"),
    ],
)
def test_what_is_no_model_is_refused(text):
    """Whatever is wrong with it."""
    with pytest.raises(ConfigError):
        parse_model(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "poisson", "poisson:", "poisson:0", "poisson:-1", "poisson:nan", "poisson:1,2"),
        *("bursts:1", "step:1,2", "diurnal:10,1.5", "diurnal:10,0", "trace:", "lunar:1"),
    ],
)
def test_what_are_no_arrivals_is_refused(text):
    """Whatever is wrong with them."""
    with pytest.raises(ConfigError):
        parse_arrivals(text)


# --- what is drawn --------------------------------------------------------------------------


def test_bars_are_as_long_as_their_values():
    """The largest fills the width, eighths are shown, what is unknown has none."""
    text = bars(("a", "long"), (1.0, 2.0), ("1/s", "2/s"), 8)
    assert text == "a     ████      1/s\nlong  ████████  2/s"
    assert bars(("a", "b"), (1.0, 16.0), ("", ""), 2).splitlines()[0] == "a  ▏"
    assert bars(("a",), (float("nan"),), ("-",), 4) == "a        -"
    assert bars((), (), (), 4) == ""


def png_size(path) -> tuple[int, int]:
    """Return width and height of a PNG file."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_plots_are_png_files(tmp_path):
    """Of a comparison, with a policy that answered nothing, and of lines."""
    hasty = replace(SCENARIO, deadline=1 * MS)
    rows = compare(("work-conserving", "deferred"), "some", SCENARIO, drawn(500.0, 200))
    rows += compare(("work-conserving", "deferred"), "hasty", hasty, drawn(500.0, 200))
    draw_comparison(rows, tmp_path / "rows.png", title="a title")
    draw_lines({"one": ((1, 2), (3.0, 4.0))}, tmp_path / "lines.png", title="t", across="x", up="y")
    assert png_size(tmp_path / "rows.png") == (1100, 836)
    assert png_size(tmp_path / "lines.png") == (1100, 484)


def test_a_plot_that_cannot_be_written_is_refused(tmp_path):
    """With its name."""
    with pytest.raises(ConfigError, match=r"none/x\.png cannot be written"):
        draw_lines({"one": ((1,), (1.0,))}, tmp_path / "none" / "x.png", title="", across="", up="")
