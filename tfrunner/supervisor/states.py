"""The supervisor's states, and every move between them.

A move that is not in a table raises: it would be a bug of ours.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar


class ChildState(Enum):
    """One place for a child process; processes come and go in it."""

    WAITING = "waiting"  # no process; the next one has a moment to start at
    RUNNING = "running"
    FENCED = "fenced"  # killed at the dispatcher's wish, not reaped yet
    STOPPING = "stopping"  # asked to end
    ENDED = "ended"  # no process, and none will come


class Phase(Enum):
    """The server, from its start to its end."""

    SERVING = "serving"
    DRAINING = "draining"  # api processes answer what they have, then end
    EMPTYING = "emptying"  # the dispatcher answers what is queued
    STOPPING = "stopping"  # workers leave, each when the dispatcher lets it go
    ENDING = "ending"  # the dispatcher ends
    KILLING = "killing"  # whatever is left was killed, and is being reaped
    STOPPED = "stopped"


State = TypeVar("State", ChildState, Phase)

CHILD_MOVES: dict[ChildState, dict[str, ChildState]] = {
    ChildState.WAITING: {"start": ChildState.RUNNING, "stop": ChildState.ENDED},
    ChildState.RUNNING: {
        "exit": ChildState.WAITING,
        "fence": ChildState.FENCED,
        "give": ChildState.WAITING,
        "stop": ChildState.STOPPING,
    },
    ChildState.FENCED: {"exit": ChildState.WAITING, "stop": ChildState.STOPPING},
    ChildState.STOPPING: {"exit": ChildState.ENDED},
    ChildState.ENDED: {},
}

PHASE_MOVES: dict[Phase, dict[str, Phase]] = {
    Phase.SERVING: {"drain": Phase.DRAINING, "kill": Phase.KILLING},
    Phase.DRAINING: {"done": Phase.EMPTYING, "kill": Phase.KILLING},
    Phase.EMPTYING: {"done": Phase.STOPPING, "kill": Phase.KILLING},
    Phase.STOPPING: {"done": Phase.ENDING, "kill": Phase.KILLING},
    Phase.ENDING: {"done": Phase.STOPPED, "kill": Phase.KILLING},
    Phase.KILLING: {"done": Phase.STOPPED},
    Phase.STOPPED: {},
}


def move(table: dict[State, dict[str, State]], state: State, event: str) -> State:
    """Return the state after an event.

    Raises:
        RuntimeError: The table has no such move.
    """
    try:
        return table[state][event]
    except KeyError:
        raise RuntimeError(f"no move {event!r} from {state}") from None
