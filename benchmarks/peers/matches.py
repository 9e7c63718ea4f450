"""What is measured: cells, each a load on a model with those who are measured side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.peers.contestants import (
    DOCUMENTED,
    FROZEN,
    OURS,
    PEERS,
    RESTORED,
    TUNED,
    Contestant,
)
from benchmarks.peers.load import OPEN_CONNECTIONS, Load
from benchmarks.peers.models import MODELS

CLIENT, IN_PROCESS = "tfrunner client", "in-process"
CONNECTIONS = (1, 32, 128, 512)
FEW_CONNECTIONS = (1, 8, 32)
"""For mobilenet: at 50 rows a second more connections only wait longer than a round lasts."""

SELF = Contestant(OURS)
LONE = (Contestant(CLIENT), Contestant(IN_PROCESS, plan=FROZEN))
BEST_IN_PROCESS = (Contestant(IN_PROCESS, plan=FROZEN), Contestant(IN_PROCESS, plan=RESTORED))


class Cell(NamedTuple):
    """One load, and who is measured under it, in turn.

    Args:
        body: "json" or "binary".
        load: How requests are sent.
        contestants: Who; ours first.
    """

    body: str
    load: Load
    contestants: tuple[Contestant, ...]


class Match(NamedTuple):
    """Cells that share their servers.

    Args:
        model: What is served.
        cells: The cells.
    """

    model: str
    cells: tuple[Cell, ...]

    def contestants(self) -> list[Contestant]:
        """Return all who are measured."""
        return list(dict.fromkeys(each for cell in self.cells for each in cell.contestants))


class Effort(NamedTuple):
    """How long is measured.

    Args:
        rounds: How often each contestant is measured in a cell.
        seconds: How long each time.
        tuning: Seconds for each point of a grid.
    """

    rounds: int
    seconds: float
    tuning: float


QUICK_EFFORT = Effort(5, 1.0, 1.0)
FULL_EFFORT = Effort(5, 3.0, 2.0)
TRY_EFFORT = Effort(1, 1.0, 1.0)


def _closed(connections: int) -> Load:
    return Load("closed", connections)


def quick() -> list[Match]:
    """Return the cells that have a target."""
    mosec = (
        Contestant("mosec", DOCUMENTED),
        Contestant("mosec", TUNED),
        Contestant("mosec", TUNED, FROZEN),
        Contestant("bentoml", DOCUMENTED),
    )
    small = tuple(
        Cell("json", _closed(connections), (SELF, *mosec, *(LONE if connections == 1 else ())))
        for connections in (1, 32, 128)
    )
    best = (SELF, Contestant("mosec", TUNED), Contestant("triton", TUNED))
    return [
        *(Match(name, (*small, Cell("json", _closed(512), (SELF,)))) for name in ("linear", "mlp")),
        Match(
            "cnn",
            tuple(
                Cell(body, _closed(connections), best)
                for body in ("json", "binary")
                for connections in (32, 128)
            ),
        ),
        Match("mobilenet", (Cell("binary", _closed(8), (SELF, *BEST_IN_PROCESS)),)),
    ]


def full(models: Sequence[str], peers: Sequence[str]) -> list[Match]:
    """Return every cell of these models and peers; a match has one peer."""
    matches = []
    for model in models:
        lone = Cell("json", _closed(1), (SELF, *LONE))
        many = Cell("binary", _closed(8), (SELF, *BEST_IN_PROCESS))
        matches.append(Match(model, (lone, many)))
        matches.extend(Match(model, tuple(_cells(model, peer))) for peer in peers)
    return matches


def _cells(model: str, peer: str) -> Iterator[Cell]:
    """Yield every cell of one model and peer."""
    plans = (Contestant(peer, TUNED, FROZEN),) if peer == "mosec" else ()
    who = (SELF, Contestant(peer, DOCUMENTED), Contestant(peer, TUNED), *plans)
    for body in ("json", "binary"):
        for connections in FEW_CONNECTIONS if model == "mobilenet" else CONNECTIONS:
            yield Cell(body, _closed(connections), who)
    for rate in MODELS[model].rates:
        yield Cell("json", Load("open", OPEN_CONNECTIONS, rate), who)


def everyone() -> list[str]:
    """Return the names of all peers."""
    return list(PEERS)
