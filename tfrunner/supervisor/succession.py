"""New api processes that take the place of the old ones, when users' modules have changed. Pure.

The old ones go on until all new ones answer, and then end as at the end of a server: each
answers what it has, and is killed if it has not ended when its time is over. A new one that ends
before changes nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from tfrunner.supervisor.events import Action, Report, Signal
from tfrunner.supervisor.slots import API, Slot
from tfrunner.supervisor.states import ChildState, Phase

Slots = dict[str, Slot]


class Succession:
    """Who of the api processes is new and does not answer yet, and who was asked to end.

    Args:
        patience: Seconds from that wish until it is killed.

    Attributes:
        heirs: The names of their slots.
    """

    def __init__(self, *, patience: float) -> None:
        self.heirs: frozenset[str] = frozenset()
        self._patience = patience
        self._kill_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Succession [{len(self.heirs)} heirs | {len(self._kill_at)} end]>"

    def begin(
        self, slots: Slots, names: Sequence[str], phase: Phase, *, now: float
    ) -> list[Action]:
        """Add the slots of new api processes; those that were new before are new no more."""
        if phase is not Phase.SERVING:
            return []
        actions = self._drop(slots, now)
        self.heirs = frozenset(names)
        for name in names:
            slots[name] = Slot(API, name)
        return [*actions, Report("the modules of Services have changed; they are served anew")]

    def finish(self, slots: Slots, now: float) -> list[Action]:
        """Have the old ones end, as the new ones answer."""
        if not self.heirs:
            return []
        old = [each for each in slots.values() if each.kind == API and each.name not in self.heirs]
        self.heirs = frozenset()
        return [*self._end(slots, old, now), Report("the changed modules are served")]

    def give_up(self, slots: Slots, heir: Slot, reason: str, *, now: float) -> list[Action]:
        """Keep the old ones, as a new one has ended."""
        text = f"the change is not served: {heir.process} ended ({reason}); its log says why"
        return [*self._drop(slots, now), Report(text)]

    def forget(self, slots: Slots, slot: Slot, phase: Phase) -> None:
        """Remove the slot of an api process that has ended because others took its place."""
        self._kill_at.pop(slot.name, None)
        if slot.kind == API and phase is Phase.SERVING:
            slots.pop(slot.name, None)

    def kill(self, now: float) -> list[Action]:
        """Kill those that have not ended in time."""
        late = [name for name, moment in self._kill_at.items() if moment <= now]
        for name in late:
            del self._kill_at[name]
        return [Signal(name, signal.SIGKILL) for name in late]

    def next_wakeup(self) -> float | None:
        """Return the monotonic moment at which `kill` is due, None if there is none."""
        return min(self._kill_at.values(), default=None)

    def _drop(self, slots: Slots, now: float) -> list[Action]:
        heirs, self.heirs = self.heirs, frozenset()
        return self._end(slots, [slots[name] for name in heirs if name in slots], now)

    def _end(self, slots: Slots, old: Sequence[Slot], now: float) -> list[Action]:
        """Ask processes to end; forget slots that have none."""
        actions: list[Action] = []
        for slot in old:
            # One that ends already is asked once: a second SIGTERM would cut its answers off.
            if slot.has_process and slot.state is not ChildState.STOPPING:
                actions.append(Signal(slot.name, signal.SIGTERM))
                self._kill_at[slot.name] = now + self._patience
            slot.stop()
            if slot.state is ChildState.ENDED:
                slots.pop(slot.name, None)
        return actions
