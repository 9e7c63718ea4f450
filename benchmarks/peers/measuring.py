"""Play a match: start its servers, tune, then measure side by side, in turn, round by round."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.peers.book import Round
from benchmarks.peers.choosing import (
    WARM_SECONDS,
    Servers,
    Stage,
    callers_of,
    find,
    first,
    is_shown,
    second,
    tune,
)
from benchmarks.peers.contestants import OURS, Contestant
from benchmarks.peers.load import Load, Missing
from benchmarks.peers.matches import Cell, Match
from benchmarks.peers.models import Made
from benchmarks.peers.starting import Live, Wanted, started
from benchmarks.peers.tools import Measured, Tools

IDLE_SECONDS = 2.0


def play(match: Match, made: Made, tools: Tools) -> None:
    """Measure all cells of a match; note what cannot be measured."""
    bodies = list(dict.fromkeys(("json", *(cell.body for cell in match.cells))))
    with ExitStack() as stack:

        def start(wanted: list[Wanted]) -> Servers:
            context = started(wanted, made, tools.environments, bodies=bodies, say=tools.say)
            return stack.enter_context(context) if wanted else {}

        servers = start(list(first(match)))
        pause_peers(servers)
        tuned = tune(match, servers, made, tools)
        servers |= start(list(second(match, tuned)))
        pause_peers(servers)
        callers = stack.enter_context(callers_of(match, servers, made, tools))
        stage = Stage(servers, callers, tuned, made, tools)
        for cell in match.cells:
            found = {}
            for contestant in cell.contestants:
                try:
                    found[contestant] = find(contestant, cell, stage)
                except Missing as exc:
                    tools.book.add_missing(match.model, cell, contestant, str(exc))
            measure(match.model, cell, found, tools)
            tools.book.save()
        note_memory(match.model, servers, tools)


def pause_peers(servers: Servers) -> None:
    """Pause every server but ours until it is measured."""
    for wanted, live in servers.items():
        if isinstance(live, Live) and wanted.peer != OURS:
            live.server.pause()


def note_memory(model: str, servers: Servers, tools: Tools) -> None:
    """Note what servers hold, and the CPU time that they use while nobody asks them."""
    shown = {
        wanted: live
        for wanted, live in servers.items()
        if isinstance(live, Live) and is_shown(wanted)
    }
    for live in shown.values():
        live.server.resume()
    before = {wanted: live.server.cpu_seconds() for wanted, live in shown.items()}
    time.sleep(IDLE_SECONDS)
    for wanted, live in shown.items():
        idle = (live.server.cpu_seconds() - before[wanted]) / IDLE_SECONDS
        who = f"{wanted.peer} ({wanted.choice or 'nothing set'}, {wanted.plan})"
        tools.book.add_memory(model, who, live.server.memory(), idle=idle)


def measure(model: str, cell: Cell, found: dict[Contestant, Measured], tools: Tools) -> None:
    """Warm everyone, then measure them in turn, every other round in the opposite order."""
    left = dict(found)
    for contestant, measured in found.items():
        try:
            measured.run(WARM_SECONDS)
        except Missing as exc:
            tools.book.add_missing(model, cell, contestant, str(exc))
            del left[contestant]
    for number in range(tools.effort.rounds):
        turn = list(left.items())
        for contestant, measured in turn if number % 2 == 0 else reversed(turn):
            try:
                outcome, cpu = measured.run(tools.effort.seconds)
            except Missing as exc:
                tools.book.add_missing(model, cell, contestant, str(exc))
                del left[contestant]
                continue
            taken = Round(number, measured.settings, measured.form, outcome, cpu)
            tools.book.add_run(model, cell, contestant, taken)
    last = tools.book.content["runs"][-len(left) :] if left else []
    rates = ", ".join(f"{run['contestant']} {run['rate']:.0f}/s" for run in last)
    tools.say(f"  {model} {cell.body} {_describe(cell.load)}: {rates}")


def _describe(load: Load) -> str:
    return f"{load.connections} connections" if load.loop == "closed" else f"{load.rate:g}/s open"
