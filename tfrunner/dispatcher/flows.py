"""Whose turn it is: clients share device time, within and across batch keys.

Start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996) over *accounts*: a client
at a priority. Each has a virtual moment at which its next request starts; the earliest goes
first, and then moves on by what the request costs over the account's weight. Within an
account the earliest deadline goes first, with aging.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import exp
from typing import Any

from tfrunner.dispatcher.batches import Accepted

PATIENCE = 2.0
"""Aging: a request is ordered as if it had to be answered within so many seconds."""

NEGLECT = 1.0
"""Aging: who was given nothing for so many seconds, whatever its priority, goes first once."""

WINDOW = 0.25
LEAST = 0.05
STEP = 0.002
"""Seconds over which rates are decayed; that a first amount stands for; between two looks."""

MOST_ACCOUNTS = 1024
"""Above so many accounts, or twice those that are kept then, some without work are forgotten."""

NAMED_CLIENTS = 32
"""Clients that are counted by name; those that come later are counted together."""

OTHERS = "(others)"


class Rate:
    """An amount per second, decayed exponentially; what came before the first is not counted.

    Attributes:
        fresh: What was counted since `at`: add to it, and `fold` it in once STEP has passed.
        at: When it was folded last.
        value: The rate as of then.
    """

    __slots__ = ("_amount", "_weight", "at", "fresh", "value")

    def __init__(self) -> None:
        self.fresh = 0.0
        self.at = 0.0
        self.value = 0.0
        self._amount = 0.0
        self._weight = 0.0  # seconds that are in the amount: those before the first are not

    def fold(self, now: float) -> None:
        """Take in what is fresh, and let what is old decay."""
        kept = exp(min(0.0, self.at - now) / WINDOW)
        self._weight = WINDOW - (WINDOW - self._weight) * kept if self._weight else LEAST
        self._amount = self._amount * kept + self.fresh
        self.fresh = 0.0
        self.at = now
        self.value = self._amount / self._weight


class Account:
    """A client's claim at one priority.

    Attributes:
        weight: Its share against others: 2 to the power of its priority.
        start: Virtual moment at which its next request starts.
        owed: Seconds by which its batches took longer than it was charged for.
        requests: Requests that wait.
        work: Seconds that they will probably take.
    """

    __slots__ = ("client", "owed", "requests", "start", "weight", "work")

    def __init__(self, client: str, priority: int, start: float) -> None:
        self.client = client
        self.weight = 2.0**priority
        self.start = start
        self.owed = 0.0
        self.requests = 0
        self.work = 0.0


class Shares:
    """The accounts of one model.

    Attributes:
        weight: Sum of the weights of the accounts that have work.
        work: Seconds that all that waits will probably take one worker.
        seconds: Device time by client.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, int], Account] = {}
        self._room = MOST_ACCOUNTS  # so many accounts may there be before some are forgotten
        self._clock = 0.0
        self._latest = 0.0  # the latest start of all
        self.active = 0
        self.weight = 0.0
        self.work = 0.0
        self.seconds: dict[str, float] = {}

    def account(self, client: str, priority: int) -> Account:
        """Return an account; a new one starts where the others are."""
        key = (client, priority)
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= self._room:
                self._forget()
            account = self._accounts[key] = Account(client, priority, self._clock)
        return account

    def enter(self, account: Account) -> None:
        """Count in an account that has work from now on."""
        account.start = max(account.start, self._clock)
        self.active += 1
        self.weight += account.weight

    def exit(self, account: Account) -> None:
        """Count out an account that has no work any more."""
        account.work = 0.0
        self.active -= 1
        if self.active:
            self.weight -= account.weight
        else:
            self.weight = self.work = 0.0  # no rounding error outlives the work
            self._clock = self._latest  # whoever comes next begins anew, all are even

    def charge(self, account: Account, work: float) -> None:
        """Let an account pay for work that starts now, and for what it owes."""
        if account.start > self._clock:
            self._clock = account.start
        due = work + account.owed
        if due > 0:
            account.owed = 0.0
            account.start += due / account.weight
            if account.start > self._latest:
                self._latest = account.start
        else:
            account.owed = due

    def largest(self, given: Counter[Account]) -> Account | None:
        """Return the account that has the most requests waiting for its weight.

        Args:
            given: Requests of each that do not count.
        """
        accounts = self._accounts.values()
        return max(accounts, key=lambda a: (a.requests - given[a]) / a.weight, default=None)

    def settle(self, account: Account, charged: float, actual: float) -> None:
        """Take in what work really took, in seconds: shares are of device time."""
        if self.active > 1:
            account.owed += actual - charged
        client = account.client
        if client not in self.seconds and len(self.seconds) >= NAMED_CLIENTS:
            client = OTHERS
        self.seconds[client] = self.seconds.get(client, 0.0) + actual

    def _forget(self) -> None:
        """Forget accounts without work: those that would start where a new one does.

        Of the others, which were given more than their share lately, the furthest ahead are kept.
        """
        clock = self._clock
        kept = {k: a for k, a in self._accounts.items() if a.requests or a.start > clock}
        idle = sorted((k for k, a in kept.items() if not a.requests), key=lambda k: kept[k].start)
        for key in idle[: -MOST_ACCOUNTS // 2]:
            del kept[key]
        self._accounts = kept
        self._room = max(MOST_ACCOUNTS, 2 * len(kept))

    def as_data(self) -> dict[str, Any]:
        """Return the device time by client, as plain data."""
        return dict(self.seconds)


class Line:
    """Requests in rising order of a number; those of which no row waits are passed over."""

    __slots__ = ("_late", "_pushed", "_row")

    def __init__(self) -> None:
        self._row: deque[tuple[float, Accepted]] = deque()  # came in order: nearly all
        self._late: list[tuple[float, int, Accepted]] = []  # a heap of the others
        self._pushed = 0

    def push(self, number: float, accepted: Accepted) -> None:
        """Add a request."""
        if not self._row or self._row[-1][0] <= number:
            self._row.append((number, accepted))
        else:
            self._pushed += 1
            heappush(self._late, (number, self._pushed, accepted))

    def head(self) -> Accepted | None:
        """Return the first request of which rows wait."""
        row, late = self._row, self._late
        while row and row[0][1].taken == row[0][1].weight:
            row.popleft()
        while late and late[0][2].taken == late[0][2].weight:
            heappop(late)
        if late and (not row or late[0][0] < row[0][0]):
            return late[0][2]
        return row[0][1] if row else None

    def from_last(self) -> Iterator[Accepted]:
        """Yield the requests of which no row was taken yet, the last first, if in order."""
        row = self._row
        while row and row[-1][1].taken == row[-1][1].weight:
            row.pop()
        return (a for _, a in reversed(row) if not a.taken)

    def tidy(self) -> None:
        """Let go of the requests of which no row waits."""
        self._row = deque(each for each in self._row if each[1].taken < each[1].weight)
        self._late = [each for each in self._late if each[2].taken < each[2].weight]
        heapify(self._late)


class Flow:
    """What one account has waiting in one queue.

    Attributes:
        served: When it was given something last, or came.
    """

    __slots__ = ("account", "line", "served")

    def __init__(self, account: Account, now: float) -> None:
        self.account = account
        self.line = Line()
        self.served = now


def rank(accepted: Accepted) -> float:
    """Return what orders the requests of an account: the deadline, with aging."""
    return min(accepted.deadline, accepted.arrived + PATIENCE)
