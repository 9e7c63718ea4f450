"""What a scenario is, and what it hands back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from tests.faults.load import Rows, Way, capacity, plain
from tests.faults.report import Report
from tests.faults.ways import ClientWay, HttpWay, Mixed
from tfrunner.testing import ServedClient

T = TypeVar("T")

SHARE = 0.6
"""Of the measured capacity, that the load is."""

CALLERS = 64


class Findings:
    """What went wrong in a scenario, and its figures.

    Attributes:
        problems: One sentence each; none: the scenario holds.
        figures: One line each.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.figures: list[str] = []

    def require(self, holds: bool, otherwise: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(otherwise)

    def note(self, text: str) -> None:
        """Note a figure."""
        self.figures.append(text)

    def judge(self, report: Report, *allowed: str) -> None:
        """Note the figures of a load; any failure beside the allowed outcomes is a problem."""
        self.note(report.text())
        self.require(report.wrong == 0, f"{report.wrong} wrong answers")
        self.require(bool(report.sent), "nothing was sent")
        failed = report.failed(allowed=allowed)
        self.require(not failed, report.examples(failed))

    def text(self) -> str:
        """Return figures and problems."""
        return "\n".join([*self.figures, *(f"PROBLEM: {each}" for each in self.problems)])


class Plan(NamedTuple):
    """In which form a scenario is run."""

    is_long: bool = False

    def pick(self, short: T, long: T) -> T:
        """Return the value of this form."""
        return long if self.is_long else short


class Scenario(NamedTuple):
    """One fault under load.

    Args:
        run: Does it; its findings say what went wrong.
        sabotage: The protection without which the findings must be bad, named as in
            `sabotage/sitecustomize.py`.
        options: Of `tfrunner serve`.
        models: What is served; the echo model if empty.
    """

    run: Callable[[ServedClient, Plan], Awaitable[Findings]]
    sabotage: str
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The scenario's name."""
        return self.run.__name__.replace("_", "-")


@asynccontextmanager
async def ways(server: ServedClient) -> AsyncIterator[Mixed]:
    """Give the two ways in, taken in turn: the Python client over ipc, and raw HTTP."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ClientWay(server.address))
        http = await stack.enter_async_context(HttpWay(server.http_address))
        yield Mixed(client, http)


async def chosen_rate(way: Way, findings: Findings, *, rows: Rows = plain) -> float:
    """Measure what the server can do; return the stated share of it, in requests a second."""
    most = await capacity(way, callers=CALLERS, rows=rows)
    findings.note(f"capacity {most:.0f}/s, load {SHARE * most:.0f}/s")
    if most < 10:
        raise RuntimeError(f"only {most:.1f} requests a second were answered before any fault")
    return SHARE * most
