"""Whether and when a call is made again: the rules, told the time."""

from __future__ import annotations

import random
from time import monotonic

import pytest

from tests.waiting import wait_for
from tfrunner.attempts import Attempts, repeat
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    Overloaded,
    TFRunnerError,
    Unavailable,
    WorkerLost,
)


def attempts(*, draw: float = 1.0, is_repeatable: bool = True, **options: object) -> Attempts:
    """Return the attempts of a call that ends at 10 s."""
    made = Attempts(10.0, now=0.0, draw=lambda: draw, **options)
    made.is_repeatable = is_repeatable
    return made


def test_pauses_leave_the_random_numbers_of_users_alone():
    """Whoever seeds them draws the same as before; clients that seed alike do not meet again."""
    pauses = []
    for _ in range(2):
        random.seed(7)
        pauses.append(Attempts(10.0, now=0.0).pause(Unavailable("x"), 0.0))
        drawn = random.random()
        random.seed(7)
        assert random.random() == drawn
    assert pauses[0] != pauses[1]


@pytest.mark.parametrize(
    ("error", "may_have_run", "once", "any_method"),
    [
        (Overloaded("full"), False, True, True),
        (Unavailable("starting"), False, True, True),
        (WorkerLost("died"), False, False, True),
        (Unavailable("cut off"), True, False, True),
        (ModelError("raised"), False, False, False),
        (InvalidInput("wrong"), False, False, False),
        (DeadlineExceeded("late"), False, False, False),
    ],
    ids=["full", "starting", "worker lost", "cut off", "model", "input", "deadline"],
)
def test_what_is_repeated(error, may_have_run, once, any_method):
    """What was certainly not begun always, what may have run only if it may run twice."""
    for is_repeatable, expected in ((False, once), (True, any_method)):
        made = attempts(is_repeatable=is_repeatable)
        made.may_have_run = may_have_run
        assert (made.pause(error, 0.0) is not None) is expected
    made = attempts(is_enabled=False)
    assert made.pause(error, 0.0) is None


def test_pauses_double_up_to_a_second_and_are_spread():
    """Many callers do not come back at the same moment."""
    slow, quick = attempts(draw=1.0), attempts(draw=0.0)
    assert [slow.pause(Unavailable("x"), 0.0) for _ in range(7)] == [
        *(0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)
    ]
    assert [quick.pause(Unavailable("x"), 0.0) for _ in range(3)] == [0.025, 0.05, 0.1]


@pytest.mark.parametrize(("draw", "pause"), [(0.0, 2.0), (1.0, 2.5)])
def test_a_server_that_says_when_is_not_asked_before(draw, pause):
    """Retry-After is the least pause."""
    assert attempts(draw=draw).pause(Overloaded("full", retry_after=2.0), 0.0) == pause


def test_nothing_is_tried_after_the_deadline():
    """The last error is what the caller gets, at once."""
    assert attempts().pause(Overloaded("full", retry_after=2.0), 7.9) is None
    assert attempts().pause(Unavailable("x"), 9.96) is None


def test_an_attempt_that_would_have_no_time_is_not_made():
    """It could only hide the last error behind a DeadlineExceeded."""
    assert attempts().pause(Unavailable("x"), 9.91) is None
    assert attempts().pause(Unavailable("x"), 9.89) == 0.05


def test_a_pause_that_outlasts_the_deadline_changes_nothing_about_the_error():
    """A busy machine: nothing was sent again, so the refusal is what the call came to."""
    made = Attempts(1.0, now=monotonic(), draw=lambda: 0.0)
    refusal = Overloaded("the queue is full")

    def act(left: float) -> None:
        raise refusal

    with pytest.raises(Overloaded) as caught:
        repeat(made, act, sleep=lambda seconds: wait_for(lambda: monotonic() > made.deadline))
    assert caught.value is refusal


def test_a_server_that_was_never_met_is_waited_for_less_long():
    """There may never be one."""
    made = attempts(patience=3.0)
    made.is_alone = True
    assert made.pause(Unavailable("nobody"), 3.0) is None
    assert made.pause(Unavailable("nobody"), 2.0) is not None
    assert made.pause(Overloaded("somebody"), 3.0) is not None


def test_a_late_end_names_what_failed_before():
    """DeadlineExceeded alone would hide why."""
    made = attempts()
    made.pause(Overloaded("the queue is full", request_id="r-1"), 0.0)
    outcome = made.outcome(DeadlineExceeded("no answer within 10 s"))
    assert outcome.message == (
        "no answer within 10 s; the attempt before failed: the queue is full"
    )
    assert outcome.request_id == "r-1"


def test_repeat_returns_the_first_success_or_raises_the_last_error():
    """Between attempts it sleeps."""
    errors: list[TFRunnerError] = [Unavailable("one"), Unavailable("two")]
    slept: list[float] = []

    def act(left: float) -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    def again() -> Attempts:
        return Attempts(float("inf"), now=0.0, draw=lambda: 1.0)

    assert repeat(again(), act, sleep=slept.append) == "done"
    assert slept == [0.05, 0.1]
    errors += [Unavailable("three"), ModelError("four")]
    with pytest.raises(ModelError, match="four"):
        repeat(again(), act, sleep=slept.append)
