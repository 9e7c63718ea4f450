"""The targets that the suite can check, and what was reached. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.peers.contestants import OURS
from benchmarks.peers.matches import CLIENT, IN_PROCESS
from benchmarks.peers.summary import Line

DOCUMENTED_MOSEC = {1: 4.0, 32: 1.8, 128: 1.2}
TUNED_MOSEC = {1: 1.1, 32: 0.9, 128: 0.9}
DOCUMENTED_BENTOML = {1: 3.5, 32: 20.0, 128: 30.0}
SMALL = ("linear", "mlp")


class Target(NamedTuple):
    """One target.

    Args:
        what: In words.
        asked: The bound, in words.
        got: What was measured; None if it was not.
        is_met: Whether it is; None if it was not measured.
    """

    what: str
    asked: str
    got: float | None
    is_met: bool | None


def targets(lines: Sequence[Line]) -> list[Target]:
    """Return every target with what was reached."""
    found = {(x.place.model, x.place.body, x.place.load, x.contestant): x for x in lines}

    def get(model: str, body: str, count: int, who: str) -> Line | None:
        load = f"{count} connection{'s' if count > 1 else ''}"
        return found.get((model, body, load, who))

    return [
        *_against("mosec, documented", DOCUMENTED_MOSEC, get),
        *_against("mosec, tuned", TUNED_MOSEC, get),
        *_against("bentoml, documented", DOCUMENTED_BENTOML, get),
        *_cnn(get),
        *_mobilenet(get),
        *_lone(get),
        *_shape(get),
    ]


Get = Callable[[str, str, int, str], "Line | None"]


def _least(what: str, bound: float, got: float | None) -> Target:
    return Target(what, f">= {bound:g}x", got, None if got is None else got >= bound)


def _most(what: str, bound: float, got: float | None, unit: str) -> Target:
    return Target(what, f"<= {bound:g}{unit}", got, None if got is None else got <= bound)


def _against(who: str, bounds: dict[int, float], get: Get) -> Iterator[Target]:
    for model in SMALL:
        for count, bound in bounds.items():
            line = get(model, "json", count, who)
            what = f"{model}, JSON, {count}: against {who}"
            yield _least(what, bound, line.ratio if line else None)


def _cnn(get: Get) -> Iterator[Target]:
    for body in ("json", "binary"):
        for count in (32, 128):
            peers = ("mosec", "triton", "bentoml", "litserve", "mlserver", "ray")
            others = [get("cnn", body, count, f"{peer}, tuned") for peer in peers]
            ratios = [line.ratio for line in others if line and line.ratio is not None]
            what = f"cnn, {body}, {count}: against the best peer tuned"
            yield _least(what, 1.8, min(ratios) if ratios else None)


def _mobilenet(get: Get) -> Iterator[Target]:
    for who, bound, words in (
        (f"{IN_PROCESS}, our plan", 0.9, "the same plan in-process"),
        (IN_PROCESS, 1.2, "the restored function in-process"),
    ):
        line = get("mobilenet", "binary", 8, who)
        yield _least(f"mobilenet, binary, 8: against {words}", bound, line.ratio if line else None)


def _lone(get: Get) -> Iterator[Target]:
    for model in SMALL:
        base = get(model, "json", 1, f"{IN_PROCESS}, our plan")
        for who, bound, words in ((CLIENT, 0.5, "client over ipc"), (OURS, 0.8, "HTTP JSON")):
            line = get(model, "json", 1, who)
            got = 1e3 * (line.p50 - base.p50) if line and base else None
            yield _most(f"{model}: lone request above the call, {words}", bound, got, " ms")


def _shape(get: Get) -> Iterator[Target]:
    for model in SMALL:
        few, many = get(model, "json", 32, OURS), get(model, "json", 512, OURS)
        got = many.rate / few.rate if few and many else None
        yield _least(f"{model}: throughput at 512 connections by that at 32", 0.9, got)
        line = get(model, "json", 128, OURS)
        yield _most(f"{model}: p99 by p50 at 128", 4.0, line.p99 / line.p50 if line else None, "x")
