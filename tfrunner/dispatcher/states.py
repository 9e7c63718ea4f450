"""The states of the dispatcher's things, and every move between them.

A move that is not in a table raises: it would be a bug of ours.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar


class RequestState(Enum):
    """A request, from its acceptance to its one outcome."""

    __hash__ = object.__hash__  # each is one object; Enum's own is a function in Python

    OPEN = "open"
    ANSWERED = "answered"
    FAILED = "failed"
    DROPPED = "dropped"


class BatchState(Enum):
    """One attempt to run a batch."""

    STAGED = "staged"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    RETURNED = "returned"


class WorkerState(Enum):
    """A worker process."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"  # finishes what it holds, is given nothing more
    FENCED = "fenced"
    GONE = "gone"


State = TypeVar("State", RequestState, BatchState, WorkerState)

REQUEST_MOVES: dict[RequestState, dict[str, RequestState]] = {
    RequestState.OPEN: {
        "answer": RequestState.ANSWERED,
        "fail": RequestState.FAILED,
        "drop": RequestState.DROPPED,
    },
    RequestState.ANSWERED: {},
    RequestState.FAILED: {},
    RequestState.DROPPED: {},
}

BATCH_MOVES: dict[BatchState, dict[str, BatchState]] = {
    BatchState.STAGED: {"run": BatchState.RUNNING, "return": BatchState.RETURNED},
    BatchState.RUNNING: {
        "done": BatchState.DONE,
        "fail": BatchState.FAILED,
        "return": BatchState.RETURNED,
    },
    BatchState.DONE: {},
    BatchState.FAILED: {},
    BatchState.RETURNED: {},
}

WORKER_MOVES: dict[WorkerState, dict[str, WorkerState]] = {
    WorkerState.STARTING: {
        "ready": WorkerState.READY,
        "leave": WorkerState.LEAVING,
        "fence": WorkerState.FENCED,
        "gone": WorkerState.GONE,
    },
    WorkerState.READY: {
        "leave": WorkerState.LEAVING,
        "fence": WorkerState.FENCED,
        "gone": WorkerState.GONE,
    },
    WorkerState.LEAVING: {"fence": WorkerState.FENCED, "gone": WorkerState.GONE},
    WorkerState.FENCED: {"gone": WorkerState.GONE},
    WorkerState.GONE: {},
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
