"""Whether an api process makes spans: what is imported, what is missing, how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfrunner.api.tracing import start_tracing

OFF = """
import sys
from tfrunner.api import __main__, observing
from tfrunner.api.predict import Predict
from tfrunner.api.tracing import start_tracing
from tfrunner.gateway import Gateway

assert start_tracing("auto", "api-0-1") is None
assert start_tracing("off", "api-0-1") is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
gateway = Gateway("ipc:///tmp/none", name="g")
assert "submit" not in vars(gateway)  # the plain methods: not even a test for somebody who watches
print("nothing")
"""

MISSING = """
import sys
sys.modules["opentelemetry"] = None
from tfrunner.api.tracing import start_tracing
from tfrunner.errors import ConfigError
try:
    start_tracing("otlp", "api-0-1")
except ConfigError as exc:
    print(exc.message)
"""

CONFIGURED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tfrunner.api.tracing import start_tracing

assert start_tracing("auto", "api-0-1") is None  # imported, and not configured
trace.set_tracer_provider(TracerProvider())
print(start_tracing("auto", "api-0-1"), start_tracing("off", "api-0-1"))
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (OFF, "nothing"),
        (MISSING, "pip install 'tfrunner[otel]'"),
        (CONFIGURED, "<Tracing [as the Service configured it]> None"),
    ],
    ids=["off", "not installed", "configured by a Service"],
)
def test_nothing_is_imported_or_made_unless_it_is_asked_for(code: str, expected: str) -> None:
    """In a process of its own, which has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_a_receiver_that_does_not_answer_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are lost then, and the process ends."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = start_tracing("otlp", "api-0-1")
    assert tracing is not None
    assert "of our own" in repr(tracing)
    tracing.close()
