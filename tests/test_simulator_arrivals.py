"""When simulated requests come: the rates that are promised, and recorded traces read back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tfrunner import protocol as p
from tfrunner.dispatcher.recorder import Recorder
from tfrunner.errors import ConfigError
from tfrunner.simulator.arrivals import Bursts, Diurnal, Mixed, Poisson, Recorded, Step
from tfrunner.simulator.traces import of_times, read_trace


def rng(seed: int = 0) -> np.random.Generator:
    """Return a fresh source of chance."""
    return np.random.default_rng(seed)


def between(times: np.ndarray, start: float, end: float) -> float:
    """Return the arrivals per second between two moments."""
    return float(((times >= start) & (times < end)).sum() / (end - start))


@pytest.mark.parametrize(
    ("arrivals", "rate"),
    [
        pytest.param(Poisson(1000.0), 1000.0, id="poisson"),
        pytest.param(Bursts(500.0, 2500.0, 0.3, 0.1), 1000.0, id="bursts"),
        pytest.param(Diurnal(1000.0, 0.8, 10.0), 1000.0, id="diurnal"),
        pytest.param(Step(1000.0, 1000.0, 7.0), 1000.0, id="step of nothing"),
    ],
)
def test_arrivals_keep_their_mean_rate_and_their_order(arrivals, rate):
    """A hundred thousand requests: the rate is met within three per cent."""
    trace = arrivals.draw(100_000, rng())
    assert len(trace) == 100_000
    assert (np.diff(trace.times) >= 0).all() and trace.times[0] > 0
    assert len(trace) / trace.seconds == pytest.approx(rate, rel=0.03)
    assert set(trace.rows.tolist()) == {1}


def test_gaps_of_poisson_arrivals_are_exponential():
    """Their standard deviation equals their mean; a share of 1/e is longer than it."""
    gaps = np.diff(Poisson(200.0).draw(100_000, rng()).times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), rel=0.02)


def test_bursts_have_two_rates():
    """Counted in short windows they spread far wider than Poisson arrivals of the same rate."""
    bursts = Bursts(500.0, 2500.0, 0.3, 0.1)
    counts = np.bincount((bursts.draw(100_000, rng()).times / 0.05).astype(int))
    steady = np.bincount((Poisson(bursts.rate).draw(100_000, rng()).times / 0.05).astype(int))
    assert bursts.rate == 1000.0
    assert counts.var() > 10 * steady.var()
    assert np.median(counts) == pytest.approx(500 * 0.05, rel=0.2)


def test_a_step_changes_the_rate_at_its_moment():
    """Before and after it the rates are as told."""
    times = Step(1000.0, 4000.0, 10.0).draw(50_000, rng()).times
    assert between(times, 0, 10) == pytest.approx(1000, rel=0.05)
    assert between(times, 10, 19) == pytest.approx(4000, rel=0.05)


def test_a_day_has_its_noon_and_its_night():
    """At a quarter of the period the rate is highest, at three quarters lowest."""
    times = Diurnal(1000.0, 0.8, 20.0).draw(60_000, rng()).times
    assert between(times, 4, 6) == pytest.approx(1800, rel=0.05)
    assert between(times, 14, 16) == pytest.approx(200, rel=0.15)
    assert between(times, 24, 26) == pytest.approx(1800, rel=0.05)


def test_the_same_seed_draws_the_same_requests():
    """And another one does not."""
    one, same, other = (Poisson(10.0).draw(100, rng(seed)).times for seed in (1, 1, 2))
    assert (one == same).all() and not (one == other).any()


def test_mixed_arrivals_differ_in_rows_keys_and_clients():
    """Each is drawn evenly from its range, the moments are those of the arrivals."""
    trace = Mixed(Poisson(10.0), 2, 5, keys=3, clients=4).draw(10_000, rng())
    assert (trace.times == Poisson(10.0).draw(10_000, rng()).times).all()
    for drawn, values in ((trace.rows, range(2, 6)), (trace.keys, range(3))):
        counts = np.bincount(drawn)[list(values)]
        assert counts.sum() == 10_000
        assert counts.min() > 0.9 * counts.max()
    assert set(trace.clients.tolist()) == {0, 1, 2, 3}


def test_a_recorded_trace_is_played_as_it_was_or_faster():
    """As many requests as asked for, or as there are."""
    trace = of_times(np.array([0.0, 1.0, 3.0]))
    assert Recorded(trace).draw(2, rng()).times.tolist() == [0.0, 1.0]
    assert Recorded(trace, speed=2.0).draw(9, rng()).times.tolist() == [0.0, 0.5, 1.5]


# --- recording ------------------------------------------------------------------------------


def request(number: int, *, rows: int = 1, client: str = "", layout: bytes = b"L") -> p.Request:
    """Return a request whose body and client must not be found in a recording."""
    body = b"secret body"
    return p.Request(number, "m:1", "__call__", layout, rows, 60.0, client, (body,))


def test_what_was_recorded_is_read_back(tmp_path):
    """Times, rows, keys and clients; nothing of the contents, no client's name."""
    path = tmp_path / "trace.jsonl"
    recorder = Recorder(str(path))
    recorder.open()
    assert (
        recorder.record([request(1, client="key-1"), request(2, rows=3, layout=b"M")], 50.0) == ""
    )
    assert recorder.record([request(3, client="key-1")], 50.25) == ""
    recorder.close()
    trace = read_trace(path)
    assert trace.times.tolist() == [0.0, 0.0, 0.25]
    assert trace.rows.tolist() == [1, 3, 1]
    assert trace.keys.tolist() == [0, 1, 0]
    assert trace.clients.tolist() == [0, 1, 0]
    text = path.read_text()
    assert "key-1" not in text and "secret" not in text
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_are_written_in_good_time_and_whole(tmp_path):
    """After a second, or when there are many; a recording goes on where one ended."""
    path = tmp_path / "trace.jsonl"
    recorder = Recorder(str(path))
    recorder.open()
    recorder.record([request(1)], 10.0)
    assert path.read_bytes().count(b"\n") == 1, "the first line is written at once"
    recorder.record([request(2)], 10.5)
    assert path.read_bytes().count(b"\n") == 1
    recorder.record([request(3)], 11.0)
    assert path.read_bytes().count(b"\n") == 3
    recorder.record([request(number) for number in range(1000)], 11.1)
    assert path.read_bytes().count(b"\n") == 1003
    recorder.close()
    again = Recorder(str(path))
    again.open()
    again.record([request(1)], 12.0)
    again.close()
    assert len(read_trace(path)) == 1004


