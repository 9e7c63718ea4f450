"""Whether there are OpenTelemetry spans, and where they go. `spans` makes them.

Nothing of OpenTelemetry is imported unless it is asked for, or a Service's module has done so.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from tfrunner.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from tfrunner.api.spans import Spans

FLUSH_SECONDS = 2.0
"""So long an api process that ends waits for its last spans to leave."""


class Tracing:
    """The spans of an api process.

    Args:
        spans: Makes them.
        provider: Sends them; None: it is the user's own, who configured it and ends it.
    """

    def __init__(self, spans: Spans, provider: TracerProvider | None) -> None:
        self.spans = spans
        self._provider = provider

    def __repr__(self) -> str:
        return f"<Tracing [{'of our own' if self._provider else 'as the Service configured it'}]>"

    def close(self) -> None:
        """Send the last spans; a receiver that does not answer holds nobody up for long."""
        if self._provider is not None:
            last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
            last.start()
            last.join(FLUSH_SECONDS)


def start_tracing(choice: str, process: str) -> Tracing | None:
    """Return what makes spans, None where there are to be none.

    Args:
        choice: "otlp": spans go where OpenTelemetry's own variables say; "console": to standard
            error; "auto": as a Service's module has configured it, if one has; "off".
        process: The name of this process.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if choice == "off":
        return None
    if choice == "auto":
        return _follow_service()
    try:
        from tfrunner.api.spans import Spans, make_provider

        provider = make_provider(choice, process)
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"--tracing {choice} needs OpenTelemetry, and there is no module {exc.name!r}: "
            "pip install 'tfrunner[otel]'."
        ) from exc
    return Tracing(Spans(provider), provider)


def _follow_service() -> Tracing | None:
    """Return the spans of a provider that a Service's module has set."""
    api, sdk = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.sdk.trace")
    if api is None or sdk is None:
        return None
    provider = api.get_tracer_provider()
    if not isinstance(provider, sdk.TracerProvider):
        return None
    from tfrunner.api.spans import Spans

    return Tracing(Spans(provider), None)
