"""New api processes that take the place of the old ones, when users' modules have changed. Pure.

The old ones go on until all new ones answer, and then end as at the end of a server: each
answers what it has. A new one that ends before changes nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from tfrunner.supervisor.events import Action, Report, Signal
from tfrunner.supervisor.slots import API, Slot
from tfrunner.supervisor.states import ChildState, Phase

Slots = dict[str, Slot]


class Succession:
    """Who of the api processes is new and does not answer yet.

    Attributes:
        heirs: The names of their slots.
    """

    def __init__(self) -> None:
        self.heirs: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<Succession [{len(self.heirs)} heirs]>"

    def begin(self, slots: Slots, names: Sequence[str], phase: Phase) -> list[Action]:
        """Add the slots of new api processes; those that were new before are new no more."""
        if phase is not Phase.SERVING:
            return []
        actions = self._drop(slots)
        self.heirs = frozenset(names)
        for name in names:
            slots[name] = Slot(API, name)
        return [*actions, Report("the modules of Services have changed; they are served anew")]

    def finish(self, slots: Slots) -> list[Action]:
        """Have the old ones end, as the new ones answer."""
        if not self.heirs:
            return []
        old = [each for each in slots.values() if each.kind == API and each.name not in self.heirs]
        self.heirs = frozenset()
        return [*_end(slots, old), Report("the changed modules are served")]

    def give_up(self, slots: Slots, heir: Slot, reason: str) -> list[Action]:
        """Keep the old ones, as a new one has ended."""
        text = f"the change is not served: {heir.process} ended ({reason}); its log says why"
        return [*self._drop(slots), Report(text)]

    def forget(self, slots: Slots, slot: Slot, phase: Phase) -> None:
        """Remove the slot of an api process that has ended because others took its place."""
        if slot.kind == API and phase is Phase.SERVING:
            slots.pop(slot.name, None)

    def _drop(self, slots: Slots) -> list[Action]:
        heirs, self.heirs = self.heirs, frozenset()
        return _end(slots, [slots[name] for name in heirs if name in slots])


def _end(slots: Slots, old: Sequence[Slot]) -> list[Action]:
    """Ask processes to end; forget slots that have none."""
    actions: list[Action] = []
    for slot in old:
        if slot.has_process:
            actions.append(Signal(slot.name, signal.SIGTERM))
        slot.stop()
        if slot.state is ChildState.ENDED:
            slots.pop(slot.name, None)
    return actions
