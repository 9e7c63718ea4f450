"""How new api processes take the place of old ones: the rules, in virtual time."""

from __future__ import annotations

import signal

import pytest

from tests.test_supervisor import World, signalled, started
from tfrunner.supervisor import events as e


def test_new_api_processes_begin_before_the_old_ones_end() -> None:
    """And only when all of them answer."""
    world = World()
    world.step()
    assert started(world.step(e.Renew(("api-1",)))) == ["api-1-1"]
    assert signalled(world.step(after=5.0)) == []
    assert signalled(world.step(e.Renewed())) == [("api-0", signal.SIGTERM)]
    world.step(e.Exited("api-0", 0))
    assert "api-0" not in world.core.slots
    assert started(world.step(after=60.0)) == []
    assert started(world.step(e.Exited("api-1", -9), after=1.0)) == []
    assert started(world.step(after=1.0)) == ["api-1-2"]


def test_an_old_one_that_does_not_end_is_killed() -> None:
    """When the time that it has for its answers is over, and once."""
    world = World(grace=5.0)
    world.step()
    world.step(e.Renew(("api-1",)))
    assert signalled(world.step(e.Renewed())) == [("api-0", signal.SIGTERM)]
    assert signalled(world.step(after=6.9)) == []
    assert world.core.next_wakeup() <= world.now + 0.11
    assert signalled(world.step(after=0.2)) == [("api-0", signal.SIGKILL)]
    assert signalled(world.step(after=10.0)) == []
    world.step(e.Exited("api-0", -9))
    assert set(world.core.slots) == {"dispatcher", "api-1", "worker-0"}


def test_one_that_ends_in_time_is_not_killed() -> None:
    """Nor is anybody else for its sake."""
    world = World(grace=5.0)
    world.step()
    world.step(e.Renew(("api-1",)))
    world.step(e.Renewed())
    world.step(e.Exited("api-0", 0))
    assert signalled(world.step(after=60.0)) == []


def test_one_that_ends_already_is_not_asked_again() -> None:
    """By a further change or the server's end: a second signal would cut its answers off."""
    world = World()
    world.step()
    world.step(e.Renew(("api-1",)))
    world.step(e.Renewed())
    world.step(e.Renew(("api-2",)))
    assert signalled(world.step(e.Renewed())) == [("api-1", signal.SIGTERM)]
    assert signalled(world.step(e.StopAsked(15))) == [("api-2", signal.SIGTERM)]


@pytest.mark.parametrize("code", [2, 1, -9], ids=["configuration", "failed", "killed"])
def test_a_new_one_that_ends_before_it_answers_changes_nothing(code: int) -> None:
    """The server does not end for it, nor is it started again."""
    world = World()
    world.step()
    world.step(e.Renew(("api-1", "api-2")))
    actions = world.step(e.Exited("api-1", code))
    assert signalled(actions) == [("api-2", signal.SIGTERM)]
    (report,) = [each for each in actions if isinstance(each, e.Report)]
    assert report.text.startswith("the change is not served: api-1-1 ended")
    world.step(e.Exited("api-2", 0))
    assert set(world.core.slots) == {"dispatcher", "api-0", "worker-0"}
    assert started(world.step(e.Renewed(), after=60.0)) == []
    assert world.core.exit_code == 0


def test_a_change_that_overtakes_another_replaces_it() -> None:
    """The processes that are not there yet are not waited for."""
    world = World()
    world.step()
    world.step(e.Renew(("api-1",)))
    actions = world.step(e.Renew(("api-2",)))
    assert (signalled(actions), started(actions)) == ([("api-1", signal.SIGTERM)], ["api-2-1"])
    world.step(e.Exited("api-1", -15))
    assert signalled(world.step(e.Renewed())) == [("api-0", signal.SIGTERM)]


def test_a_server_that_ends_takes_up_no_change() -> None:
    """And its new processes end with the others."""
    world = World()
    world.step()
    world.step(e.Renew(("api-1",)))
    assert signalled(world.step(e.StopAsked(15)))[:2] == [("api-0", 15), ("api-1", 15)]
    assert started(world.step(e.Renew(("api-2",)))) == []
