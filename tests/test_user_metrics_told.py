"""What the dispatcher makes of users' own metrics: told by several processes, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dispatch_world import World
from tfrunner.dispatcher.told import LATE_SECONDS, MOST_SETS, Told
from tfrunner.protocol import Ask, Family, Processes, Reading, Report, Status

SEEN = Family("seen", "counter", "Seen.", ("kind",))
OPEN = Family("open", "gauge", "Open.")


def report(process: str, family: Family, *readings: Any, epoch: str = "e") -> Report:
    """Return a report of one metric: (values, numbers) or (values, numbers, age)."""
    found = tuple(Reading(0, *each) for each in readings)
    return Report(process, epoch, (family,), found)


class Book:
    """The dispatcher's book of users' metrics, and the moment."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.told = Told(self.notes.append)
        self.now = 100.0

    def take(self, process: str, family: Family, *readings: Any) -> None:
        """Take in a report."""
        self.told.take(report(process, family, *readings), self.now)

    def live(self, *names: str, later: float = 0.0) -> None:
        """Let the supervisor say which processes there are."""
        self.now += later
        self.told.attend(names, self.now)

    def samples(self, name: str) -> dict[tuple[str, ...], tuple[float, ...]]:
        """Return what `/metrics` would show of a metric."""
        (found,) = (each for each in self.told.as_data() if each["name"] == name)
        return dict(found["samples"])


def test_counters_are_sums_of_the_newest_reports_of_all_processes() -> None:
    """A report that comes twice, or after one that was lost, is right all the same."""
    book = Book()
    book.take("a", SEEN, (("cat",), (1.0,)), (("dog",), (5.0,)))
    book.take("b", SEEN, (("cat",), (10.0,)))
    book.take("a", SEEN, (("cat",), (4.0,)))
    book.take("a", SEEN, (("cat",), (4.0,)))
    assert book.samples("seen") == {("cat",): (14.0,), ("dog",): (5.0,)}


def test_what_a_process_has_counted_outlives_it() -> None:
    """Before it is noticed, after it, and once its place is somebody else's."""
    book = Book()
    book.take("api-0-1", SEEN, (("cat",), (3.0,)))
    book.live("api-0-1")
    book.live()
    assert book.samples("seen") == {("cat",): (3.0,)}
    book.take("api-0-1", SEEN, (("cat",), (4.0,)))  # on its way when it died
    book.take("api-0-2", SEEN, (("cat",), (1.0,)))
    book.live("api-0-2", later=LATE_SECONDS + 1)
    assert book.samples("seen") == {("cat",): (5.0,)}
    assert repr(book.told) == "<Told [1 metrics | 1 processes]>"
    book.take("api-0-2", SEEN, (("cat",), (2.0,)))
    assert book.samples("seen") == {("cat",): (6.0,)}


def test_histograms_and_summaries_are_added_number_by_number() -> None:
    """Buckets stay what they are."""
    book = Book()
    sizes = Family("sizes", "histogram", "Sizes.", (), (1.0, 2.0))
    book.take("a", sizes, ((), (1.0, 0.0, 2.0, 30.5)))
    book.take("b", sizes, ((), (0.0, 4.0, 1.0, 10.0)))
    book.live("a", "b")
    book.live("b")
    book.live("b", later=LATE_SECONDS + 1)
    assert book.samples("sizes") == {(): (1.0, 4.0, 3.0, 40.5)}


@pytest.mark.parametrize(
    ("rule", "both", "after"),
    [("sum", 7.0, 2.0), ("max", 5.0, 2.0), ("min", 2.0, 2.0), ("last", 5.0, 5.0)],
)
def test_a_gauge_follows_its_rule_over_those_who_live(rule: Any, both: float, after: float) -> None:
    """A dead process counts no more, but for the last that was said."""
    book = Book()
    gauge = Family("open", "gauge", "Open.", (), (), rule)
    book.take("a", gauge, ((), (5.0,), 1.0))
    book.take("b", gauge, ((), (2.0,), 3.0))  # comes later, and was set earlier
    book.live("a", "b")
    assert book.samples("open") == {(): (both,)}
    book.live("b")
    assert book.samples("open") == {(): (after,)}
    book.live("b", later=LATE_SECONDS + 1)
    assert book.samples("open") == {(): (after,)}


