"""A place for one child process, and when its next process may start. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tfrunner.processes import CONFIG_ERROR, LOAD_ERROR
from tfrunner.supervisor.states import CHILD_MOVES, ChildState, move

DISPATCHER = "dispatcher"
API = "api"
WORKER = "worker"
SPARE = "spare"

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 10.0
LOAD_ERROR_DELAY = 30.0
PROVEN_AFTER = 30.0  # seconds of life after which earlier failures count no more
JITTER = 0.2  # at most this share is added, so that many do not start at once
TROUBLE_AFTER = 5  # deaths in a row, none of them after it was ready
SHORTEST_TURN = 1.0  # seconds from one start to the next where a worker left by itself


class Slot:
    """One place for a child process.

    Args:
        kind: "dispatcher", "api", "worker" or "spare".
        name: Name of the place; a process in it has the number of its start added.
        model: Tag of the worker's model, "" for other kinds.
        hosts: What a worker or a spare hosts: "tensorflow", "runnable" or "echo".

    Attributes:
        start_at: Monotonic moment from which the next process may start.
        failures: Deaths in a row, none of them after a long life.
        early_deaths: Deaths in a row, none of them after it was ready.
        serves: Whether its process is known to be ready.
        given: How many of its processes were given to other places.
        trouble: Why this place does not serve, "" if it does or may soon.
        fence_reason: Why the dispatcher had its process killed.
    """

    def __init__(self, kind: str, name: str, *, model: str = "", hosts: str = "") -> None:
        self.kind = kind
        self.name = name
        self.model = model
        self.hosts = hosts
        self.state = ChildState.WAITING
        self.starts = 0
        self.start_at = 0.0
        self.started_at = 0.0
        self.failures = 0
        self.early_deaths = 0
        self.serves = False
        self.given = 0
        self.trouble = ""
        self.fence_reason = ""

    def __repr__(self) -> str:
        return f"<Slot {self.process} [{self.state.value} | failures: {self.failures}]>"

    @property
    def process(self) -> str:
        """The name of its latest process: unique, because starts are counted."""
        return f"{self.name}-{self.starts}"

    @property
    def restarts(self) -> int:
        """How often a process of it was started after another one had ended."""
        return max(0, self.starts - 1 - self.given)

    @property
    def has_process(self) -> bool:
        """Whether a process of it runs, or is not reaped yet."""
        return self.state in (ChildState.RUNNING, ChildState.FENCED, ChildState.STOPPING)

    def start(self, now: float) -> None:
        """Take note of a start."""
        self.state = move(CHILD_MOVES, self.state, "start")
        self.starts += 1
        self.started_at = now
        self.serves = False
        self.fence_reason = ""

    def ready(self) -> None:
        """Take note that its process serves."""
        self.serves = True
        self.trouble = ""
        self.early_deaths = 0

    def give(self, now: float) -> None:
        """Take note that its process belongs to another place now."""
        self.state = move(CHILD_MOVES, self.state, "give")
        self.given += 1
        self.start_at = now

    def fence(self, reason: str) -> None:
        """Take note that its process is killed at the dispatcher's wish."""
        self.state = move(CHILD_MOVES, self.state, "fence")
        self.fence_reason = reason

    def stop(self) -> None:
        """Take note that its process is asked to end, and that none will follow."""
        if self.state not in (ChildState.STOPPING, ChildState.ENDED):
            self.state = move(CHILD_MOVES, self.state, "stop")

    def exit(self, code: int, now: float, *, jitter: Callable[[], float]) -> None:
        """Take note of a death; set when the next process may start.

        Args:
            code: The exit code; the negative signal number where a signal ended it.
            now: Monotonic moment.
            jitter: Gives a random number from 0 to 1.
        """
        self.state = move(CHILD_MOVES, self.state, "exit")
        served, self.serves = self.serves, False
        if code == 0 and served and self.kind == WORKER:  # it left by itself
            self.failures = 0
            self.start_at = max(now, self.started_at + SHORTEST_TURN)
            return
        if now - self.started_at >= PROVEN_AFTER:
            self.failures = 0
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2**self.failures)
        self.failures += 1
        self.early_deaths += 1
        if code in (LOAD_ERROR, CONFIG_ERROR) and not served:  # else users' code called exit
            delay = LOAD_ERROR_DELAY
            self.trouble = "the model cannot be loaded; the worker's log says why"
        elif self.early_deaths >= TROUBLE_AFTER:
            self.trouble = (
                f"its worker died {TROUBLE_AFTER} times in a row, each time before it was ready"
            )
        self.start_at = now + delay * (1 + JITTER * jitter())


def spare_for(slot: Slot, slots: Iterable[Slot]) -> Slot | None:
    """Return the spare whose process a worker's place is given instead of a new one.

    The oldest of those that host the same: it has probably imported everything. None for a
    worker that dies before it is ready, again and again: it would use up every spare.
    """
    if slot.kind != WORKER or slot.trouble or slot.early_deaths > 1:
        return None
    spares = [
        each
        for each in slots
        if each.kind == SPARE and each.hosts == slot.hosts and each.state is ChildState.RUNNING
    ]
    return min(spares, key=lambda spare: spare.started_at, default=None)


def are_settled(slots: Iterable[Slot]) -> bool:
    """Return whether no worker is on its way: the import of a spare would slow it down."""
    return all(
        slot.serves or slot.trouble or slot.state is ChildState.ENDED
        for slot in slots
        if slot.kind == WORKER
    )


def exit_text(code: int) -> str:
    """Return how people call an exit code."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def troubles(slots: Iterable[Slot]) -> dict[str, str]:
    """Return why each model has no worker, "" where it has one or may have one soon."""
    found: dict[str, str] = {}
    for slot in slots:
        if slot.kind == WORKER:
            found[slot.model] = slot.trouble and found.get(slot.model, slot.trouble)
    return found
