"""Requests that were accepted, and the batches that they are run in."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from tfrunner.dispatcher.costs import CostTable
from tfrunner.dispatcher.states import (
    BATCH_MOVES,
    REQUEST_MOVES,
    BatchState,
    RequestState,
    move,
)
from tfrunner.protocol import BlockFor, Part, PartsOf, Place, Request, RunBatch, Segment

if TYPE_CHECKING:
    from tfrunner.dispatcher.flows import Account
    from tfrunner.dispatcher.memory import Shortage
    from tfrunner.dispatcher.queues import Queue


class Accepted:
    """A request that the dispatcher owes one outcome.

    Attributes:
        weight: Its rows, at least one: a request of no rows takes a place too.
        size: Bytes of its bodies and of their layout.
        taken: Rows that have been put into batches.
        remaining: Rows that have not been answered.
        deaths: Workers that died while they ran it.
        cost: Seconds of device time that it was predicted to need when it was queued.
        account: Whose share it is counted against; set when it is queued.
        queue: Where it waits; set when it is looked at for the first time.
        is_lent: Whether bodies of it lie in its gateway's shared memory.
        segment: Which one that is; None where no body does.
        holders: How many batches that workers hold have rows of it; counted if it is lent.
    """

    __slots__ = (
        *("gateway", "request", "arrived", "deadline", "weight", "size"),
        *("taken", "remaining", "deaths", "state", "cost", "account", "queue"),
        *("is_lent", "segment", "holders"),
    )

    account: Account
    queue: Queue

    def __init__(self, gateway: bytes, request: Request, arrived: float) -> None:
        self.gateway = gateway
        self.request = request
        self.arrived = arrived
        self.deadline = arrived + request.timeout
        self.weight = max(1, request.rows)
        self.is_lent = False
        self.segment: Segment | None = None
        self.holders = 0
        self.size = len(request.layout)
        for body in request.bodies:
            self.size += len(body)
            if type(body) is Place:
                self.is_lent = True
        self.taken = 0
        self.remaining = self.weight
        self.deaths = 0
        self.cost = 0.0
        self.state = RequestState.OPEN

    @property
    def is_open(self) -> bool:
        """Whether its outcome is still owed."""
        return self.state is RequestState.OPEN

    def move(self, event: str) -> None:
        """Change the state; only an open request can."""
        self.state = move(REQUEST_MOVES, self.state, event)

    def drop_bodies(self) -> None:
        """Let go of what it carries: nobody will run it any more.

        Queues may keep it for a while, and count nothing for it.
        """
        request = self.request
        layout = request.layout if self.taken else b""  # of those that ran something is learned
        self.request = Request(
            *(request.id, request.model, request.method, layout, request.rows),
            *(request.timeout, request.client),
            (),
            request.priority,
        )

    def __repr__(self) -> str:
        return f"<Accepted {self.request.id} [{self.state.value} | {self.request.rows} rows]>"


class Piece(NamedTuple):
    """Rows `start` to `stop` of a request, in units of its weight."""

    owner: Accepted
    start: int
    stop: int


class Rerun(NamedTuple):
    """Pieces that must be run again exactly like this, before anything that is new.

    `alone`: nothing else may be on the worker, because it may kill it. `halved`: it is part of
    a batch that failed. `shortage`: it is part of a batch for which memory was too small.
    """

    pieces: list[Piece]
    attempt: int
    alone: bool = False
    halved: bool = False
    shortage: Shortage | None = None


def stretch(rows: int, parts: int) -> float:
    """Return how many times as long a batch lasts as it costs, if it is split into parts.

    Of three rows in two threads one thread runs two: it lasts four thirds of what it keeps the
    worker busy. A lone row is given all threads.
    """
    if parts < 2 or rows < 2:
        return 1.0
    return -(-rows // parts) * parts / rows


class Batch:
    """Pieces of one batch key on their way through a worker.

    Attributes:
        started: When the worker could begin to run it.
        sent: When it was sent.
        waited: Seconds that its first request waited before.
        padded: Rows that the worker adds to reach an allowed size.
        costs: What was known of its method on its worker, and learns from it.
        expected: Seconds that it was predicted to run; 0 where nothing was known.
        pace: What batches of its key take over what those of its method do, as of then.
        parts: Into how many its worker splits it at most.
        ends: When it was predicted to be back; infinity where nothing was known.
        frees: When its worker could begin another: the first of its parts was predicted to end.
        latest: When it would be so late that the prediction is worth nothing.
        lent: The owners of its pieces whose bodies lie in shared memory, once for each piece.
    """

    __slots__ = (
        *("alone", "attempt", "costs", "ends", "expected", "frees", "groups", "halved", "id"),
        *(
            "latest",
            "lent",
            "pace",
            "padded",
            "parts",
            "pieces",
            "rows",
            "sent",
            "shortage",
            "started",
            "state",
            "waited",
        ),
    )

    def __init__(self, number: int, rerun: Rerun) -> None:
        self.id = number
        self.attempt = rerun.attempt
        self.pieces = rerun.pieces
        self.alone = rerun.alone
        self.halved = rerun.halved
        self.shortage = rerun.shortage
        self.started = 0.0
        self.sent = 0.0
        self.waited = 0.0
        self.padded = 0
        self.costs: CostTable | None = None
        self.expected = 0.0
        self.pace = 1.0
        self.parts = 1
        self.ends = self.frees = self.latest = inf
        self.state = BatchState.STAGED
        self.lent = [piece.owner for piece in rerun.pieces if piece.owner.is_lent]
        self.groups = group(rerun.pieces)
        self.rows = sum(part.stop - part.start for each in self.groups for part in each.parts)

    def move(self, event: str) -> None:
        """Change the state."""
        self.state = move(BATCH_MOVES, self.state, event)

    def run(self, now: float) -> None:
        """Count it as running; it begins when it has arrived, or now if it lay staged."""
        self.move("run")
        self.started = now
        if self.costs is not None and self.expected:
            way = self.costs.transfer if now == self.sent else 0.0
            begins = now + way
            self.ends = self.frees = begins + self.expected
            if self.parts > 1:
                rows = max(1, self.rows)
                a_row = self.expected * self.parts / rows  # in one of its threads
                self.frees = begins + a_row * (rows // self.parts)
                self.ends = begins + self.expected * stretch(rows, self.parts)
            self.latest = self.ends + SLACK_RUNS * self.expected

    def is_awaited(self, now: float) -> bool:
        """Whether anybody still waits for it."""
        return any(owner.is_open and owner.deadline > now for owner, _, _ in self.pieces)

    def message(self) -> RunBatch:
        """Return what the worker is sent."""
        request = self.pieces[0].owner.request
        return RunBatch(
            self.id, self.attempt, request.method, request.layout, self.rows, self.groups
        )

    def is_answered_by(self, blocks: tuple[BlockFor, ...]) -> bool:
        """Whether these blocks hold exactly the rows that were sent, each for its gateway."""
        if len(blocks) != len(self.groups):
            return False
        for sent, back in zip(self.groups, blocks, strict=True):
            spans = back.block.spans
            if sent.gateway != back.gateway or len(sent.parts) != len(spans):
                return False
            for part, span in zip(sent.parts, spans, strict=True):
                if part.request != span.request or part.start != span.start:
                    return False
                if part.stop != span.stop:
                    return False
        return True

    def __repr__(self) -> str:
        return f"<Batch {self.id}.{self.attempt} [{self.state.value} | {self.rows} rows]>"


def group(pieces: list[Piece]) -> tuple[PartsOf, ...]:
    """Return the pieces as parts, together for each gateway."""
    by_gateway: dict[bytes, list[Part]] = {}
    segments: dict[bytes, Segment] = {}
    for owner, start, stop in pieces:
        request = owner.request
        part = Part(request.id, start, min(stop, request.rows), request.rows, request.bodies)
        by_gateway.setdefault(owner.gateway, []).append(part)
        if owner.segment is not None:
            segments[owner.gateway] = owner.segment
    return tuple(
        PartsOf(gateway, tuple(parts), segments.get(gateway))
        for gateway, parts in by_gateway.items()
    )


SLACK_RUNS = 1.0
"""A batch that is late by so many times its predicted run may be late by any time."""

NAMED = 8
"""So many requests are named in a line of the log."""


def names(pieces: list[Piece]) -> str:
    """Return the requests as a line of the log names them: gateway/number."""
    found = [
        f"{owner.gateway.decode(errors='replace')}/{owner.request.id}"
        for owner, _, _ in pieces[:NAMED]
    ]
    more = f" and {len(pieces) - NAMED} more" if len(pieces) > NAMED else ""
    return ", ".join(found) + more


def places(pieces: list[Piece]) -> int:
    """Return the rows of pieces; a request of no rows counts as one: it may be a culprit."""
    return sum([stop - start for _, start, stop in pieces])


def chunks(pieces: list[Piece], rows: int) -> list[list[Piece]]:
    """Cut pieces into lists of at most `rows` rows, in order; requests are cut where needed."""
    cut: list[list[Piece]] = []
    room = 0
    for owner, start, stop in pieces:
        while start < stop:
            if room == 0:
                cut.append([])
                room = rows
            end = min(stop, start + room)
            cut[-1].append(Piece(owner, start, end))
            room -= end - start
            start = end
    return cut


def halves(pieces: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Split pieces into two halves, by requests."""
    middle = len(pieces) // 2
    return pieces[:middle], pieces[middle:]
