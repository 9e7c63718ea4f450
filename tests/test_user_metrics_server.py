"""Users' own metrics in a real server: several api processes, workers, and their deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.test_user_metrics import samples
from tests.waiting import LIMIT, wait_for
from tfrunner.testing import ServedClient, serve

TARGET = f"{Path(__file__).parent}/metrics_service.py:svc"
CALLS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[ServedClient]:
    """Return a client of a server with two api processes and two workers."""
    with serve(TARGET, workers=2, api_workers=2) as client:
        yield client


def ask(server: ServedClient) -> None:
    """Call the endpoint once, over a connection of its own: any api process answers."""
    url = f"{server.http_address}/ask"
    reply = httpx.post(url, json=[1.0, 2.0], trust_env=False, timeout=LIMIT)
    assert reply.status_code == 200 and reply.json() == [1.0, 2.0], reply.text


def read(server: ServedClient, name: str) -> dict[Any, float]:
    """Return the samples of a metric as one api process, whichever it is, shows them."""
    reply = httpx.get(f"{server.http_address}/metrics", trust_env=False, timeout=LIMIT)
    return samples(reply.text, name) if reply.status_code == 200 else {}


def total(server: ServedClient, kind: str) -> float:
    """Return how many requests or rows were counted."""
    return read(server, "shop_asked").get(("shop_asked_total", (("kind", kind),)), 0)


def pids(server: ServedClient, kind: str) -> list[int]:
    """Return the processes of a kind that run."""
    rows = server.status()["processes"]
    return [row["pid"] for row in rows if row["kind"] == kind and row["pid"]]


def is_counted(server: ServedClient, calls: int) -> bool:
    """Whether all api processes show all calls and rows: asked often enough to meet each."""
    return all(
        (total(server, "call"), total(server, "row")) == (calls, 2 * calls) for _ in range(6)
    )


def test_any_api_process_shows_the_sums_of_all_processes_also_of_dead_ones(
    server: ServedClient,
) -> None:
    """Endpoints count in two api processes, the Runnable in two workers; then two are killed."""
    for _ in range(CALLS):
        ask(server)
    wait_for(lambda: is_counted(server, CALLS))
    wait_for(lambda: read(server, "shop_open") == {("shop_open", ()): 4.0})
    sizes = read(server, "shop_sizes")
    assert sizes["shop_sizes_sum", ()] == 2 * CALLS
    assert 1 <= sizes["shop_sizes_count", ()] <= CALLS
    assert read(server, "shop_unused") == {("shop_unused_total", ()): 0.0}

    for kind in ("api", "worker"):
        before = pids(server, kind)
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda b=before, k=kind: len(set(pids(server, k)) - set(b[:1])) == 2)
    ask(server)
    wait_for(lambda: is_counted(server, CALLS + 1))
    wait_for(lambda: read(server, "shop_open") == {("shop_open", ()): 4.0})

    (dispatcher,) = pids(server, "dispatcher")
    os.kill(dispatcher, signal.SIGKILL)
    wait_for(lambda: pids(server, "dispatcher") not in ([], [dispatcher]))
    # The living say all that they have counted to the new one; the dead cannot.
    wait_for(lambda: 0 < total(server, "call") <= CALLS + 1)
    wait_for(lambda: read(server, "shop_open") == {("shop_open", ()): 4.0})
