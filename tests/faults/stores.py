"""TensorFlow workers that die while the model store cannot be read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import psutil

from tests.faults import server as s
from tests.faults.load import Row, under_load
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate
from tests.faults.ways import ClientWay, HttpWay, Mixed
from tfrunner.testing import ServedClient

TAG = "identity:1"


def save_identity(home: Path) -> None:
    """Save a model that gives back its rows. Imports TensorFlow."""
    import tensorflow as tf

    from tfrunner.tensorflow import save

    class Identity(tf.Module):
        """Gives back its rows."""

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            """Return the rows."""
            return tf.identity(x)

    save(Identity(), TAG, home=home)


async def lost_worker_without_store(server: ServedClient, plan: Plan) -> Findings:
    """Kill -9 of one of two workers; its successor cannot read the model: the other serves."""
    findings = Findings()
    store = Path(os.environ["TFRUNNER_HOME"]) / "models"
    away = store.with_name("away")
    how = {"model": TAG, "method": "__call__"}
    client, http = ClientWay(server.address, **how), HttpWay(server.http_address, **how)
    async with client, http:
        way = Mixed(client, http)
        rate = min(await chosen_rate(way, findings, rows=_row), 400.0)
        store.rename(away)
        try:
            async with under_load(way, rate, rows=_row) as report:
                await asyncio.sleep(0.5)
                psutil.Process(await _busy(server)).kill()
                said = await s.until(lambda: _reason(server), 90.0)
                await asyncio.sleep(plan.pick(1.0, 60.0))
        finally:
            away.rename(store)
    findings.judge(report)
    log = server.log.read_text(errors="replace")
    findings.require("is not there" in str(said), f"status does not say why: {said!r}")
    findings.require("its folder" in log and "is not there" in log, "the log does not say why")
    findings.require(s.ready_workers(server, TAG) >= 1, "nobody serves any more")
    return findings


async def _busy(server: ServedClient) -> int:
    """Return the process id of a worker; of one that runs a batch, if there is one."""
    workers = await s.until(lambda: s.running_workers(server), 2.0)
    return workers[0] if workers else s.processes(server, "worker")[0].pid


def _reason(server: ServedClient) -> str:
    """Return what the status says about trouble with the model."""
    state = s.state(server)
    reasons = [state.get("models", {}).get(TAG, {}).get("reason", "")]
    reasons += [each.get("last_error", "") for each in state.get("workers", {}).values()]
    return next((reason for reason in reasons if "is not there" in reason), "")


def _row(id: int) -> Row:
    return Row(0.0, id)


SCENARIOS = (
    Scenario(
        lost_worker_without_store,
        "one-for-all",
        {"workers": 2, "max_batch_size": 8, "models": (TAG,), "echo": False},
    ),
)
