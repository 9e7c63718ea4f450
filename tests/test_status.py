"""What `tfrunner status` shows to people."""

from __future__ import annotations

from typing import Any

from tfrunner.cli.explain import batch_rows, consequences
from tfrunner.cli.status import model_rows, print_status, process_rows, troubles, worker_rows

LEDGER: dict[str, Any] = {"requests": {}, "refused": {}, "rows": 0, "batches": 0, "methods": {}}
STATE: dict[str, Any] = {
    "models": {
        "digits:1": {
            **LEDGER,
            **{"state": "available", "reason": "", "workers": 1, "queued_requests": 3},
            **{"max_batch_size": 64, "rows": 90, "batches": 30, "requeued": 2, "late": 1},
            "requests": {"ok": 50, "model_error": 4, "overloaded": 7},
            "refused": {"queue_full": 7},
            "methods": {"score": {"note": "not batched: rows differ"}},
        },
        "irises:2": {
            **LEDGER,
            **{"state": "unavailable", "workers": 0, "queued_requests": 0},
            **{"max_batch_size": 8, "reason": "its file is missing"},
        },
    },
    "workers": {
        "worker-digits-0-3": {
            **{"model": "digits:1", "state": "busy", "pid": 7, "device": "cpu", "batches": 30},
            **{"limit": 16, "last_error": "ResourceExhaustedError: " + "no memory " * 40},
        }
    },
    "processes": [
        {
            **{"name": "supervisor", "kind": "supervisor", "pid": 5, "state": "running"},
            **{"restarts": 0, "rss": 30e6, "uss": 20e6, "cpu_seconds": 0.5},
        },
        {
            **{"name": "worker-digits-0-3", "kind": "worker", "pid": 7, "state": "running"},
            **{"restarts": 2, "rss": 700e6, "cpu_seconds": 12.25},
        },
        {
            **{"name": "worker-irises-0-9", "kind": "worker", "pid": 0, "state": "waiting"},
            **{"restarts": 8, "rss": 0, "cpu_seconds": 0.0, "model": "irises:2"},
        },
    ],
}


def test_models_show_what_was_answered_failed_and_refused():
    """A refused request counts once, as refused."""
    assert list(model_rows(STATE)) == [
        ("digits:1", "available", "1", "3", "50", "4", "7", "3.0"),
        ("irises:2", "unavailable", "0", "0", "0", "0", "0", "0.0"),
    ]


def test_workers_show_what_supervisor_and_dispatcher_know():
    """A limit that was lowered is shown beside the bound; one that waits has no pid."""
    assert list(worker_rows(STATE)) == [
        (
            *("worker-digits-0-3", "7", "busy", "cpu", "digits:1", "30", "16 of 64", "2"),
            *("700.0 MB", "12.2 s"),
        ),
        ("worker-irises-0-9", "-", "waiting", "", "irises:2", "", "", "8", "0 B", "0.0 s"),
    ]
    assert list(process_rows(STATE)) == [
        ("supervisor", "5", "running", "0", "30.0 MB", "20.0 MB", "0.5 s")
    ]


def test_what_went_wrong_is_said_below_the_tables():
    """Reasons, refusals, failures, losses, and last errors, shortened."""
    *lines, last = troubles(STATE)
    assert lines == [
        "digits:1 refused requests: 7 queue_full",
        "digits:1 failed requests: 4 model_error",
        "digits:1 faults: 2 requeued, 1 late",
        "digits:1 score: not batched: rows differ",
        "irises:2 is unavailable: its file is missing",
    ]
    assert last.startswith("worker-digits-0-3 last error: ResourceExhaustedError: no memory")
    assert last.endswith(" ...") and len(last) < 240


def test_no_number_and_no_name_is_folded_at_100_columns(capsys):
    """The width of an ordinary terminal."""
    print_status(STATE, "http://127.0.0.1:8000", width=100)
    shown = capsys.readouterr().out
    assert max(map(len, shown.partition("digits:1 refused")[0].splitlines())) <= 100
    rows = [line.split() for line in shown.splitlines()]
    for row in (*model_rows(STATE), *worker_rows(STATE), *process_rows(STATE)):
        assert " ".join(row).split() in rows


# --- why batches are what they are ---------------------------------------------------------------


EXPLAINED: dict[str, Any] = {
    **STATE,
    "models": {
        "digits:1": {
            **STATE["models"]["digits:1"],
            **{"padded_rows": 10, "predicted_seconds": 0.06, "error_seconds": 0.006},
            "prediction_ratio": {"bounds": [1.0], "counts": [20, 10], "sum": 30.0},
            "queue_seconds": {"bounds": [1.0], "counts": [50, 0], "sum": 0.1},
            "run_seconds": {"bounds": [1.0], "counts": [30, 0], "sum": 0.066},
            "reasons": {"idle": 15, "staged": 10, "full": 4, "alone": 1},
            "dropped": {"expired": 3, "cancelled": 1},
            "client_seconds": {"ann": 0.3, "": 0.1},
        }
    },
}


def test_batches_show_predicted_against_actual_time_and_why_they_were_sent():
    """Means, the padded share, and the commonest reasons."""
    assert list(batch_rows(EXPLAINED)) == [
        (
            *("digits:1", "30", "3.0", "10%", "2.00 ms", "2.20 ms", "2.00 ms", "10%"),
            "idle 50%, staged 33%, full 13%",
        )
    ]


def test_a_model_without_batches_explains_nothing():
    """Nor does one of an older dispatcher."""
    assert list(batch_rows(STATE)) == []


def test_what_was_dropped_and_who_had_the_time_is_said():
    """By share."""
    assert list(consequences(EXPLAINED)) == [
        "digits:1 dropped from its queue: expired 75%, cancelled 25%",
        "digits:1 device time by client: ann 75%, (no name) 25%",
    ]


def test_the_whole_state_prints(capsys):
    """With every table."""
    print_status(EXPLAINED, "ipc:///run", width=160)
    shown = capsys.readouterr().out
    assert "predicted" in shown
    assert "idle 50%" in shown