def test_a_process_that_the_supervisor_has_not_named_yet_is_not_gone() -> None:
    """A new one may report before the supervisor's next list."""
    book = Book()
    book.live("other")
    book.take("new", OPEN, ((), (1.0,)))
    book.live("other", later=LATE_SECONDS + 1)
    book.live("other", later=LATE_SECONDS + 1)
    assert book.samples("open") == {(): (1.0,)}


def test_a_process_that_dies_right_after_its_first_report_is_gone() -> None:
    """It was named before it told anything; its gauges count no more, and its place is free."""
    book = Book()
    book.live("a", "b")
    book.take("a", OPEN, ((), (1.0,)))
    book.take("b", OPEN, ((), (2.0,)))
    book.live("b", later=1.0)
    assert book.samples("open") == {(): (2.0,)}
    book.live("b", later=LATE_SECONDS + 1.0)
    book.live("b", later=LATE_SECONDS + 1.0)
    assert repr(book.told) == "<Told [1 metrics | 1 processes]>"


def test_declarations_that_differ_are_noted_once_and_left_out() -> None:
    """The first one counts."""
    book = Book()
    book.take("a", SEEN, (("cat",), (1.0,)))
    for _ in range(3):
        book.take("b", Family("seen", "counter", "Seen.", ("sort",)), (("cat",), (1.0,)))
    assert book.samples("seen") == {("cat",): (1.0,)}
    (note,) = book.notes
    assert "'seen' is declared in two ways" in note


def test_label_sets_of_all_processes_together_are_bounded() -> None:
    """Each process may be within its bound, and all together beyond it."""
    book = Book()
    book.take("a", SEEN, *(((f"a{each}",), (1.0,)) for each in range(MOST_SETS - 1)))
    book.take("b", SEEN, *(((f"b{each}",), (1.0,)) for each in range(5)))
    book.take("b", SEEN, (("b0",), (7.0,)), (("a0",), (2.0,)))
    found = book.samples("seen")
    assert len(found) == MOST_SETS
    assert (found["b0",], found["a0",]) == ((7.0,), (3.0,))
    (note,) = book.notes
    assert "gets no more: ('b1',)" in note


@pytest.mark.parametrize(
    "reading",
    [Reading(1, ("x",), (1.0,)), Reading(0, (), (1.0,)), Reading(0, ("x",), (1.0, 2.0))],
    ids=["no such metric", "labels", "numbers"],
)
def test_what_does_not_fit_its_declaration_is_left_out(reading: Reading) -> None:
    """A peer may say anything."""
    book = Book()
    book.told.take(Report("a", "e", (SEEN,), (reading,)), 0.0)
    assert book.samples("seen") == {}


def test_the_core_tells_only_who_asks_and_takes_no_report_for_another_epoch() -> None:
    """/readyz is asked often, and needs none of it."""
    world = World()
    core = world.core
    core.handle(b"a", report("a", OPEN, ((), (1.0,)), epoch=core.epoch), 0.0)
    core.handle(b"a", report("a", OPEN, ((), (9.0,)), epoch="earlier"), 0.0)
    core.handle(b"a", Ask(1), 0.0)
    core.handle(b"a", Ask(2, told=True), 0.0)
    states = [s.message.state for s in core.step(0.0) if isinstance(s.message, Status)]
    assert "told" not in states[0]
    assert states[1]["told"][0]["samples"] == [((), (1.0,))]
    core.handle(b"supervisor", Processes(({"name": "a"},)), 0.0)
    core.handle(b"supervisor", Processes(()), 1.0)
    core.handle(b"a", Ask(3, told=True), 1.0)
    (state,) = [s.message.state for s in core.step(1.0) if isinstance(s.message, Status)]
    assert state["told"][0]["samples"] == []
