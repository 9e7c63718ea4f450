"""Slots: what is taken never overlaps, what is given back can be taken again, nothing is lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tfrunner.shared_memory_slots import GRAIN, Slots

SIZE = 64 * GRAIN


class SlotsMachine(RuleBasedStateMachine):
    """Takes and gives back, and compares with a plain set of pages."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(SIZE)
        self.pages: dict[int, set[int]] = {}

    @rule(target=taken, length=st.integers(1, SIZE + GRAIN))
    def take(self, length):
        """A slot is the lowest run of free pages that is long enough."""
        needed = -(-length // GRAIN)
        busy = set().union(*self.pages.values())
        free = [
            first
            for first in range(SIZE // GRAIN - needed + 1)
            if busy.isdisjoint(range(first, first + needed))
        ]
        offset = self.slots.take(length)
        assert offset == (free[0] * GRAIN if free else None)
        if offset is not None:
            self.pages[offset] = set(range(offset // GRAIN, offset // GRAIN + needed))
        return offset

    @rule(offset=consumes(taken))
    def give_back(self, offset):
        """What was taken is free again."""
        if offset is not None:
            self.slots.give_back(offset)
            del self.pages[offset]

    @invariant()
    def free_and_taken_make_the_whole(self):
        """The free ranges are the pages that nobody has, and do not touch each other."""
        busy = set().union(*self.pages.values())
        free = self.slots.free
        pages = {page for a, b in free for page in range(a // GRAIN, b // GRAIN)}
        assert pages == set(range(SIZE // GRAIN)) - busy
        assert all(one[1] < two[0] for one, two in itertools.pairwise(free))
        assert self.slots.used == len(busy) * GRAIN


def test_slots_never_overlap_and_none_is_lost():
    """Any order of taking and giving back."""
    run_state_machine_as_test(
        SlotsMachine, settings=settings(max_examples=150, stateful_step_count=60, deadline=None)
    )


def test_a_slot_is_given_back_once():
    """A second time is a bug of ours, and raises."""
    slots = Slots(SIZE)
    offset = slots.take(1)
    slots.give_back(offset)
    with pytest.raises(KeyError):
        slots.give_back(offset)
    assert repr(slots) == f"<Slots [0 taken | 0 of {SIZE} bytes]>"