def test_a_full_disk_ends_the_recording_with_one_line():
    """Serving must go on: nothing is raised, and nothing more is tried."""
    recorder = Recorder("/dev/full")
    recorder.open()
    told = recorder.record([request(1)], 0.0) or recorder.record([request(2)], 2.0)
    assert told == "the recording in /dev/full ends: No space left on device"
    assert recorder.record([request(3)], 9.0) == ""
    recorder.close()


def test_a_file_that_cannot_be_written_is_refused_at_start(tmp_path):
    """With its name and the reason."""
    with pytest.raises(ConfigError, match=r"nowhere/t\.jsonl: No such file"):
        Recorder(str(tmp_path / "nowhere" / "t.jsonl")).open()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is empty", id="nothing"),
        pytest.param('{"time": 1.0}\n{"time": "x"}\n', "line 2 is no request", id="no number"),
        pytest.param('{"rows": 1}\n', "line 1 is no request", id="no time"),
        pytest.param("\x00\n", "line 1 is no request", id="no JSON"),
        pytest.param('{"time": 1.0, "rows": 0}\n', "line 1 has 0 rows", id="no rows"),
        pytest.param('{"time": 2.0}\n{"time": 1.0}\n', "line 2 is earlier", id="not in order"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path, text, message):
    """With the line and what is wrong with it."""
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_trace(path)


def test_a_trace_that_is_not_there_is_refused(tmp_path):
    """With its name."""
    with pytest.raises(ConfigError, match="none"):
        read_trace(tmp_path / "none")


def test_a_part_of_a_trace_keeps_its_requests_whole():
    """Rows, keys and clients are cut with the times."""
    trace = replace(of_times(np.arange(3.0)), rows=np.array([4, 5, 6]))
    assert (len(trace.first(2)), trace.first(2).rows.tolist()) == (2, [4, 5])
