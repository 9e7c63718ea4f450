"""More load than the server can carry, and a disk that takes nothing more."""

from __future__ import annotations

import asyncio
import random
import resource
import time

from tests.faults import server as s
from tests.faults.load import capacity, under_load
from tests.faults.report import OK, REFUSALS
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate, ways
from tests.faults.ways import HttpWay
from tfrunner.testing import ServedClient

DEADLINE = 1.0
"""Seconds that each request has under overload."""

PAUSE = 0.15
"""Who is accepted is answered after 0.8 s: what stands still for longer makes requests late."""

SETTLE_SECONDS = 2.0
"""The queue fills first; figures are of the time after."""


async def twice_the_capacity(server: ServedClient, plan: Plan) -> Findings:
    """Load at 2x: who is accepted is answered in time, others are refused at once."""
    findings = Findings()
    # The promise of the long form has a margin in the short one: machines of CI are noisy.
    slowest_refusal, least_goodput = plan.pick((0.030, 0.8), (0.010, 0.9))
    pauses: list[tuple[float, float]] = []
    watching = asyncio.get_running_loop().create_task(note_pauses(pauses))
    async with HttpWay(server.http_address) as way:
        peak = await capacity(way, callers=64, seconds=3.0)
        async with under_load(way, 2 * peak, timeout=DEADLINE, bursty=True) as report:
            await asyncio.sleep(SETTLE_SECONDS)
            begin = time.monotonic()
            await asyncio.sleep(plan.pick(6.0, 60.0))
            end = time.monotonic()
    watching.cancel()
    findings.note(f"peak {peak:.0f}/s, load {2 * peak:.0f}/s; {report.text()}")
    findings.note(f"the machine stood still {len(pauses)} times")
    late = "deadline_exceeded"
    steady = [x for x in report.sent if begin <= x.planned < end - DEADLINE]
    accepted = [
        x
        for x in steady
        if x.code not in REFUSALS
        and not any(x.planned < after and before < x.planned + DEADLINE for before, after in pauses)
    ]
    in_time = [x for x in accepted if x.code == OK]
    refusal = report.latency(0.5, *REFUSALS)
    goodput = report.rate(begin, end) / peak
    findings.note(
        f"{len(accepted)} accepted, {len(in_time)} of them in time; refusals p50 "
        f"{refusal * 1e3:.1f} ms; goodput {goodput:.0%} of the peak"
    )
    findings.require(report.wrong == 0, f"{report.wrong} wrong answers")
    others = report.failed(allowed=(*REFUSALS, late))
    findings.require(not others, report.examples(others))
    findings.require(
        len(in_time) >= 0.99 * len(accepted),
        f"{len(accepted) - len(in_time)} of {len(accepted)} accepted requests were late",
    )
    findings.require(refusal <= slowest_refusal, f"refusals took {refusal * 1e3:.1f} ms")
    findings.require(goodput >= least_goodput, f"goodput is {goodput:.0%} of the peak")
    return findings


async def note_pauses(pauses: list[tuple[float, float]]) -> None:
    """Note from when to when this process was not run: nobody can promise a time over that."""
    before = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        after = time.monotonic()
        if after - before > PAUSE:
            pauses.append((before, after))
        before = after


async def full_disk(server: ServedClient, plan: Plan) -> Findings:
    """No process can write to a file any more, then a worker dies: serving goes on."""
    findings = Findings()
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        async with under_load(way, rate) as report:
            for pid in (server.pid, *(process.pid for process in s.processes(server))):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
            for _ in range(plan.pick(1, 10)):
                victims = await s.until(lambda: s.running_workers(server))
                await asyncio.sleep(0.5)
                victim = random.choice(
                    [p for p in s.processes(server, "worker") if p.pid in victims]
                )
                victim.kill()
                await s.until(lambda victim=victim: s.is_gone(victim))
                again = await s.until(lambda: s.ready_workers(server) == 3, 15.0)
                findings.require(bool(again), "the killed worker did not come back")
                await asyncio.sleep(0.5)
    findings.judge(report)
    return findings


SCENARIOS = (
    Scenario(twice_the_capacity, "no-admission", {"workers": 1, "max_batch_size": 8}),
    Scenario(full_disk, "fatal-log", {"workers": 3, "max_batch_size": 8}),
)
