"""What the fault suite shares."""

from __future__ import annotations

import pytest

from tests.faults.scenario import Plan


@pytest.fixture
def plan(pytestconfig: pytest.Config) -> Plan:
    """Return the form that was asked for: short, or `--long`."""
    return Plan(is_long=pytestconfig.getoption("--long"))
