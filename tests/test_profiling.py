"""The profile's table: steps of a request from the notes of several processes."""

from __future__ import annotations

import pytest

from benchmarks.profiling import Notes, table

STEPS = (("begin", "client", "send"), ("there", "server", "think"), ("back", "client", "read"))


def notes(*begins: int) -> Notes:
    """Return what requests that began at these moments leave: 10, 20 and 30 us a step."""
    return sorted(note for at in begins for note in ((at + 10_000, "there"), (at + 30_000, "back")))


def test_the_steps_of_a_request_end_where_the_next_begins() -> None:
    """In microseconds, with their share of the whole."""
    windows = [(at, at + 60_000) for at in (0, 100_000, 200_000)]
    lines = table(STEPS, windows, notes(0, 100_000, 200_000)).splitlines()
    assert lines[2:] == [
        "| client | send | 10 | 17% |",
        "| server | think | 20 | 33% |",
        "| client | read | 30 | 50% |",
        "| **whole** | 3 requests | 60 | |",
    ]


def test_a_request_with_other_notes_between_is_left_out() -> None:
    """A Hello, for example; several notes of one step count once."""
    windows = [(at, at + 60_000) for at in (0, 100_000, 200_000)]
    found = notes(0, 100_000, 200_000)
    strange = sorted([*found, (105_000, "back"), (11_000, "there")])
    assert "| **whole** | 2 requests | 60 | |" in table(STEPS, windows, strange)


def test_notes_that_are_missing_are_an_error() -> None:
    """A table of nothing would look like a result."""
    with pytest.raises(RuntimeError, match="only 0 of 1 requests"):
        table(STEPS, [(0, 60_000)], [])
