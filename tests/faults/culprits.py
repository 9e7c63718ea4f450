"""Requests and models that end their workers: only they fail."""

from __future__ import annotations

import asyncio

from tests.faults import server as s
from tests.faults.load import DIES, RAISES, SERVICE_SECONDS, Load, Row, constant, under_load
from tests.faults.report import OK
from tests.faults.scenario import Findings, Plan, Scenario, chosen_rate, ways
from tests.faults.ways import ClientWay, HttpWay, Mixed
from tfrunner.testing import ServedClient

COMPANY = 1000


async def killer_among_1000(server: ServedClient, plan: Plan) -> Findings:
    """A request that ends its worker's process: exactly it fails, after at most two deaths."""
    findings, killer = Findings(), COMPANY // 2
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        for _ in range(plan.pick(1, 10)):
            deaths = s.restarts(server, "worker")
            load = Load(way, rows=lambda id: _row(id, killer, DIES), timeout=20.0)
            arrivals = asyncio.ensure_future(load.arrive(_first(rate, COMPANY)))
            await arrivals
            await load.settle()
            await s.until(lambda: s.ready_workers(server) == 3)
            findings.judge(load.report, "poison_request")
            _require_only(findings, load, killer, "poison_request")
            deaths = s.restarts(server, "worker") - deaths
            findings.note(f"{deaths} workers died")
            findings.require(1 <= deaths <= 2, f"{deaths} workers died for one request")
    return findings


async def raiser_among_1000(server: ServedClient, plan: Plan) -> Findings:
    """A request for which the model raises: exactly it fails, and no worker dies."""
    findings, raiser = Findings(), COMPANY // 2
    async with ways(server) as way:
        rate = await chosen_rate(way, findings)
        load = Load(way, rows=lambda id: _row(id, raiser, RAISES), timeout=20.0)
        await load.arrive(_first(rate, COMPANY))
        await load.settle()
        findings.judge(load.report, "model_error")
        _require_only(findings, load, raiser, "model_error")
        deaths = s.restarts(server, "worker")
        findings.require(deaths == 0, f"{deaths} workers died for an exception")
    return findings


def _row(id: int, culprit: int, mark: float) -> Row:
    return Row(SERVICE_SECONDS, id, mark if id == culprit else 0.0)


def _first(rate: float, count: int):
    """Return the gaps of `count` arrivals."""
    return (gap for gap, _ in zip(constant(rate), range(count), strict=False))


def _require_only(findings: Findings, load: Load, culprit: int, code: str) -> None:
    """Require that the culprit failed with this code, and nobody else."""
    failed = {each.id: each.code for each in load.report.failed()}
    findings.require(failed == {culprit: code}, f"failed: {dict(list(failed.items())[:8])}")


async def crash_loop(server: ServedClient, plan: Plan) -> Findings:
    """A model whose workers die before they are ready, beside a healthy one."""
    findings = Findings()
    broken = (
        ClientWay(server.address, model="crash", retries=False),
        HttpWay(server.http_address, model="crash"),
    )
    async with ways(server) as way, broken[0], broken[1]:
        rate = await chosen_rate(way, findings)
        async with (
            under_load(way, rate) as healthy,
            under_load(Mixed(*broken), 20.0, timeout=8.0) as other,
        ):
            known = await s.until(
                lambda: s.model_state(server, "crash:1").get("state") == "unavailable", 30.0
            )
            findings.require(bool(known), "the model that cannot start was not said unavailable")
            said = len(other.sent)
            await asyncio.sleep(plan.pick(2.0, 60.0))
            after = other.sent[said:]
    findings.judge(healthy)
    findings.note(f"the other model: {other.text()}")
    findings.require(other.codes()[OK] == 0, "the broken model answered")
    bad = [x for x in other.sent if x.code != "unavailable"]
    findings.require(not bad, f"no 503: {other.examples(bad)}")
    findings.require(len(after) > 10, "requests to the broken model were not answered at once")
    reasons = {each.text for each in other.sent}
    unsaid = [each for each in reasons if "died" not in each]
    findings.require(not unsaid, f"the reason was not said: {unsaid[:3]}")
    return findings


ECHO = {"workers": 3, "max_batch_size": 8}

SCENARIOS = (
    Scenario(killer_among_1000, "no-isolation", ECHO),
    Scenario(raiser_among_1000, "no-bisection", ECHO),
    Scenario(crash_loop, "no-refusal", {**ECHO, "models": ("echo", "crash")}),
)
