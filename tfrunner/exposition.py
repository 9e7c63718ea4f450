"""The text of `/metrics`: the dispatcher's state, and what users' own metrics add up to. Pure.

All counters live in the dispatcher, so that every api process shows the whole server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "expose", "expose_told", "families"]

State = Mapping[str, Any]


def expose(state: State) -> bytes:
    """Return the text that `/metrics` answers with.

    Args:
        state: The dispatcher's snapshot.
    """
    return _written([*families(state), *told(state.get("told", ()))])


def expose_told(metrics: Iterable[State]) -> bytes:
    """Return users' own metrics alone, as `Told.as_data` gives them."""
    return _written(list(told(metrics)))


def _written(metrics: list[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Metrics(metrics))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def families(state: State) -> Iterator[Metric]:
    """Yield every metric of the server; what a snapshot lacks counts as zero."""
    models: State = state.get("models", {})
    yield _gauge("up", "1: the dispatcher answers.", [((), 1.0)])
    uptime = [((), state.get("uptime", 0.0))]
    yield _gauge("uptime_seconds", "Seconds since the dispatcher started.", uptime)
    yield from _model_counters(models)
    yield from _model_gauges(models)
    yield from _model_histograms(models)
    yield from _workers(state)
    yield from _processes(state)
    yield from _front_desk(state)


Samples = Iterable[tuple[tuple[str, ...], float]]


def _counter(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = CounterMetricFamily(f"tfrunner_{name}", text, labels=labels)
    for values, amount in samples:
        family.add_metric(values, amount)
    return family


def _gauge(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"tfrunner_{name}", text, labels=labels)
    for values, amount in samples:
        family.add_metric(values, amount)
    return family


def _by(models: State, key: str) -> Samples:
    """Return a number of each model."""
    return [((tag,), model.get(key, 0)) for tag, model in models.items()]


def _by_key(models: State, key: str) -> Samples:
    """Return the numbers of a mapping that each model has."""
    return [
        ((tag, label), amount)
        for tag, model in models.items()
        for label, amount in model.get(key, {}).items()
    ]


def _model_counters(models: State) -> Iterator[Metric]:
    requests = _by_key(models, "requests")
    yield _counter(
        "requests", "Requests answered, by outcome: ok or an error's code.", requests,
        "model", "outcome",
    )  # fmt: skip
    refused = _by_key(models, "refused")
    yield _counter(
        "refused", "Requests refused on arrival, before they were queued, by why.", refused,
        "model", "reason",
    )  # fmt: skip
    for key, text in (
        ("rows", "Rows answered."),
        ("batches", "Batches run."),
        ("requeued", "Requests run again after their worker was lost."),
        ("bisected", "Failed batches that were cut in two."),
        ("poisoned", "Requests that ended the worker that ran them alone."),
        ("fenced", "Workers that were killed because they hung or could not be reached."),
        ("out_of_memory", "Batches that the device's memory did not hold."),
        ("late", "Replies to an earlier attempt, which were dropped."),
        ("padded_rows", "Rows added to batches to reach an allowed size."),
        ("predicted_seconds", "Seconds that batches were predicted to take."),
        ("error_seconds", "Seconds by which batches took longer or shorter than predicted."),
    ):
        yield _counter(key, text, _by(models, key), "model")
    reasons = _by_key(models, "reasons")
    yield _counter(
        "dispatched", "Batches sent to workers, by why then.", reasons, "model", "reason"
    )
    dropped = _by_key(models, "dropped")
    yield _counter(
        "dropped", "Requests that were queued and not answered, by why.", dropped,
        "model", "reason",
    )  # fmt: skip
    clients = _by_key(models, "client_seconds")
    yield _counter(
        "client_seconds", "Device time, by client; of the first ones by name.", clients,
        "model", "client",
    )  # fmt: skip


def _model_gauges(models: State) -> Iterator[Metric]:
    for key, text in (
        ("queued_requests", "Requests that wait for a worker."),
        ("queued_rows", "Rows that wait for a worker."),
        ("queued_bytes", "Bytes that wait for a worker."),
    ):
        yield _gauge(key, text, _by(models, key), "model")
    yield _gauge(
        "workers_up", "Workers with a loaded, warm model.", _by(models, "workers"), "model"
    )
    available = [
        ((tag,), float(model.get("state") == "available")) for tag, model in models.items()
    ]
    yield _gauge("model_available", "1: the model is served.", available, "model")


def _model_histograms(models: State) -> Iterator[Metric]:
    rows = HistogramMetricFamily("tfrunner_batch_rows", "Rows in a batch.", labels=["model"])
    for tag, model in models.items():
        rows.add_metric([tag], *_rows_histogram(model.get("batch_rows", {})))
    yield rows
    for key, text in (
        ("queue_seconds", "Seconds that a request waited for a worker."),
        ("run_seconds", "Seconds that a batch took in the model. Two may overlap in one worker."),
        ("prediction_ratio", "What a batch took, over what was predicted."),
    ):
        family = HistogramMetricFamily(f"tfrunner_{key}", text, labels=["model"])
        for tag, model in models.items():
            if key in model:
                family.add_metric([tag], *_histogram(model[key]))
        yield family


Buckets = list[tuple[str, float]]


def _histogram(histogram: State) -> tuple[Buckets, float]:
    """Return cumulative buckets and the sum of {"bounds", "counts", "sum"}."""
    bounds = [f"{bound:g}" for bound in histogram["bounds"]]
    return _cumulative(bounds, histogram["counts"]), histogram["sum"]


def _cumulative(bounds: Iterable[str], counts: Iterable[float]) -> Buckets:
    total, buckets = 0.0, []
    for bound, count in zip([*bounds, "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _rows_histogram(counts: Mapping[str, float]) -> tuple[Buckets, float]:
    """Return cumulative buckets at powers of two, from how often each size was run."""
    sizes = {int(rows): count for rows, count in counts.items()}
    largest, bound, buckets = max(sizes, default=1), 1, []
    while True:
        within = sum(count for rows, count in sizes.items() if rows <= bound)
        buckets.append((str(bound), within))
        if bound >= largest:
            break
        bound *= 2
    buckets.append(("+Inf", sum(sizes.values())))
    return buckets, sum(rows * count for rows, count in sizes.items())


WORKER_STATES = ("starting", "ready", "busy", "leaving", "fenced")


def _workers(state: State) -> Iterator[Metric]:
    """Yield what workers do. They are named by their places, so that series outlive restarts."""
    places = {row["name"]: row.get("slot", row["name"]) for row in state.get("processes", ())}
    workers = {
        (places.get(name, name), worker.get("model", "")): worker
        for name, worker in state.get("workers", {}).items()
    }
    for key, text in (
        ("running", "Batches that a worker runs now."),
        ("staged", "Batches that lie ready at a worker."),
        ("limit", "Most rows that a worker is given; lower after it was out of memory."),
    ):
        samples = [(labels, worker.get(key, 0)) for labels, worker in workers.items()]
        yield _gauge(f"worker_{key}", text, samples, "worker", "model")
    done = [(labels, worker.get("batches", 0)) for labels, worker in workers.items()]
    yield _counter("worker_batches", "Batches that a worker has run.", done, "worker", "model")
    states = [
        ((*labels, each), float(worker.get("state") == each))
        for labels, worker in workers.items()
        for each in WORKER_STATES
    ]
    yield _gauge("worker_state", "1: the worker is in it.", states, "worker", "model", "state")


def _processes(state: State) -> Iterator[Metric]:
    """Yield what the supervisor sees: one sample for each place of a process."""
    rows = state.get("processes", ())

    def samples(key: str) -> Samples:
        return [((row.get("slot", row["name"]), row["kind"]), row.get(key) or 0) for row in rows]

    labels = ("process", "kind")
    yield _counter("restarts", "Times a process was started again.", samples("restarts"), *labels)
    rss = samples("rss")
    yield _gauge("process_resident_bytes", "Resident memory of a process.", rss, *labels)
    uss = samples("uss")
    yield _gauge("process_private_bytes", "Memory that no other process shares.", uss, *labels)
    cpu = samples("cpu_seconds")
    yield _counter("process_cpu_seconds", "CPU time of a process.", cpu, *labels)


FRONT_DESK = {
    "http_refused": ("HTTP requests that were refused before they reached a queue.", "code"),
    "large_bodies": ("Tensors of 64 KB and more, by the way that they took to workers.", "way"),
}
"""What the counters of gateways mean, and what their label is."""


def _front_desk(state: State) -> Iterator[Metric]:
    """Yield the counters that gateways send; the dispatcher knows only their names."""
    counters = state.get("counters", {})
    for name, (text, label) in FRONT_DESK.items():
        samples = [((value,), amount) for value, amount in counters.get(name, {}).items()]
        yield _counter(name, text, samples, label)


def told(metrics: Iterable[State]) -> Iterator[Metric]:
    """Yield users' own metrics; one without labels that nobody has counted in is zero."""
    for each in metrics:
        name, text, labels, kind = each["name"], each["text"], each["labels"], each["kind"]
        samples = each["samples"]
        if kind == "histogram":
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for values, numbers in samples:
                *counts, total = numbers
                buckets = _cumulative(map(repr, each["bounds"]), counts)
                histogram.add_metric(values, buckets, total)
            yield histogram
        elif kind == "summary":
            summary = SummaryMetricFamily(name, text, labels=labels)
            for values, (count, total) in samples:
                summary.add_metric(values, count, total)
            yield summary
        else:
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(name, text, labels=labels)
            for values, (number,) in samples or ([] if labels else [((), (0.0,))]):
                family.add_metric(values, number)
            yield family
