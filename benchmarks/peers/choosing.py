"""Which servers a match needs, which settings are best, and who stands where in a cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.peers.callers import Caller
from benchmarks.peers.contestants import (
    DOCUMENTED,
    FROZEN,
    OURS,
    PEERS,
    RESTORED,
    TUNED,
    Choice,
    Contestant,
    bodies_refused,
)
from benchmarks.peers.load import Load, Missing
from benchmarks.peers.matches import CLIENT, IN_PROCESS, Cell, Match
from benchmarks.peers.models import Made
from benchmarks.peers.starting import Live, Wanted
from benchmarks.peers.tools import CallerUnderLoad, Measured, ServerUnderLoad, Tools

Servers = dict[Wanted, "Live | str"]
Tuned = dict[tuple[str, int], Choice]
Callers = dict[Contestant, "Caller | str"]

SIZES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (4, 2), (8, 2))
"""Rows and threads that are tried for the best way to call a model in its own process."""

WARM_SECONDS = 1.0


def first(match: Match) -> Iterator[Wanted]:
    """Yield the servers that are needed from the start: ours, documented ones, whole grids."""
    yield Wanted(OURS, RESTORED, None)
    wanted: dict[Wanted, None] = {}
    for contestant in match.contestants():
        if contestant.variant == DOCUMENTED:
            choice = PEERS[contestant.peer].documented
            wanted[Wanted(contestant.peer, contestant.plan, choice)] = None
        elif contestant.variant == TUNED:
            grid = PEERS[contestant.peer].grid
            wanted.update(dict.fromkeys(Wanted(contestant.peer, RESTORED, each) for each in grid))
    yield from wanted


def is_shown(wanted: Wanted) -> bool:
    """Return whether a server's memory is noted: ours, and each peer's as documented."""
    return wanted.choice is None or wanted.choice == PEERS[wanted.peer].documented


def second(match: Match, tuned: Tuned) -> Iterator[Wanted]:
    """Yield the servers of our plan elsewhere, with what turned out best for the peer's own."""
    frozen = {c.peer for c in match.contestants() if c.variant == TUNED and c.plan == FROZEN}
    chosen = {(peer, choice) for (peer, _), choice in tuned.items() if peer in frozen}
    yield from (Wanted(peer, FROZEN, choice) for peer, choice in sorted(chosen))


def tune(match: Match, servers: Servers, made: Made, tools: Tools) -> Tuned:
    """Return the best settings of each tuned peer for each number of connections."""
    best: Tuned = {}
    for peer, counts in _tuned_at(match).items():
        live = [
            each
            for wanted, each in servers.items()
            if isinstance(each, Live) and wanted.peer == peer and wanted.plan == RESTORED
        ]
        for number, count in enumerate(counts if live else ()):
            seconds = (*((WARM_SECONDS,) if number == 0 else ()), tools.effort.tuning)
            rates = {each.wanted.choice: _rate(each, count, made, tools, seconds) for each in live}
            chosen = max(rates, key=lambda choice: rates[choice])
            assert chosen is not None
            best[peer, count] = chosen
            shown = {str(choice): rate for choice, rate in rates.items()}
            tools.book.add_tuning(match.model, peer, count, shown)
            tools.say(f"  {peer} at {count}: best of {len(rates)} is {chosen}")
    return best


def _tuned_at(match: Match) -> dict[str, list[int]]:
    """Return the numbers of connections at which each peer must be tuned."""
    found: dict[str, list[int]] = {}
    for cell in match.cells:
        for contestant in cell.contestants:
            counts = found.setdefault(contestant.peer, [])
            if contestant.variant == TUNED and cell.load.connections not in counts:
                counts.append(cell.load.connections)
    return {peer: counts for peer, counts in found.items() if counts}


