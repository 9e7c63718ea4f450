"""docs/features.md: every row of it names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "features.md"
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+)::(\w+)`")
ROWS = {int(number): proof for number, _, proof in ROW.findall(PAGE.read_text())}


def test_the_rows_are_numbered_without_gaps() -> None:
    """From 1 to 33 at least."""
    assert list(ROWS) == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 33


@pytest.mark.parametrize("number", ROWS)
def test_the_tests_of_a_row_exist(number: int) -> None:
    """By file and name."""
    named = TEST.findall(ROWS[number])
    assert named
    for file, name in named:
        tree = ast.parse((TESTS / f"{file}.py").read_text())
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in [node.name for node in tree.body if isinstance(node, kinds)]
