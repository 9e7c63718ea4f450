"""What a load saw: every request with its outcome, and the figures that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

OK = "ok"
WRONG = "wrong"
RESET = "reset"
REFUSED = "refused"
"""The connection was refused: nobody had taken the request."""

REFUSALS = ("overloaded", "unavailable")
"""What the server says when it does not take a request."""


class Sent(NamedTuple):
    """One request.

    Args:
        id: In its row.
        planned: When it was to leave.
        begun: When it left.
        ended: When its outcome was there.
        code: "ok", "wrong", an error's code, "reset", "refused", or "hung".
        text: The error's message.
        place: Local port of the connection that carried it, 0 where there is none.
    """

    id: int
    planned: float
    begun: float
    ended: float
    code: str
    text: str = ""
    place: int = 0

    @property
    def latency(self) -> float:
        """Seconds from the planned moment."""
        return self.ended - self.planned


class Report:
    """The requests of one load.

    Args:
        timeout: Seconds that each of them had.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.sent: list[Sent] = []

    def add(self, sent: Sent) -> None:
        """Take in one request with its outcome."""
        if sent.code != "cancelled":
            self.sent.append(sent)

    def codes(self) -> Counter[str]:
        """Return how often each outcome came."""
        return Counter(each.code for each in self.sent)

    @property
    def wrong(self) -> int:
        """Answers that were not those of the request's own row."""
        return self.codes()[WRONG]

    def failed(self, *, allowed: Iterable[str] = ()) -> list[Sent]:
        """Return the requests without a right answer, those with an allowed outcome left out."""
        fine = {OK, *allowed}
        return [each for each in self.sent if each.code not in fine]

    def latency(self, share: float, *codes: str) -> float:
        """Return a percentile of the latencies in seconds, 0 if there are none.

        Args:
            share: 0.5 for the median, 0.99 for p99.
            codes: Of requests with these outcomes; none given: of those that succeeded.
        """
        chosen = codes or (OK,)
        values = sorted(each.latency for each in self.sent if each.code in chosen)
        return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0

    def rate(self, begin: float, end: float) -> float:
        """Return the right answers per second between two moments."""
        good = sum(1 for each in self.sent if each.code == OK and begin <= each.ended < end)
        return good / (end - begin)

    def text(self) -> str:
        """Return the figures on one line."""
        codes = self.codes()
        others = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()) if code != OK)
        worst = self.latency(1.0)
        line = (
            f"sent {len(self.sent)}, ok {codes[OK]}, others: {others or 'none'}; "
            f"latency p50 {self.latency(0.5) * 1e3:.0f} ms, p99 {self.latency(0.99) * 1e3:.0f} ms, "
            f"max {worst * 1e3:.0f} ms"
        )
        if any(codes[code] for code in REFUSALS):
            line += f"; refusals p50 {self.latency(0.5, *REFUSALS) * 1e3:.1f} ms"
        return line

    def examples(self, sents: list[Sent]) -> str:
        """Return some requests in words, for the message of a failed check."""
        shown = [f"#{s.id} {s.code} after {s.latency:.2f} s: {s.text[:160]}" for s in sents[:5]]
        return "\n  ".join([f"{len(sents)} requests failed; {self.text()}", *shown])
