"""Who is measured: tfrunner with nothing set, and each peer as documented and tuned.

*As documented* is 64 rows and the shortest wait that a peer's documentation shows, at most
1 ms: mosec's own default is 10 ms, as is Ray's, LitServe's examples wait 50 to 100 ms,
MLServer's half a second and more. Triton's default is not to wait. BentoML adapts its wait;
what it takes is a bound of latency, whose default is a minute.

*Tuned* is the best of the peer's grid below for the same model and number of connections.
Every grid contains what is documented.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.peers.environments import Requirements

OURS = "tfrunner"
RESTORED, FROZEN = "restored", "frozen"
DOCUMENTED, TUNED = "documented", "tuned"


class Choice(NamedTuple):
    """What can be set.

    Args:
        rows: Most rows in one batch.
        wait: Milliseconds to wait for a batch to fill.
        workers: Processes that run the model.
        is_fast: The faster of two transports, where a peer has two.
    """

    rows: int
    wait: float
    workers: int = 1
    is_fast: bool = False

    def __str__(self) -> str:
        more = f", {self.workers} workers" if self.workers > 1 else ""
        return f"{self.rows} rows, {self.wait:g} ms{more}{', fast queue' if self.is_fast else ''}"


class Peer(NamedTuple):
    """A server.

    Args:
        name: Its name.
        requirements: Of its environment.
        documented: What its documentation sets.
        grid: What is tried to tune it.
        refused: Why a form of body cannot be measured, by form.
    """

    name: str
    requirements: Requirements
    documented: Choice
    grid: tuple[Choice, ...]
    refused: dict[str, str]


def _grid(documented: Choice, *others: Choice) -> tuple[Choice, ...]:
    return (documented, *others)


MOSEC = Peer(
    "mosec",
    Requirements("mosec", (("mosec==0.9.8",),)),
    Choice(64, 1),
    _grid(
        Choice(64, 1),
        Choice(1, 1),
        Choice(16, 1),
        Choice(32, 1),
        Choice(32, 10),
        Choice(128, 1),
        Choice(128, 10),
        Choice(16, 1, 2),
        Choice(64, 1, 2),
    ),
    {},
)
BENTOML = Peer(
    "bentoml",
    # 1.4.40 wants a certifi that not every mirror of PyPI has.
    Requirements("bentoml", (("bentoml==1.4.40",), ("bentoml==1.4.39",))),
    Choice(64, 60_000),
    _grid(
        Choice(64, 60_000),
        Choice(1, 60_000),
        Choice(32, 60_000),
        Choice(128, 60_000),
        Choice(64, 60_000, 2),
    ),
    {"binary": "an entry service refuses its own binary form (pickle); files only"},
)
LITSERVE = Peer(
    "litserve",
    Requirements("litserve", (("litserve==0.2.19",),)),
    Choice(64, 1),
    _grid(
        Choice(64, 1),
        Choice(1, 0, 1, True),
        Choice(32, 1, 1, True),
        Choice(64, 1, 1, True),
        Choice(128, 5, 1, True),
        Choice(32, 1, 2, True),
    ),
    {"binary": "reads JSON and uploaded forms; a raw body is parsed as JSON"},
)
MLSERVER = Peer(
    "mlserver",
    Requirements("mlserver", (("mlserver==1.7.1", "uvloop<0.22"),)),
    Choice(64, 1),
    _grid(Choice(64, 1), Choice(1, 0), Choice(32, 1), Choice(128, 5), Choice(32, 1, 2)),
    {"binary": "its REST routes have no binary form (its gRPC has)"},
)
RAY = Peer(
    "ray",
    Requirements("ray", (("ray[serve]==2.60.0",),)),
    Choice(64, 1),
    _grid(Choice(64, 1), Choice(1, 0), Choice(32, 1), Choice(128, 10), Choice(32, 1, 2)),
    {},
)
TRITON = Peer(
    "triton",
    Requirements("triton", (("nvidia-pytriton==0.7.0",),), needs_shared_python=True),
    Choice(64, 0),
    _grid(
        Choice(64, 0),
        Choice(1, 0),
        Choice(16, 0),
        Choice(32, 0.5),
        Choice(128, 1),
        Choice(32, 0, 2),
    ),
    {},
)
PEERS = {peer.name: peer for peer in (MOSEC, TRITON, BENTOML, LITSERVE, MLSERVER, RAY)}


class Contestant(NamedTuple):
    """One column of a table.

    Args:
        peer: Whose; "tfrunner" for ours, "in-process" for the model without a server.
        variant: "documented" or "tuned"; "" for ours and in-process.
        plan: Which callable a peer runs.
    """

    peer: str
    variant: str = ""
    plan: str = RESTORED

    @property
    def name(self) -> str:
        """What tables call it."""
        words = [self.peer, self.variant, "our plan" if self.plan == FROZEN else ""]
        return ", ".join(word for word in words if word)


def bodies_refused(peer: str, body: str) -> str:
    """Return why a peer cannot take bodies of a form, "" if it can."""
    return PEERS[peer].refused.get(body, "") if peer in PEERS else ""
