"""`tfrunner simulate`: what it reads, what it prints, how it refuses."""

from __future__ import annotations

import json
import logging

import pytest

from tfrunner.cli import main


class Outcome:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys, home):
    """Return a function that runs the command."""

    def call(*arguments: str) -> Outcome:
        handlers = logging.root.handlers[:]
        with pytest.raises(SystemExit) as ended:
            main(("simulate", *arguments))
        logging.root.handlers[:] = handlers
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(ended.value.code, captured.out, captured.err)

    return call


FAST = ("--model", "affine:4ms,1ms", "--max-batch-size", "8", "--requests", "300")


@pytest.fixture
def trace(tmp_path):
    """Return a recorded trace: four requests at once, every tenth of a second."""
    path = tmp_path / "trace.jsonl"
    lines = [{"time": 100 + salvo / 10, "rows": 1} for salvo in range(20) for _ in range(4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_policy_is_shown_with_its_numbers(run):
    """One row for each policy, and what was simulated above them."""
    done = run(*FAST, "--arrivals", "poisson:200", "--deadline", "100ms")
    assert done.code == 0
    assert "affine:4ms,1ms, 1 workers, 8 rows, 100ms" in done.out
    for name in ("tfrunner", "work-conserving", "static", "aimd", "cork", "deferred"):
        (line,) = (line for line in done.out.splitlines() if f" {name} " in line)
        assert line.split()[0] == "poisson:200" and line.count(" ms") == 3


def test_as_json_it_is_numbers(run):
    """In seconds and shares; what is not known is null."""
    done = run(
        *FAST, "--arrivals", "poisson:200", "--policy", "work-conserving", "--json",
        "--deadline", "5ms",
    )  # fmt: skip
    (row,) = json.loads(done.out)
    assert (row["arrivals"], row["policy"]) == ("poisson:200", "work-conserving")
    assert row["in_time"] == 0.0 and row["goodput"] == 0.0, "5.3 ms is the shortest"
    assert row["mean"] is None or row["mean"] > 0.005


def test_a_recorded_trace_is_played(run, trace):
    """All of it; the four of a salvo share a batch of 8 ms and 0.3 ms on the way."""
    done = run(str(trace), "--model", "affine:4ms,1ms", "--policy", "static:4,1ms", "--json")
    (row,) = json.loads(done.out)
    assert row["arrivals"] == "trace.jsonl"
    assert row["mean"] == pytest.approx(0.0083)
    assert row["rows"] == 4


def test_bars_and_a_plot_are_drawn(run, tmp_path):
    """The bars in the terminal, the plot in a file."""
    path = tmp_path / "plot.png"
    done = run(*FAST, "--arrivals", "poisson:200", "--chart", "--plot", str(path))
    assert "█" in done.out and "/s" in done.out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plan_says_how_many_workers(run, trace):
    """Two batches of two rows take 6.3 ms each: one worker needs 12.3 ms for a salvo."""
    common = (str(trace), "--model", "affine:4ms,1ms", "--plan", "--policy", "static:2")
    assert "1 worker keeps 13ms" in run(*common, "--p99", "13ms").out
    done = run(*common, "--p99", "7ms", "--json")
    assert json.loads(done.out)["workers"] == 2
    assert "takes 5.3 ms, more than the 5 ms" in run(*common, "--p99", "5ms").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param((), "say what comes", id="nothing comes"),
        pytest.param(("--arrivals", "lunar:1"), "are no arrivals", id="unknown arrivals"),
        pytest.param(("--arrivals", "poisson:9", "--policy", "x"), "no policy 'x'", id="policy"),
        pytest.param(("--arrivals", "poisson:9", "--workers", "0"), "--workers", id="no worker"),
        pytest.param(("--arrivals", "poisson:9", "--deadline", "0ms"), "--deadline", id="no time"),
        pytest.param(("--arrivals", "poisson:9", "--speeds", "1,-1"), "above 0", id="speed"),
        pytest.param(("--arrivals", "poisson:9", "--plan"), "--p99 50ms", id="plan of nothing"),
        pytest.param(("--arrivals", "poisson:9", "--p99", "1s"), "is for --plan", id="no plan"),
        pytest.param(("--arrivals", "trace:none"), "none cannot be read", id="no trace"),
        pytest.param(("--arrivals", "poisson:9", "--drift", "1s"), "no number", id="drift"),
    ],
)
def test_what_makes_no_sense_is_refused(run, arguments, message):
    """In one line, with exit code 1."""
    done = run("--model", "affine:1ms,0.1ms", *arguments)
    assert done.code == 1
    assert message in done.err and done.err.count("\n") == 1
    assert done.out == ""


def record(path, key: str):
    """Write a trace of requests of one batch key, one every tenth of a second."""
    lines = [{"time": moment / 10, "rows": 1, "key": key} for moment in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def learn(folder, *points) -> None:
    """Write a learned file of a model version."""
    folder.mkdir(parents=True)
    kept = {"format": 1, "model": "m:1", "device_class": "cpu"}
    methods = {"__call__": {"1": [list(point) for point in points]}}
    (folder / "cpu.json").write_text(json.dumps({**kept, "methods": methods}))


def test_a_recorded_model_is_simulated_as_it_was_learned(run, home, tmp_path):
    """No --model is needed: the trace names it, its learned file says what batches take."""
    trace = record(tmp_path / "t.jsonl", "m:1/__call__/00")
    learn(home / "learned" / "m" / "1", (1, 0.02, 0.001), (8, 0.05, 0.001))
    (row,) = json.loads(run(trace, "--policy", "work-conserving", "--json").out)
    assert row["mean"] == pytest.approx(0.0203)


def test_a_model_of_which_nothing_was_learned_must_be_described(run, tmp_path):
    """With its tag, and how."""
    done = run(record(tmp_path / "t.jsonl", "m:1/__call__/00"))
    assert done.code == 1 and "nothing was learned of m:1" in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[]", "is no learned file", id="no object"),
        pytest.param(
            '{"format": 99, "model": "m:1", "device_class": "", "methods": {}}',
            "has format 99",
            id="another format",
        ),
        pytest.param(
            '{"format": 1, "model": "m:1", "device_class": "", "methods": {}}',
            "knows nothing",
            id="empty",
        ),
        pytest.param(
            '{"format": 1, "model": "m:1", "device_class": "", "methods": {"f": {"1": [[1]]}}}',
            "is no learned file",
            id="broken table",
        ),
    ],
)
def test_a_learned_file_that_cannot_be_used_is_refused(run, tmp_path, text, message):
    """In one line with its name."""
    path = tmp_path / "learned.json"
    path.write_text(text)
    done = run("--arrivals", "poisson:9", "--model", f"learned:{path}")
    assert done.code == 1 and message in done.err and str(path) in done.err.replace("\n", "")


def test_a_model_must_be_named(run):
    """What a batch takes cannot be guessed."""
    done = run("--arrivals", "poisson:9")
    assert done.code == 1
    assert "--model affine:" in done.err
