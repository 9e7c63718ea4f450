"""The queue of one batch key: what waits to be merged, each client's requests in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from tfrunner.dispatcher.batches import Accepted, Piece, Rerun
from tfrunner.dispatcher.costs import OUTLIER
from tfrunner.dispatcher.flows import NEGLECT, STEP, Account, Flow, Line, Rate, Shares, rank

Closing = Callable[[Accepted], None]

KEPT = 0.8
"""Share of the earlier batches that is kept with each later one in what they take lately."""

SPARE = 16
"""A queue keeps at most so many requests that wait no more, and one for each that does."""


class Queue:
    """Requests that may share a batch, and batches that must be run again first.

    Attributes:
        rows: Rows of waiting requests that are in no batch yet.
        requests: Requests that have such rows.
        work: Seconds that they will probably take.
        pace: What its batches take lately over what those of the method do: shapes differ.
    """

    __slots__ = (
        *("_arrivals", "_deadlines", "_flows", "_forgotten", "_pushed", "_rate", "_shares"),
        *("_planned", "_ran", "_turns"),
        *("bound", "method", "pace", "requests", "reruns", "rows", "work"),
    )

    def __init__(self, method: str, *, bound: int, shares: Shares) -> None:
        self.method = method
        self.bound = bound
        self.rows = 0
        self.requests = 0
        self.work = 0.0
        self.pace = 1.0
        self._ran = self._planned = 0.0  # seconds of the latest batches
        self.reruns: deque[Rerun] = deque()
        self._shares = shares
        self._rate = Rate()
        self._arrivals: deque[Accepted] = deque()
        self._deadlines = Line()
        self._flows: dict[Account, Flow] = {}  # the one that was served least recently first
        self._turns: list[tuple[float, int, Flow]] = []  # a heap; starts may have moved on since
        self._pushed = 0
        self._forgotten = 0  # since dead requests were last looked for

    # --- what a policy may know -----------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self.requests and not self.reruns

    @property
    def oldest(self) -> float:
        """The arrival of the request that waits longest; infinity if none does."""
        if self.reruns:
            return min(piece.owner.arrived for piece in self.reruns[0].pieces)
        self._skip_taken()
        return self._arrivals[0].arrived if self._arrivals else inf

    @property
    def earliest(self) -> float:
        """The earliest deadline of those that wait; infinity if none does."""
        head = self._deadlines.head()
        return inf if head is None else head.deadline

    @property
    def arrival_rate(self) -> float:
        """Rows that came per second, decayed, as of the latest arrival."""
        return self._rate.value

    @property
    def turn(self) -> tuple[float, float]:
        """Whose turn it is among queues: the virtual start of the next request, its rank."""
        if self.reruns:
            return (-inf, self.oldest)
        flow = self._first_flow()
        head = flow.line.head() if flow is not None else None
        return (inf, inf) if flow is None or head is None else (flow.account.start, rank(head))

    def is_neglected(self, now: float) -> bool:
        """Whether somebody in it was given nothing for too long."""
        return any(now - flow.served > NEGLECT for flow in self._neglected_first())

    def from_last(self, account: Account) -> Iterator[Accepted]:
        """Yield the requests of an account that wait whole, the last one first."""
        flow = self._flows.get(account)
        return iter(()) if flow is None else flow.line.from_last()

    # --- coming and going -------------------------------------------------------------------------

    def add(self, accepted: Accepted) -> None:
        """Append a new request."""
        account, weight, now = accepted.account, accepted.weight, accepted.arrived
        flow = self._flows.get(account)
        if flow is None:
            flow = self._flows[account] = Flow(account, now)
            self._push_turn(flow)
        flow.line.push(rank(accepted), accepted)
        self._deadlines.push(accepted.deadline, accepted)
        self._arrivals.append(accepted)
        rate = self._rate
        rate.fresh += weight
        if now - rate.at > STEP:
            rate.fold(now)
        self.rows += weight
        self.requests += 1
        self.work += accepted.cost
        if not account.requests:
            self._shares.enter(account)
        account.requests += 1
        account.work += accepted.cost
        self._shares.work += accepted.cost

    def note_run(self, planned: float, seconds: float) -> None:
        """Take in what a batch took; `planned` is what one of the method probably takes.

        Where a method has several batch keys, its cost table knows but the mean of all.
        """
        seconds = min(seconds, OUTLIER * planned * self.pace)
        self._ran = KEPT * self._ran + seconds
        self._planned = KEPT * self._planned + planned
        self.pace = self._ran / self._planned

    def forget(self, accepted: Accepted) -> None:
        """Count a request out while rows of it wait: it was closed, or they go another way."""
        left = accepted.weight - accepted.taken
        work = accepted.cost * left / accepted.weight
        accepted.taken = accepted.weight
        self._count_out(accepted.account, left, work, 1)
        self._forgotten += 1
        most = self.requests + SPARE
        if self._forgotten > most or len(self._arrivals) > self.requests + most:
            self._tidy()

    def take(
        self,
        rows: int,
        now: float,
        on_expired: Closing,
        *,
        most: int | None = None,
        drop_before: float = 0.0,
        on_dropped: Closing | None = None,
    ) -> list[Piece]:
        """Return pieces of `rows` rows or fewer, in turn; never one that has expired.

        A request that does not fit whole is cut only if no batch of `most` rows could hold it;
        the first one may be larger than `rows`. One whose deadline is before `drop_before` is
        dropped if the others that wait fill the batch.
        """
        most = rows if most is None else most
        pieces: list[Piece] = []
        while rows > 0:
            flow = self._next_flow(now, is_first=not pieces)
            if flow is None:
                break
            taken = self._take_from(flow, rows, most, now, drop_before, pieces)
            if taken:
                rows -= taken
                continue
            head = flow.line.head()
            if head is None or (head.deadline > now and head.deadline >= drop_before):
                break
            if head.deadline <= now:
                on_expired(head)
            elif on_dropped is not None and self.rows - head.weight >= rows and not head.taken:
                on_dropped(head)
            else:
                drop_before = 0.0
        self._skip_taken()
        if len(self._arrivals) > 2 * self.requests + SPARE:
            self._tidy()
        return pieces

    def take_one(self, now: float, on_expired: Closing) -> list[Piece]:
        """Return the next request, whole, as the only piece of its batch."""
        while (flow := self._next_flow(now, is_first=True)) is not None:
            head = flow.line.head()
            if head is None:
                break
            if head.deadline <= now:
                on_expired(head)
                continue
            head.taken = head.weight
            self._pay(flow, head.weight, head.cost, 1, now)
            self._skip_taken()
            if len(self._arrivals) > 2 * self.requests + SPARE:
                self._tidy()
            return [Piece(head, 0, head.weight)]
        return []

    def _take_from(
        self, flow: Flow, rows: int, most: int, now: float, drop_before: float, to: list[Piece]
    ) -> int:
        """Take one request of a flow, or all that fit if nobody else waits; return their rows.

        0: the first one has expired, may be dropped, or does not fit.
        """
        taken, requests, work = 0, 0, 0.0
        is_alone = len(self._flows) == 1
        while taken < rows:
            head = flow.line.head()
            if head is None or head.deadline <= now or head.deadline < drop_before:
                break
            left = head.weight - head.taken
            if left > rows - taken and (to or left > most):
                if head.weight <= most:
                    break
                left = rows - taken
            to.append(Piece(head, head.taken, head.taken + left))
            head.taken += left
            taken += left
            work += head.cost * left / head.weight
            requests += head.taken == head.weight
            if not is_alone:
                break
        if taken:
            self._pay(flow, taken, work, requests, now)
        return taken

    def _pay(self, flow: Flow, rows: int, work: float, requests: int, now: float) -> None:
        """Count out what goes into a batch, and let its account pay."""
        self._shares.charge(flow.account, work)
        self._count_out(flow.account, rows, work, requests)
        flow.served = now
        if len(self._flows) > 1:
            del self._flows[flow.account]
            if flow.line.head() is not None:
                self._flows[flow.account] = flow

    def _count_out(self, account: Account, rows: int, work: float, requests: int) -> None:
        self.rows -= rows
        self.requests -= requests
        self.work = self.work - work if self.requests else 0.0
        account.work -= work
        self._shares.work -= work
        account.requests -= requests
        if requests and not account.requests:
            self._shares.exit(account)

    def _skip_taken(self) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[0].taken == arrivals[0].weight:
            arrivals.popleft()
        self._deadlines.head()

    def _tidy(self) -> None:
        """Let go of all that waits no more: most of what is kept, so it costs little for each."""
        self._forgotten = 0
        self._arrivals = deque(a for a in self._arrivals if a.taken < a.weight)
        self._deadlines.tidy()
        for flow in self._flows.values():
            flow.line.tidy()
        self._flows = {a: flow for a, flow in self._flows.items() if flow.line.head() is not None}
        self._turns = [turn for turn in self._turns if self._flows.get(turn[2].account) is turn[2]]
        heapify(self._turns)

    # --- turns --------------------------------------------------------------------------------

    def _next_flow(self, now: float, *, is_first: bool) -> Flow | None:
        """Return the flow whose turn it is; one that was neglected may open a batch."""
        if len(self._flows) == 1:
            (flow,) = self._flows.values()
            if flow.line.head() is not None:
                return flow
        first = self._first_flow()
        if is_first and len(self._flows) > 1:
            for neglected in self._neglected_first():
                if now - neglected.served > NEGLECT:
                    return neglected
        return first

    def _first_flow(self) -> Flow | None:
        """Return the flow with the earliest start; those without work are let go."""
        turns = self._turns
        while turns:
            start, _, flow = turns[0]
            if flow.line.head() is None:
                heappop(turns)
                if self._flows.get(flow.account) is flow:
                    del self._flows[flow.account]
            elif flow.account.start > start and len(turns) > 1:
                self._pushed += 1
                heapreplace(turns, (flow.account.start, self._pushed, flow))
            else:
                return flow
        return None

    def _neglected_first(self) -> list[Flow]:
        """Return the flow that was served least recently, if it still has work."""
        for flow in self._flows.values():
            if flow.line.head() is not None:
                return [flow]
        return []

    def _push_turn(self, flow: Flow) -> None:
        self._pushed += 1
        heappush(self._turns, (flow.account.start, self._pushed, flow))

    def __repr__(self) -> str:
        return f"<Queue {self.method} [{self.requests} requests | {self.rows} rows]>"
