"""Faults under load, with real processes and real signals: nothing is lost, nobody is mixed up.

pytest tests/faults            the short form, a few seconds for each fault
pytest tests/faults --long     the long form: the durations that are promised
pytest tests/faults -rP        shows the figures
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults import culprits, drains, hangs, kills, memory, pressure, stores
from tests.faults.scenario import Findings, Plan, Scenario
from tests.faults.server import served

pytestmark = pytest.mark.timeout(1200)

SCENARIOS = [
    pytest.param(scenario, id=scenario.name)
    for room in (kills, culprits, hangs, drains, pressure, memory)
    for scenario in room.SCENARIOS
]
OF_TENSORFLOW = [
    pytest.param(scenario, id=scenario.name, marks=pytest.mark.tensorflow)
    for scenario in stores.SCENARIOS
]


def run(scenario: Scenario, plan: Plan, *, sabotage: str = "") -> Findings:
    """Run a scenario with a server of its own; print its figures."""
    options = {"models": ("echo",), "echo": True, **scenario.options}
    models = options.pop("models")
    with served(*models, sabotage=sabotage, **options) as server:
        findings = asyncio.run(scenario.run(server, plan))
        if findings.problems and not sabotage:
            print(server.log.read_text(errors="replace")[-6000:])
    print(findings.text())
    return findings


@pytest.fixture
def store(request: pytest.FixtureRequest, home: Path) -> None:
    """Have a model of TensorFlow in the store, where the scenario serves one."""
    if request.node.get_closest_marker("tensorflow"):
        stores.save_identity(home)


@pytest.mark.parametrize("scenario", [*SCENARIOS, *OF_TENSORFLOW])
@pytest.mark.usefixtures("store")
def test_nothing_is_lost(scenario: Scenario, plan: Plan):
    """Every request has the outcome that is promised under this fault."""
    assert not run(scenario, plan).problems


@pytest.mark.parametrize("scenario", [*SCENARIOS, *OF_TENSORFLOW])
@pytest.mark.usefixtures("store")
def test_the_check_can_fail(scenario: Scenario):
    """The same scenario finds problems once the protection that it tests is switched off."""
    assert run(scenario, Plan(), sabotage=scenario.sabotage).problems
