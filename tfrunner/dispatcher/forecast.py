"""How long a request would wait: what is refused on arrival, and how much work comes in."""

from __future__ import annotations

from bisect import bisect_right

from tfrunner.dispatcher.batches import Accepted, stretch
from tfrunner.dispatcher.costs import OUTLIER, CostTable
from tfrunner.dispatcher.flows import STEP, Rate, Shares
from tfrunner.dispatcher.workers import Team

REFRESH = 8
"""After so many batches it is looked anew for what rows and full batches take."""

RECENT = 0.2
"""Share of the latest batch in what batches of a method take lately."""

NEAR = 0.05
"""Times that differ by less are as good as equal when a size is looked for."""

SALVO = 0.0625
"""Share of the latest salvo in how many rows come at once."""

PRUDENCE = 0.8
"""Share of its time that a request may be predicted to wait: predictions are no promises."""


class Lately:
    """What batches of one method cost lately.

    Attributes:
        costs: The table of the fastest device that ran one of the latest.
        full: The rows of a batch that cannot grow.
        seconds: What batches take, as the latest ones took.
        full_seconds: What a batch of `full` rows takes on the fastest device.
        row_seconds: What a row takes in the best size, on the mean of all workers.
        slowness: Time on the mean of all workers over that on the fastest device.
    """

    __slots__ = (
        *("_notes", "_ran", "_within", "costs", "full", "full_seconds", "row_seconds"),
        *("seconds", "slowness"),
    )

    def __init__(self, costs: CostTable, full: int) -> None:
        self.full = full
        self._within = (0.0, 0)
        self._notes = -1
        self._ran: dict[CostTable, float] = {}  # seconds of the latest batches by table
        self.costs = costs
        self.seconds = costs.predict(full)
        self.note(costs, self.seconds)

    def note(self, costs: CostTable, seconds: float) -> None:
        """Take in what the latest batch took; a single long one counts little."""
        self.seconds += RECENT * (min(seconds, OUTLIER * self.seconds) - self.seconds)
        self._ran[costs] = self._ran.get(costs, 0.0) + seconds
        self._notes += 1
        if self._notes % REFRESH == 0:
            self._look_anew()

    def _look_anew(self) -> None:
        """Compare the tables of the latest batches; those who ran longer count for more."""
        ran = self._ran
        per_row = {table: self._row_seconds(table) for table in ran}
        self.costs = min(per_row, key=per_row.__getitem__)
        self.row_seconds = sum(ran.values()) / sum(ran[t] / per_row[t] for t in ran)
        self.slowness = self.row_seconds / per_row[self.costs]
        self.full_seconds = self.costs.predict(self.full)
        self._within = (0.0, 0)
        self._ran = {}

    def _row_seconds(self, costs: CostTable) -> float:
        """Return what a row takes in the best size by one table."""
        best = costs.best(self.full)
        return min(costs.predict(self.full) / self.full, costs.predict(best) / best)

    def largest_within(self, seconds: float) -> int:
        """Return the largest size that takes at most so many seconds, at least 1."""
        if self.full_seconds <= seconds:
            return self.full
        known, size = self._within
        if not size or abs(known - seconds) > NEAR * seconds:
            size = max(1, bisect_right(range(1, self.full + 1), seconds, key=self.costs.predict))
            self._within = (seconds, size)
        return size


class Forecast:
    """What is predicted for one model.

    Args:
        team: Its workers.
        shares: What waits, and whose it is.

    Attributes:
        together: Rows that come at one moment, in the mean.
    """

    def __init__(self, team: Team, shares: Shares) -> None:
        self._team = team
        self._shares = shares
        self._lately: dict[str, Lately] = {}
        self._parts: dict[str, int] = {}  # into how many workers split a batch at most
        self._demand = Rate()  # seconds of device time that are asked for, per second
        self._moment = 0.0  # when the latest request came, and rows that came with it
        self._salvo = 0
        self.together = 1.0

    def note(self, method: str, costs: CostTable, full: int, seconds: float | None = None) -> None:
        """Take in what the latest batch of a method took; None: only measured at warm-up."""
        lately = self._lately.get(method)
        if lately is None:
            if not costs.is_known:
                return
            lately = self._lately[method] = Lately(costs, full)
            if seconds is not None:
                lately.seconds = seconds
        if seconds is not None:
            lately.note(costs, seconds)

    def note_parts(self, method: str, parts: int) -> None:
        """Take in how a worker splits the batches of a method."""
        self._parts[method] = parts

    def expect(self, accepted: Accepted) -> None:
        """Count what a request will cost; also of those that are refused then."""
        if accepted.arrived == self._moment:
            self._salvo += accepted.weight
        else:
            self.together += SALVO * (self._salvo - self.together)
            self._moment, self._salvo = accepted.arrived, accepted.weight
        lately = self._lately.get(accepted.request.method)
        if lately is not None:
            accepted.cost = accepted.weight * lately.row_seconds * accepted.queue.pace
            demand = self._demand
            demand.fresh += accepted.cost
            if accepted.arrived - demand.at > STEP:
                demand.fold(accepted.arrived)

    def load(self, now: float) -> float:
        """Return the work that comes in as a share of what the workers can do."""
        if now - self._demand.at > STEP:
            self._demand.fold(now)
        return self._demand.value / max(1, len(self._team))

    def is_hopeless(self, accepted: Accepted) -> bool:
        """Whether a request would probably wait beyond its deadline.

        Never while nothing waits: what a batch takes is learned from those that run.
        """
        team = self._team
        queue = accepted.queue
        lately = self._lately.get(queue.method)
        if lately is None or not len(team):
            return False
        if queue.rows < team.idle * queue.bound:
            return False  # it came in the same step as those before it, and leaves with them
        time = accepted.deadline - accepted.arrived
        patience = PRUDENCE * time
        full_seconds = lately.full_seconds * queue.pace
        if self._shares.work / len(team) + 2 * full_seconds <= patience:
            return False
        if self._wait(accepted, lately, time) <= patience:
            return False
        # Clients share: whoever has less waiting than others is served before them.
        account = accepted.account
        weight = self._shares.weight + (0.0 if account.requests else account.weight)
        ahead = account.work * weight / account.weight
        return ahead >= self._shares.work or ahead / len(team) + full_seconds > patience

    def _wait(self, accepted: Accepted, lately: Lately, time: float) -> float:
        """Return the seconds after which a request with so much time will probably be answered.

        The workers begin at staggered times; each takes what waits then, at most as much as can
        be answered in time.
        """
        queue, team, costs = accepted.queue, self._team, lately.costs
        pace = queue.pace
        size = lately.largest_within(time / pace / (1 + 1 / len(team)))
        before, beside = divmod(queue.rows, size)
        others = max(0.0, self._shares.work - queue.work)
        rows = min(size, beside + accepted.weight)
        own = costs.predict(rows) * stretch(rows, self._parts.get(queue.method, 1)) * pace
        work = others + before * costs.predict(size) * pace * lately.slowness
        return self._start(accepted.arrived, lately) + work / len(team) + own + costs.transfer

    def _start(self, now: float, lately: Lately) -> float:
        """Return the seconds until a worker takes the next batch."""
        first = self._team.pick_for_staging(now)
        if first is None or first.batches[0].latest < now:
            return lately.seconds * (0.5 + self._team.lying) / len(self._team)
        return max(0.0, first.batches[0].ends - now)
