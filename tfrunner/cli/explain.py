"""Why batches are what they are: what `tfrunner status` shows of the dispatcher's reckoning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

State = Mapping[str, Any]
Row = tuple[str, ...]

BATCHES = ("batches of", "run", "rows", "padded", "queued", "ran", "predicted", "off by", "sent")
NUMBERS = frozenset(BATCHES[1:8])
SHOWN = 3
"""Reasons, and clients, that are named; the metrics have all."""


def batch_rows(state: State) -> Iterator[Row]:
    """Yield a row for each model that has run a batch: means, and why batches were sent."""
    for tag, model in state["models"].items():
        batches, rows = model["batches"], model["rows"]
        if not batches or "queue_seconds" not in model:
            continue
        predicted = sum(model["prediction_ratio"]["counts"])
        total = rows + model["padded_rows"]
        requests = sum(model["queue_seconds"]["counts"])
        yield (
            tag,
            str(batches),
            f"{rows / batches:.1f}",
            f"{model['padded_rows'] / total:.0%}",
            milliseconds(model["queue_seconds"]["sum"], requests),
            milliseconds(model["run_seconds"]["sum"], batches),
            milliseconds(model["predicted_seconds"], predicted),
            f"{model['error_seconds'] / model['predicted_seconds']:.0%}" if predicted else "-",
            shares(model["reasons"]),
        )


def consequences(state: State) -> Iterator[str]:
    """Yield lines on what was dropped, and who had the workers' time."""
    for tag, model in state["models"].items():
        if dropped := model.get("dropped"):
            yield f"{tag} dropped from its queue: {shares(dropped)}"
        clients = model.get("client_seconds", {})
        if len(clients) > 1:
            named = {name or "(no name)": seconds for name, seconds in clients.items()}
            yield f"{tag} device time by client: {shares(named)}"


def milliseconds(seconds: float, count: int) -> str:
    """Return a mean duration; "-" where nothing was measured."""
    return f"{1e3 * seconds / count:.2f} ms" if count else "-"


def shares(counts: Mapping[str, float]) -> str:
    """Return the largest counts as shares of all."""
    total = sum(counts.values())
    if not total:
        return "-"
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count / total:.0%}" for name, count in ordered[:SHOWN])
