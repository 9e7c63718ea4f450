"""Batches for which the device has no memory: run again in smaller ones."""

from __future__ import annotations

import asyncio

from tests.faults import server as s
from tests.faults.load import Load, Row, capacity, under_load
from tests.faults.scenario import CALLERS, SHARE, Findings, Plan, Scenario
from tests.faults.ways import ClientWay, HttpWay, Mixed
from tfrunner.testing import ServedClient


async def out_of_memory(server: ServedClient, plan: Plan) -> Findings:
    """A model that holds four rows, bursts of 64: everybody is answered, no worker is lost."""
    findings = Findings()
    client = ClientWay(server.address, method="hungry")
    http = HttpWay(server.http_address, method="hungry")
    async with client, http:
        way = Mixed(client, http)
        load = Load(way, rows=_row)
        for _ in range(plan.pick(5, 100)):
            await load.burst(_row(id) for id in range(64))
        findings.judge(load.report)
        rate = SHARE * await capacity(way, callers=CALLERS, rows=_row)
        rate = min(rate, 500.0)  # batches are not slowed down here: the load would be the test's
        async with under_load(way, rate, rows=_row, bursty=True) as report:
            await asyncio.sleep(plan.pick(2.0, 60.0))
        findings.judge(report)
    model = s.model_state(server)
    largest = max(map(int, model["batch_rows"]))
    findings.note(f"{model['out_of_memory']} batches did not fit; largest that ran: {largest} rows")
    findings.require(largest <= 4, f"a batch of {largest} rows ran")
    findings.require(model["out_of_memory"] < 20, "the workers' limit was not learned")
    died = s.restarts(server, "worker")
    findings.require(died == 0, f"{died} workers died")
    return findings


def _row(id: int) -> Row:
    return Row(0.0, id)


SCENARIOS = (Scenario(out_of_memory, "no-smaller-batches", {"workers": 2, "max_batch_size": 32}),)
