"""The demo: what `scripts/launch` does, and that its check can fail."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from tests.leftovers import run_directories
from tfrunner.demo import ROUNDS, Digits, Measured, batch_table, is_equal, quantiles, report

ANSWERS = np.float32([[0.9, 0.1], [0.2, 0.8]])
DIGITS = Digits("digits:1", np.zeros((2, 1), "float32"), np.int64([0, 1]), ANSWERS)


def measured(answers: np.ndarray) -> list[Measured]:
    """Return answers as the demo collects them."""
    return [Measured("HTTP", np.tile(answers, (ROUNDS, 1)), np.ones(2 * ROUNDS), 2.0)]


def test_equal_answers_pass(capsys):
    """Every answer is the one in-process."""
    assert report(DIGITS, measured(ANSWERS), {1: 4, 2: 1})
    assert "6/6" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [ANSWERS[::-1], ANSWERS + 1e-3, np.where(ANSWERS == 0.9, np.nan, ANSWERS)],
    ids=["rows of another", "other numbers", "nan"],
)
def test_other_answers_fail(wrong, capsys):
    """A swapped row, a number that is a little off, or no number at all."""
    assert not report(DIGITS, measured(wrong.astype("float32")), {1: 6})
    assert "answers differ" in capsys.readouterr().out


def test_answers_of_the_same_digit_may_differ_by_rounding():
    """Batches of other sizes add up in another order."""
    assert is_equal(ANSWERS + np.float32(1e-6), ANSWERS).all()


def test_batch_sizes_are_shown_in_powers_of_two_and_fit_a_narrow_terminal():
    """Whatever sizes there were; nothing is left out."""
    table = batch_table({rows: 1 for rows in range(1, 65)})
    assert [column.header for column in table.columns] == [
        *("rows in a batch", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64")
    ]
    counts = [next(iter(column.cells)) for column in table.columns]
    assert counts == ["batches", "1", "1", "2", "4", "8", "16", "32"]
    assert Console(width=80).measure(table).maximum <= 80


def test_quantiles_are_times_that_were_measured():
    """No interpolation between two requests."""
    assert quantiles(np.arange(1, 101) / 1000) == [0.051, 0.1]


@pytest.mark.tensorflow
def test_the_demo_trains_once_serves_and_agrees_with_itself(home, run_root):
    """Exit code 0; the second run does not train; nothing is left."""
    command = [sys.executable, "-m", "tfrunner", "demo", "--check-only"]
    outcomes = [
        subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
        for _ in range(2)
    ]
    for outcome in outcomes:
        assert outcome.returncode == 0, outcome.stderr[-3000:]
        assert outcome.stdout.count("1350/1350") == 2
        assert not re.search(r"absl::|^[IWE]\d{4} ", outcome.stderr, re.M), outcome.stderr[-3000:]
    assert ["epoch 1 of" in outcome.stderr for outcome in outcomes] == [True, False]
    assert run_directories(run_root) == []
