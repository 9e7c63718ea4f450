"""The dispatcher's state as Prometheus metrics."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tfrunner.exposition import expose, families
from tfrunner.protocol import SEGMENT_REFUSED

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "observability.md").read_text()

STATE: dict[str, Any] = {
    "epoch": "e",
    "draining": False,
    "uptime": 12.5,
    "models": {
        "m:v1": {
            "state": "available",
            "reason": "",
            "workers": 2,
            "queued_requests": 3,
            "queued_rows": 4,
            "queued_bytes": 80,
            "methods": {},
            "requests": {"ok": 10, "model_error": 1},
            "rows": 25,
            "batches": 6,
            "batch_rows": {"1": 2, "3": 1, "8": 3},
            "queue_seconds": {"bounds": [0.001, 0.01], "counts": [5, 4, 1], "sum": 0.5},
            "run_seconds": {"bounds": [0.001, 0.01], "counts": [0, 6, 0], "sum": 0.03},
            "refused": {"queue_full": 7},
            "requeued": 2,
            "bisected": 1,
            "poisoned": 3,
            "fenced": 4,
            "out_of_memory": 5,
            "late": 6,
            "reasons": {"idle": 4, "full": 2},
            "dropped": {"early": 8, "expired": 9},
            "client_seconds": {"": 1.5, "(others)": 2.5},
            "padded_rows": 11,
            "predicted_seconds": 3.5,
            "error_seconds": 0.25,
            "prediction_ratio": {"bounds": [0.5, 1.25], "counts": [1, 4, 1], "sum": 5.5},
        },
        "gone:v1": {"state": "unavailable", "reason": "corrupt"},
    },
    "workers": {
        "w-2": {
            "model": "m:v1",
            "pid": 5,
            "running": 1,
            "staged": 0,
            "batches": 6,
            "limit": 32,
            "state": "busy",
        }
    },
    "processes": [
        {
            "name": "w-2",
            "slot": "w",
            "kind": "worker",
            "pid": 5,
            "rss": 1000,
            "uss": 800,
            "cpu_seconds": 1.5,
            "restarts": 2,
        },
        {"name": "api0", "kind": "api", "pid": 6, "rss": None, "state": "starting"},
    ],
    "counters": {"http_refused": {"not_found": 4}},
}


def samples(state: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return what a Prometheus server would read."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(expose(state).decode())
        for sample in family.samples
    }


def test_every_number_of_the_state_is_exposed() -> None:
    """Counters, gauges, workers, processes and the front desk's counters."""
    read = samples(STATE)
    m = ("model", "m:v1")
    assert read["tfrunner_up", ()] == 1
    assert read["tfrunner_uptime_seconds", ()] == 12.5
    assert read["tfrunner_requests_total", (m, ("outcome", "ok"))] == 10
    assert read["tfrunner_requests_total", (m, ("outcome", "model_error"))] == 1
    assert read["tfrunner_refused_total", (m, ("reason", "queue_full"))] == 7
    for name, value in (("rows", 25), ("batches", 6), ("requeued", 2), ("bisected", 1)):
        assert read[f"tfrunner_{name}_total", (m,)] == value
    for name, value in (("poisoned", 3), ("fenced", 4), ("out_of_memory", 5), ("late", 6)):
        assert read[f"tfrunner_{name}_total", (m,)] == value
    assert read["tfrunner_dispatched_total", (m, ("reason", "full"))] == 2
    assert read["tfrunner_dropped_total", (m, ("reason", "early"))] == 8
    assert read["tfrunner_client_seconds_total", (("client", ""), m)] == 1.5
    assert read["tfrunner_client_seconds_total", (("client", "(others)"), m)] == 2.5
    for name, value in (("padded_rows", 11), ("predicted_seconds", 3.5), ("error_seconds", 0.25)):
        assert read[f"tfrunner_{name}_total", (m,)] == value
    for name, value in (("queued_requests", 3), ("queued_rows", 4), ("queued_bytes", 80)):
        assert read[f"tfrunner_{name}", (m,)] == value
    assert read["tfrunner_workers_up", (m,)] == 2
    assert read["tfrunner_model_available", (m,)] == 1
    assert read["tfrunner_model_available", (("model", "gone:v1"),)] == 0
    worker = (m, ("worker", "w"))
    assert read["tfrunner_worker_limit", worker] == 32
    assert read["tfrunner_worker_state", (m, ("state", "busy"), ("worker", "w"))] == 1
    assert read["tfrunner_worker_state", (m, ("state", "ready"), ("worker", "w"))] == 0
    assert read["tfrunner_worker_running", worker] == 1
    assert read["tfrunner_worker_batches_total", worker] == 6
    process = (("kind", "worker"), ("process", "w"))
    assert read["tfrunner_restarts_total", process] == 2
    assert read["tfrunner_process_resident_bytes", process] == 1000
    assert read["tfrunner_process_private_bytes", process] == 800
    assert read["tfrunner_process_cpu_seconds_total", process] == 1.5
    assert read["tfrunner_http_refused_total", (("code", "not_found"),)] == 4