def _rate(live: Live, count: int, made: Made, tools: Tools, seconds: tuple[float, ...]) -> float:
    """Return a server's rate with JSON bodies, after a warm-up where several times are given."""
    cell = Cell("json", Load("closed", count), ())
    rate = 0.0
    try:
        under = ServerUnderLoad(live, made, cell, tools.folder)
        for each in seconds:
            rate = under.run(each)[0].rate
    except (KeyError, Missing):
        return 0.0  # it has no right answer, or none at all
    return rate


@contextmanager
def callers_of(match: Match, servers: Servers, made: Made, tools: Tools) -> Iterator[Callers]:
    """Start the calling processes of a match; end them with the `with` block."""
    ours = servers[Wanted(OURS, RESTORED, None)]
    callers: Callers = {}
    begun = []
    try:
        for contestant in match.contestants():
            if contestant.peer not in (CLIENT, IN_PROCESS):
                continue
            if contestant.peer == IN_PROCESS:
                caller = Caller([contestant.plan, str(made.folder)], {})
            elif isinstance(ours, str):
                callers[contestant] = ours
                continue
            else:
                run = ours.server.command.environment["TFRUNNER_RUN_DIR"]
                words = ["client", made.model.name, str(made.folder)]
                caller = Caller(words, {"TFRUNNER_RUN_DIR": run})
            begun.append(caller)
            try:
                caller.start()
                callers[contestant] = caller
            except Missing as exc:
                callers[contestant] = str(exc)
            tools.say(f"  {contestant.name}: {'ready' if caller in callers.values() else 'no'}")
        yield callers
    finally:
        for caller in begun:
            caller.stop()


class Stage(NamedTuple):
    """All that stands ready for a match.

    Args:
        servers: All servers, or why they are missing.
        callers: All calling processes, or why they are missing.
        tuned: The best settings of each tuned peer.
        made: The model.
        tools: What every match needs.
    """

    servers: Servers
    callers: Callers
    tuned: Tuned
    made: Made
    tools: Tools


def find(contestant: Contestant, cell: Cell, stage: Stage) -> Measured:
    """Return what to measure for a contestant in a cell.

    Raises:
        Missing: It cannot be measured; says why.
    """
    if contestant.peer in (CLIENT, IN_PROCESS):
        caller = stage.callers[contestant]
        if isinstance(caller, str):
            raise Missing(caller)
        return _best_caller(caller, cell, stage.tools)
    if refused := bodies_refused(contestant.peer, cell.body):
        raise Missing(refused)
    choice = _settings_of(contestant, cell, stage)
    live = stage.servers[Wanted(contestant.peer, contestant.plan, choice)]
    if isinstance(live, str):
        raise Missing(live)
    if cell.body not in live.forms:
        raise Missing(live.reasons[cell.body])
    return ServerUnderLoad(live, stage.made, cell, stage.tools.folder)


def _settings_of(contestant: Contestant, cell: Cell, stage: Stage) -> Choice | None:
    """Return a contestant's settings in a cell, None for ours."""
    if contestant.variant == DOCUMENTED:
        return PEERS[contestant.peer].documented
    if contestant.variant != TUNED:
        return None
    choice = stage.tuned.get((contestant.peer, cell.load.connections))
    if choice is None:
        reasons = {
            found
            for wanted, found in stage.servers.items()
            if wanted.peer == contestant.peer and isinstance(found, str)
        }
        raise Missing(f"none of its grid answers: {'; '.join(sorted(reasons))}")
    return choice


def _best_caller(caller: Caller, cell: Cell, tools: Tools) -> Measured:
    """Return the best way to call: one row beside one connection, else the fastest."""
    if cell.load.connections == 1:
        return CallerUnderLoad(caller, 1, 1)
    ways = [CallerUnderLoad(caller, rows, threads) for rows, threads in SIZES]
    caller.measure(rows=8, callers=2, seconds=WARM_SECONDS)
    rates = [way.run(tools.effort.tuning)[0].rate for way in ways]
    return ways[rates.index(max(rates))]
