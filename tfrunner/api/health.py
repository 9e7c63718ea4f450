"""Whether the server lives and is ready, and its numbers: /livez, /readyz, /metrics, /v1/status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tfrunner import exposition
from tfrunner.api.json_text import write
from tfrunner.api.state import ProcessState
from tfrunner.errors import Unavailable
from tfrunner.gateway import Gateway


class Health:
    """The routes that say how the server is.

    Args:
        gateway: The way to the dispatcher, which knows.
        state: Knows whether this process ends.
    """

    def __init__(self, gateway: Gateway, state: ProcessState) -> None:
        self._gateway = gateway
        self._state = state

    async def livez(self, request: Request) -> Response:
        """Answer that this process runs its event loop."""
        return JSONResponse({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """Answer 200 if the server is ready, 503 if not; the body says which model is what."""
        if self._state.is_draining:
            return JSONResponse({"status": "draining"}, status_code=503)
        try:
            state = await self._gateway.ask()
        except Unavailable as exc:
            return JSONResponse({"status": "not ready", "reason": exc.message}, status_code=503)
        is_ready, body = readiness(state)
        return JSONResponse(body, status_code=200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Answer with the whole server's numbers in Prometheus' text form."""
        text = exposition.expose(await self._gateway.ask(told=True))
        return Response(text, media_type=exposition.CONTENT_TYPE)

    async def status(self, request: Request) -> Response:
        """Answer with the dispatcher's state as it is, for the CLI and the client."""
        return Response(write(await self._gateway.ask()), media_type="application/json")


def readiness(state: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Return whether a server in that state is ready, and the body that says why.

    Ready is: every configured model is served by a warm worker or marked unavailable, and at
    least one is served, and the server does not end.
    """
    models: Mapping[str, Any] = state.get("models", {})
    by_state: dict[str, list[str]] = {"available": [], "loading": [], "unavailable": []}
    for tag, model in models.items():
        by_state[model["state"]].append(tag)
    is_draining = bool(state.get("draining"))
    is_ready = bool(by_state["available"]) and not by_state["loading"] and not is_draining
    if not models:  # a server of Services that need no model
        is_ready = not is_draining
    reasons = {tag: model.get("reason", "") for tag, model in models.items()}
    return is_ready, {
        "status": "ready" if is_ready else "draining" if is_draining else "not ready",
        "served": sorted(by_state["available"]),
        "loading": sorted(by_state["loading"]),
        "unavailable": {tag: reasons[tag] for tag in sorted(by_state["unavailable"])},
        "models": {tag: model["state"] == "available" for tag, model in models.items()},
    }
