"""Processes that are killed with -9 under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from urllib.parse import urlsplit

import psutil

from tests.faults import server as s
from tests.faults.load import under_load
from tests.faults.report import RESET
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate, ways
from tests.faults.ways import HttpWay
from tests.leftovers import MARK, memory_files
from tfrunner.testing import ServedClient

GONE_SECONDS = 5.0
"""So long after the supervisor's death everything must be gone."""

RESTART_MARGIN = 2.0
"""Beside the two seconds after which a lost dispatcher is answered for with 503."""


async def random_worker_kills(server: ServedClient, plan: Plan) -> Findings:
    """Kill -9 of a random worker every few seconds, three workers: nobody notices."""
    findings, choose = Findings(), random.Random(3)
    every, duration = plan.pick((2.0, 12.0), (20.0, 180.0))
    kills = 0
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        async with under_load(way, rate, bursty=True) as report:
            end = time.monotonic() + duration
            while time.monotonic() + every < end:
                await asyncio.sleep(every)
                victims = await s.until(lambda: s.running_workers(server))
                os.kill(choose.choice(victims), signal.SIGKILL)
                kills += 1
            await asyncio.sleep(every)
    findings.judge(report)
    again = await s.until(lambda: s.ready_workers(server) == 3)
    findings.require(bool(again), "the killed workers did not come back")
    requeued = s.model_state(server).get("requeued", 0)
    findings.note(f"{kills} kills, {requeued} requests were run again")
    if not kills:
        raise RuntimeError("no worker was killed: nothing was tested")
    return findings


async def dispatcher_kill(server: ServedClient, plan: Plan) -> Findings:
    """Kill -9 of the dispatcher: answers within the deadline, or 503 soon; never a wrong one."""
    findings = Findings()
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        for _ in range(plan.pick(1, 10)):
            epoch = (await s.until(lambda: s.state(server)))["epoch"]
            async with under_load(way, rate, timeout=10.0) as report:
                await asyncio.sleep(1.0)
                (await asyncio.to_thread(s.processes, server, "dispatcher"))[0].kill()
                killed = time.monotonic()
                await s.until(lambda old=epoch: s.state(server).get("epoch", old) != old)
                await s.until(lambda: s.ready_workers(server) > 0)
                back = time.monotonic()
                await asyncio.sleep(1.0)
            findings.judge(report, "unavailable")
            findings.note(f"a new dispatcher had workers after {back - killed:.2f} s")
            late = [
                x
                for x in report.sent
                if x.code == "unavailable"
                and x.ended - x.begun > 2.0 + (back - killed) + RESTART_MARGIN
            ]
            findings.require(not late, f"503 came late: {report.examples(late)}")
    return findings


async def api_kill(server: ServedClient, plan: Plan) -> Findings:
    """Kill -9 of one of two api processes: its own connections are reset, no other."""
    findings = Findings()
    async with HttpWay(server.http_address) as way:
        await way.connect(32)
        rate = await chosen_rate(way, findings)
        for _ in range(plan.pick(1, 10)):
            both = await s.until(lambda: len(x := s.processes(server, "api")) == 2 and x)
            await _reach_all(way, both)
            async with under_load(way, rate) as report:
                await asyncio.sleep(1.0)
                victim = random.choice(both)
                its_own = await asyncio.to_thread(_ports, victim)
                victim.kill()
                await s.until(lambda victim=victim: s.is_gone(victim))
                await s.until(lambda: len(s.processes(server, "api")) == 2)
                await asyncio.sleep(1.0)
            findings.judge(report, RESET)
            reset = [x for x in report.sent if x.code == RESET]
            others = [x for x in reset if x.place not in its_own]
            findings.note(f"{len(its_own)} connections were its own, {len(reset)} requests reset")
            findings.require(not others, f"connections of others broke: {report.examples(others)}")
    return findings


async def _reach_all(way: HttpWay, processes: list[psutil.Process]) -> None:
    """Open connections until every api process has eight: one may be ready before another."""
    deadline = time.monotonic() + s.LIMIT
    while min(await asyncio.to_thread(lambda: [len(_ports(each)) for each in processes])) < 8:
        if time.monotonic() > deadline:
            raise RuntimeError("an api process took no connections: nothing was tested")
        await way.connect(8)


def _ports(process: psutil.Process) -> set[int]:
    """Return the ports at the other ends of a process's connections."""
    return {each.raddr.port for each in process.net_connections("tcp") if each.raddr}


async def supervisor_kill(server: ServedClient, plan: Plan) -> Findings:
    """Kill -9 of the supervisor: in five seconds nothing of the server is left."""
    findings = Findings()
    everybody = s.processes(server)
    directory, address = s.run_directory(server), server.http_address
    mark = os.environ.get(MARK, "")
    files = memory_files(mark)
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        async with under_load(way, rate, timeout=5.0) as report:
            await asyncio.sleep(1.0)
            psutil.Process(server.pid).kill()
            killed = time.monotonic()
            await s.until(lambda: all(map(s.is_gone, everybody)), GONE_SECONDS)
            await s.until(lambda: not directory.exists(), killed + GONE_SECONDS - time.monotonic())
            findings.note(f"everything was gone after {time.monotonic() - killed:.2f} s")
    left = [process for process in everybody if not s.is_gone(process)]
    findings.require(not left, f"processes outlived the supervisor: {left}")
    findings.require(not directory.exists(), f"the run directory was left: {_names(directory)}")
    left_files = memory_files(mark) - files
    findings.require(not left_files, f"memory files were left: {left_files}")
    findings.require(not _listens(address), f"somebody still listens at {address}")
    findings.require(report.wrong == 0, f"{report.wrong} wrong answers")
    hung = [x for x in report.sent if x.code == "hung"]
    findings.require(not hung, f"callers hung: {report.examples(hung)}")
    for process in left:
        process.kill()
    return findings


def _names(directory: object) -> list[str]:
    return sorted(each.name for each in directory.iterdir()) if directory.is_dir() else []


def _listens(address: str) -> bool:
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port), 1.0).close()
    except ConnectionRefusedError:
        return False
    return True


ECHO = {"workers": 3, "max_batch_size": 8}

SCENARIOS = (
    Scenario(random_worker_kills, "no-requeue", ECHO),
    Scenario(dispatcher_kill, "no-resend", ECHO),
    Scenario(api_kill, "shared-fate", {**ECHO, "api_workers": 2}),
    Scenario(supervisor_kill, "no-parent", {**ECHO, "api_workers": 2}),
)
