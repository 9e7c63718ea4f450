"""Workers that stand still, and requests that time out while they run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import psutil

from tests.faults import server as s
from tests.faults.load import SERVICE_SECONDS, Load, Row, under_load
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate, ways
from tests.faults.ways import ClientWay, Mixed
from tfrunner.testing import ServedClient

DETECTION_SECONDS = 12.0
"""Five seconds are promised where batches are short; the machine may be busy."""

DOOMED = 100
WIDTH = 3000
"""Columns of four bytes: such a request travels in frames, or shared memory, of its own."""


async def stopped_worker(server: ServedClient, plan: Plan) -> Findings:
    """SIGSTOP of a worker in mid-batch, SIGCONT later: it is replaced, and nobody fails."""
    findings = Findings()
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        for _ in range(plan.pick(1, 5)):
            async with under_load(way, rate, timeout=25.0) as report:
                await asyncio.sleep(0.5)
                victim = psutil.Process((await s.until(lambda: s.running_workers(server)))[0])
                victim.suspend()
                stopped = time.monotonic()
                gone = await s.until(lambda victim=victim: s.is_gone(victim), DETECTION_SECONDS)
                took = time.monotonic() - stopped
                if not gone:
                    victim.resume()
                again = await s.until(lambda: s.ready_workers(server) == 3, 10.0)
                await asyncio.sleep(0.5)
            findings.judge(report)
            findings.note(f"the stopped worker was gone after {took:.1f} s")
            findings.require(gone, f"the stopped worker lived on for {took:.1f} s")
            findings.require(bool(again), "no worker took its place")
    return findings


async def stopped_for_a_moment(server: ServedClient, plan: Plan) -> Findings:
    """SIGSTOP and, before anybody takes it for hung, SIGCONT: the same process goes on."""
    findings = Findings()
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        async with under_load(way, rate) as report:
            for _ in range(plan.pick(2, 30)):
                pid = (await s.until(lambda: s.running_workers(server)))[0]
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(1.0)
                with contextlib.suppress(ProcessLookupError):  # `fenced` tells
                    os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.5)
    findings.judge(report)
    fenced = s.model_state(server).get("fenced", 0)
    findings.require(fenced == 0, f"{fenced} workers were killed for standing still for a second")
    return findings


async def timeouts_in_flight(server: ServedClient, plan: Plan) -> Findings:
    """100 requests time out while they run, others take their place: every answer is right."""
    findings = Findings()
    way = Mixed(ClientWay(server.address), ClientWay(server.http_address))
    rate = await chosen_rate(way, findings, rows=_neighbour)
    timed_out, most_rounds = 0, plan.pick(8, 80)
    for _ in range(most_rounds):
        async with under_load(way, rate, rows=_neighbour) as report:
            doomed = Load(way, timeout=0.15)
            rows = (Row(0.25, 10_000 + number, width=WIDTH) for number in range(DOOMED // 2))
            await doomed.burst(rows)
            await asyncio.sleep(0.5)
        findings.judge(report)
        late = doomed.report.codes()
        findings.note(f"the doomed: {dict(late)}")
        findings.require(doomed.report.wrong == 0, "a doomed request got another's rows")
        timed_out += late["deadline_exceeded"]
        if timed_out >= plan.pick(1, 10) * DOOMED:
            break
    else:
        raise RuntimeError(f"only {timed_out} requests timed out in {most_rounds} rounds")
    for each in way.ways:
        await each.client.close()
    return findings


def _neighbour(id: int) -> Row:
    return Row(SERVICE_SECONDS, id, width=WIDTH)


ECHO = {"workers": 3, "max_batch_size": 8}

SCENARIOS = (
    Scenario(stopped_worker, "no-fence", ECHO),
    Scenario(stopped_for_a_moment, "no-patience", ECHO),
    Scenario(timeouts_in_flight, "reused-numbers", ECHO),
)
