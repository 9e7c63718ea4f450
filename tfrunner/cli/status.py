"""What `tfrunner status` shows: models, workers, and the other processes, for people."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from tfrunner.cli import explain
from tfrunner.cli.tables import bytes_text, print_table

REASON_WIDTH = 200
"""Characters of a reason or an error that are shown; the log has all."""

REFUSAL_CODES = {
    "queue_full": "overloaded",
    "model_unavailable": "unavailable",
    "draining": "unavailable",
}
"""What the callers were told, by the reason why a request was refused."""

State = Mapping[str, Any]
Row = tuple[str, ...]

MODELS = ("model", "state", "workers", "queued", "answered", "failed", "refused", "rows/batch")
WORKERS = (
    *("worker", "pid", "state", "device", "model", "batches", "limit", "restarts"),
    *("memory", "CPU"),
)
PROCESSES = ("process", "pid", "state", "restarts", "memory", "private", "CPU")
NUMBERS = frozenset((*MODELS[2:], *WORKERS[5:], "pid", "private"))


def print_status(state: State, where: str, *, width: int | None = None) -> None:
    """Print the state of a server as tables, and below them what went wrong.

    Args:
        state: The dispatcher's snapshot.
        where: The server's address.
        width: Columns of the screen; those of the terminal if not given.
    """
    show = partial(print_table, numbers=NUMBERS, whole=("state",), width=width)
    show(f"models at {where}", MODELS, model_rows(state))
    if batches := list(explain.batch_rows(state)):
        print_table("batches", explain.BATCHES, batches, numbers=explain.NUMBERS, width=width)
    if workers := list(worker_rows(state)):
        show("workers", WORKERS, workers)
    show("other processes", PROCESSES, process_rows(state))
    for line in (*explain.consequences(state), *troubles(state)):
        print(line)


def model_rows(state: State) -> Iterator[Row]:
    """Yield a row for each model."""
    for tag, model in state["models"].items():
        requests, refused = model["requests"], sum(model["refused"].values())
        answered = requests.get("ok", 0)
        counts = (
            *(model["workers"], model["queued_requests"], answered),
            *(sum(requests.values()) - answered - refused, refused),
        )
        mean = model["rows"] / model["batches"] if model["batches"] else 0.0
        yield (tag, model["state"], *map(str, counts), f"{mean:.1f}")


def worker_rows(state: State) -> Iterator[Row]:
    """Yield a row for each place of a worker: what the supervisor and the dispatcher know."""
    for row in state["processes"]:
        if row["kind"] != "worker":
            continue
        worker = state["workers"].get(row["name"], {})
        limit, most = worker.get("limit"), _bound(state, worker)
        shown = "" if limit is None else f"{limit} of {most}" if limit != most else str(limit)
        yield (
            *(row["name"], _pid(row), worker.get("state", row["state"])),
            *(worker.get("device", ""), worker.get("model", row.get("model", ""))),
            *(str(worker.get("batches", "")), shown, str(row["restarts"])),
            *(bytes_text(row["rss"]), _seconds(row)),
        )


def process_rows(state: State) -> Iterator[Row]:
    """Yield a row for each process that is no worker."""
    for row in state["processes"]:
        if row["kind"] != "worker":
            yield (
                *(row["name"], _pid(row), row["state"], str(row["restarts"])),
                *(bytes_text(row["rss"]), bytes_text(row.get("uss", 0)), _seconds(row)),
            )


def troubles(state: State) -> Iterator[str]:
    """Yield a line for each thing that went wrong: reasons, refusals, last errors, losses."""
    for tag, model in state["models"].items():
        if model["reason"]:
            yield f"{tag} is {model['state']}: {_short(model['reason'])}"
        if model["refused"]:
            yield f"{tag} refused requests: {_counts(model['refused'])}"
        if failed := _failures(model):
            yield f"{tag} failed requests: {_counts(failed)}"
        names = ("fenced", "requeued", "bisected", "poisoned", "out_of_memory", "late")
        if found := {name: model[name] for name in names if model.get(name)}:
            yield f"{tag} faults: {_counts(found)}"
        for name, method in model.get("methods", {}).items():
            if method["note"]:
                yield f"{tag} {name}: {_short(method['note'])}"
    for name, worker in state["workers"].items():
        if worker["last_error"]:
            yield f"{name} last error: {_short(worker['last_error'])}"


def _failures(model: State) -> dict[str, int]:
    """Return how many requests failed by outcome, without those that were refused."""
    failed: Counter[str] = Counter(model["requests"])
    del failed["ok"]
    for reason, count in model["refused"].items():
        failed[REFUSAL_CODES.get(reason, reason)] -= count
    return {outcome: count for outcome, count in failed.items() if count > 0}


def _bound(state: State, worker: State) -> int | None:
    model = state["models"].get(worker.get("model"), {})
    bound: int | None = model.get("max_batch_size")
    return bound


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in counts.items())


def _short(text: str) -> str:
    return textwrap.shorten(text, REASON_WIDTH, placeholder=" ...")


def _pid(row: State) -> str:
    return str(row["pid"] or "-")


def _seconds(row: State) -> str:
    return f"{row['cpu_seconds']:.1f} s"
