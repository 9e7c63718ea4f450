"""The measurements of the performance guide: tables, places in the page, arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.guide import PARTS, replace
from benchmarks.guide_timing import COUNTED_CALLS, FEWEST_TURNS, WARM_CALLS, table, take_turns

PAGE = Path(__file__).parent.parent / "docs" / "guide.md"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_place_in_the_page(part: str) -> None:
    """And putting a table there changes nothing else."""
    page = PAGE.read_text()
    changed = replace(page, part, "| new |")
    before, _, rest = changed.partition(f"<!-- measured {part}: begin -->\n\n| new |\n\n")
    assert page.startswith(before)
    assert page.endswith(rest)
    assert rest.startswith(f"<!-- measured {part}: end -->")


def test_a_page_without_the_place_is_refused() -> None:
    """With the mark that it lacks."""
    with pytest.raises(ValueError, match="measured xla: begin"):
        replace("# A page", "xla", "| new |")


def test_calls_take_turns() -> None:
    """Several calls each, in the same order every time; each name has a time and a ratio."""
    made: list[str] = []
    timed = take_turns({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, seconds=0)
    turn = WARM_CALLS + COUNTED_CALLS
    assert made == (["a"] * turn + ["b"] * turn) * FEWEST_TURNS
    assert timed["a"].gain == 1.0
    assert timed["b"].median > 0


def test_a_table_has_a_line_for_each_row() -> None:
    """In markdown."""
    assert table(["x", "y"], [["1", "2"]]) == "| x | y |\n| --- | --- |\n| 1 | 2 |"
