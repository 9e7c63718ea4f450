"""Looks at connections at given moments: who is given up, and when nobody is."""

from __future__ import annotations

from http import HTTPStatus

from tfrunner.api.connection import Activity, Seen
from tfrunner.api.state import ProcessState
from tfrunner.api.watch import SLICE, STILL_SECONDS, Watch
from tfrunner.config import Bounds
from tfrunner.errors import TFRunnerError

TICK = 0.1
LIMIT = 2.0  # so that a round comes every half of a second


class Transport:
    """Has nothing to write."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are unsent."""
        return 0


class Receiving:
    """A connection whose request never becomes whole."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.messages = 0
        self.received = 0
        self.is_surplus = False
        self.transport = Transport()
        self.refusals: list[TFRunnerError] = []

    def activity(self) -> Activity:
        """Return what it does."""
        return Activity.RECEIVING

    def refuse(self, error: TFRunnerError, status: HTTPStatus) -> None:
        """Note that it was given up."""
        self.refusals.append(error)


class World:
    """A watch over some connections, and the moment of its last look."""

    def __init__(self, count: int = 1) -> None:
        state = ProcessState(Bounds(receive_timeout=LIMIT), count=lambda name, label: None)
        self.connections = [Receiving() for _ in range(count)]
        state.connections.update(self.connections)  # type: ignore[arg-type]
        self.watch = Watch(state)
        self.now = 1000.0
        self.watch.look(self.now)

    def pass_time(self, seconds: float, every: float = TICK) -> None:
        """Look again and again."""
        for _ in range(round(seconds / every)):
            self.now += every
            self.watch.look(self.now)

    def given_up(self) -> int:
        """Return how many connections were."""
        return sum(bool(each.refusals) for each in self.connections)


def test_who_sends_nothing_is_given_up_after_the_limit() -> None:
    """With the first round after it."""
    world = World()
    world.pass_time(LIMIT - TICK)
    assert world.given_up() == 0
    world.pass_time(LIMIT / 4 + 2 * TICK)
    assert world.given_up() == 1


def test_who_goes_on_after_the_machine_stood_still_is_not_given_up() -> None:
    """The clients stood still with it; the next round comes when they have had time."""
    world = World()
    world.pass_time(1.0)
    world.pass_time(LIMIT, every=LIMIT)
    world.pass_time(LIMIT / 4 - 2 * TICK)
    assert world.given_up() == 0
    world.connections[0].received += 10**6
    world.pass_time(LIMIT - TICK)
    assert world.given_up() == 0


def test_who_does_not_go_on_then_is_given_up_with_the_next_round() -> None:
    """Nobody gets more than one round for it."""
    world = World()
    world.pass_time(LIMIT, every=LIMIT)
    assert world.given_up() == 0
    world.pass_time(LIMIT / 4 + TICK)
    assert world.given_up() == 1


def test_a_process_that_always_looks_late_judges_all_the_same() -> None:
    """Else nobody would be given up by a server that is too busy."""
    world = World()
    world.pass_time(2 * LIMIT, every=STILL_SECONDS + TICK)
    assert world.given_up() == 1


def test_a_round_of_many_connections_takes_several_looks() -> None:
    """All of them are seen."""
    world = World(2 * SLICE + 1)
    world.pass_time(LIMIT + LIMIT / 4 + 4 * TICK)
    assert world.given_up() == 2 * SLICE + 1
