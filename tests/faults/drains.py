"""SIGTERM under load: what was sent on an open connection is answered.

A connection is open until the server says `Connection: close` on it, or closes it, as far as
the kernel of this side knows at the moment of sending. Refused connects are counted apart.
"""

from __future__ import annotations

import asyncio
import signal
import time

import psutil

from tests.faults import server as s
from tests.faults.load import under_load
from tests.faults.report import REFUSED
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate, ways
from tests.faults.ways import ClientWay, HttpWay
from tfrunner.testing import ServedClient

CONNECTIONS = 32
END_SECONDS = 20.0
"""Most time until what drains has ended: its requests take a fraction of a second."""


async def server_drain(server: ServedClient, plan: Plan) -> Findings:
    """SIGTERM to the supervisor: everything accepted is answered, then all is gone."""
    findings, everybody = Findings(), s.processes(server)
    client = ClientWay(server.address, retries=False)
    async with HttpWay(server.http_address) as http, client:
        await http.connect(CONNECTIONS)
        rate = await chosen_rate(http, findings)
        async with (
            under_load(http, 0.7 * rate) as over_http,
            under_load(client, 0.3 * rate, timeout=10.0) as direct,
        ):
            await asyncio.sleep(1.0)
            supervisor = psutil.Process(server.pid)
            supervisor.terminate()
            begin = time.monotonic()
            code = await asyncio.to_thread(supervisor.wait, END_SECONDS + 20.0)
            took = time.monotonic() - begin
    findings.judge(over_http, REFUSED)
    findings.judge(direct, "unavailable")
    findings.note(
        f"ended after {took:.1f} s with exit code {code}; {http.announced} closes announced"
    )
    findings.require(took < END_SECONDS, f"the end took {took:.1f} s")
    findings.require(code == 0, f"the exit code was {code}")
    findings.require(all(map(s.is_gone, everybody)), "processes were left")
    findings.require(not s.run_directory(server).exists(), "the run directory was left")
    return findings


async def api_drain(server: ServedClient, plan: Plan) -> Findings:
    """SIGTERM to one of two api processes: no request fails, no connect is refused."""
    findings = Findings()
    async with HttpWay(server.http_address) as http:
        await http.connect(CONNECTIONS)
        rate = await chosen_rate(http, findings)
        for _ in range(plan.pick(2, 20)):
            await s.until(lambda: len(s.processes(server, "api")) == 2)
            async with under_load(http, rate, bursty=True) as report:
                await asyncio.sleep(0.5)
                took = await _terminate(server, "api")
                await s.until(lambda: len(s.processes(server, "api")) == 2)
                await asyncio.sleep(0.5)
            findings.judge(report)
            findings.note(f"the api process ended after {took:.1f} s")
            findings.require(took < END_SECONDS, f"the end took {took:.1f} s")
    return findings


async def worker_drain(server: ServedClient, plan: Plan) -> Findings:
    """SIGTERM to a busy worker: it finishes what it holds, and nothing is run twice."""
    findings = Findings()
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        for _ in range(plan.pick(3, 20)):
            async with under_load(way, rate) as report:
                await asyncio.sleep(0.5)
                took = await _terminate(server, "worker")
                await s.until(lambda: s.ready_workers(server) == 3)
            findings.judge(report)
            findings.note(f"the worker ended after {took:.2f} s")
            findings.require(took < END_SECONDS, f"the end took {took:.1f} s")
    requeued = s.model_state(server).get("requeued", 0)
    findings.require(requeued == 0, f"{requeued} requests were cut off and run again")
    return findings


async def _terminate(server: ServedClient, kind: str) -> float:
    """Send SIGTERM to a process of a kind; return the seconds until it was gone."""
    if kind == "worker":
        victim = psutil.Process((await s.until(lambda: s.running_workers(server)))[0])
    else:
        victim = s.processes(server, kind)[0]
    victim.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    await s.until(lambda victim=victim: s.is_gone(victim), END_SECONDS + 5.0)
    return time.monotonic() - begin


ECHO = {"workers": 3, "max_batch_size": 8, "api_workers": 2}

SCENARIOS = (
    Scenario(server_drain, "no-api-drain", ECHO),
    Scenario(api_drain, "no-api-drain", ECHO),
    Scenario(worker_drain, "no-worker-drain", ECHO),
)