def test_histograms_are_cumulative() -> None:
    """Buckets, count and sum as Prometheus reads them; batch rows at powers of two."""
    read = samples(STATE)

    def bucket(name: str, bound: str) -> float:
        return read[f"tfrunner_{name}_bucket", (("le", bound), ("model", "m:v1"))]

    m = (("model", "m:v1"),)
    assert [bucket("queue_seconds", each) for each in ("0.001", "0.01", "+Inf")] == [5, 9, 10]
    assert read["tfrunner_queue_seconds_sum", m] == 0.5
    assert [bucket("prediction_ratio", each) for each in ("0.5", "1.25", "+Inf")] == [1, 5, 6]
    assert [bucket("batch_rows", each) for each in ("1", "2", "4", "8", "+Inf")] == [2, 2, 3, 6, 6]
    assert read["tfrunner_batch_rows_sum", m] == 2 * 1 + 3 + 8 * 3
    assert read["tfrunner_batch_rows_count", m] == 6


def test_a_server_without_models_has_metrics() -> None:
    """Whatever a snapshot lacks is zero or absent."""
    assert samples({"epoch": "e"})["tfrunner_up", ()] == 1


def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    """Line by line: nobody finds a metric that is explained nowhere, or one that is not there."""
    shown = re.findall(r"^\| (`tfrunner_.*) \|$", PAGE, flags=re.MULTILINE)
    there = []
    for family in families({}):
        total = "_total" if family.type == "counter" else ""
        labels = ", ".join(family._labelnames)
        cells = (f"`{family.name}{total}`", family.type, labels, family.documentation)
        there.append(" | ".join(cells).replace("|  |", "| |"))
    assert shown == there


def reasons(head: str) -> set[str]:
    """Return the first column of a table of the page."""
    table = PAGE.partition(f"| reason | {head} |")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))


def nodes(module: str) -> Iterable[ast.AST]:
    """Return all nodes of a module of the dispatcher."""
    return ast.walk(ast.parse((ROOT / "tfrunner" / "dispatcher" / f"{module}.py").read_text()))


def test_the_documentation_explains_every_reason_to_send_a_batch() -> None:
    """The words that stand in the policy and in the assignment are these, and one to wait."""
    words = {
        node.value
        for module in ("predictive", "sizing", "assignment")
        for node in nodes(module)
        if isinstance(node, ast.Constant) and re.fullmatch("[a-z_]+", str(node.value))
    }
    assert reasons("the batch") == words - {"open"}


def test_the_documentation_explains_every_reason_to_refuse_or_drop_a_request() -> None:
    """Those that `Requests.refuse` is given, by name or as the code, and those of drops."""
    found = set()
    for node in (*nodes("core"), *nodes("requests")):
        match node:
            case ast.Call(func=ast.Attribute(attr="refuse"), args=[_, code, *_], keywords=more):
                given = [each.value for each in more if each.arg == "reason"] or [code]
                found |= {ast.literal_eval(each) for each in given if type(each) is ast.Constant}
            case ast.Call(func=ast.Attribute(attr="_close"), args=[_, ast.Constant("drop"), why]):
                found.add(ast.literal_eval(why))
            case ast.Subscript(value=ast.Attribute(attr="dropped"), slice=ast.Constant(value=why)):
                found.add(why)
    found.discard("not_found")  # of no model that it could be counted for
    assert reasons("the request") == found | {SEGMENT_REFUSED}
