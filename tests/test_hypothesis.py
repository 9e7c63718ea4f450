"""What a test of Hypothesis says when it fails, here and in CI: enough to see it again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROPERTY = """
from hypothesis import given, reproduce_failure, settings
from hypothesis import strategies as st


@given(st.integers())
@settings(max_examples=500)
def test_function(number):
    print("drew", number)
    assert number < 1000
"""
MACHINE = """
from hypothesis import reproduce_failure, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test


class Machine(RuleBasedStateMachine):
    @rule(number=st.integers())
    def add(self, number):
        print("drew", number)
        assert number < 1000


def test_machine():
    run_state_machine_as_test(Machine, settings=settings(max_examples=500))
"""
SAYS = r"(Failing test case|Falsifying example):\s*"  # the one of newer versions, of older ones


def run(folder: Path, text: str, ci: str) -> str:
    """Return what a run of a failing test prints, with the settings of our conftest.py."""
    (folder / "test_failing.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "test_failing.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "CI": ci},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("ci", ["", "true"], ids=["here", "ci"])
@pytest.mark.parametrize(
    ("text", "says", "first"),
    [(PROPERTY, r"test_function\(", "@given"), (MACHINE, "", "class")],
    ids=["property", "machine"],
)
def test_a_failure_prints_its_example_and_how_to_see_it_again(
    tmp_path: Path, text: str, says: str, first: str, ci: str
) -> None:
    """The printed line, put where it says, fails with the very example, at once."""
    printed = run(tmp_path, text, ci)
    assert re.search(SAYS + says, printed)
    assert "number=1000" in printed
    found = re.search(r"@reproduce_failure\(.*?\)", printed)
    assert found is not None
    again = run(tmp_path, text.replace(first, f"{found[0]}\n{first}", 1), ci)
    assert set(re.findall(r"^drew (\S+)", again, re.MULTILINE)) == {"1000"}


def test_ci_draws_new_examples_in_every_run(tmp_path: Path) -> None:
    """Else a failure that one run in three would find is never found."""
    (one, other) = (re.findall(r"^drew (\S+)", run(tmp_path, PROPERTY, "true"), re.M) for _ in "ab")
    assert one and other and one != other
