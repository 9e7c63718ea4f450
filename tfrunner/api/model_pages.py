"""What is served: `GET /v1/models`, a model's status (TensorFlow Serving's form), its metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tfrunner.api.health import readiness
from tfrunner.api.state import ProcessState
from tfrunner.errors import NotFound, did_you_mean
from tfrunner.gateway import Gateway
from tfrunner.specs import ModelSpec

STATES = {"available": "AVAILABLE", "loading": "LOADING", "unavailable": "UNAVAILABLE"}


class ModelPages:
    """The routes that say which models there are.

    Args:
        gateway: The way to the dispatcher.
        state: Knows whether this process ends.
    """

    def __init__(self, gateway: Gateway, state: ProcessState) -> None:
        self._gateway = gateway
        self._state = state

    async def list(self, request: Request) -> Response:
        """Answer with every version that is served, and the state of each."""
        states = (await self._gateway.ask()).get("models", {})
        specs = sorted(self._gateway.models.values(), key=lambda spec: (spec.name, spec.serial))
        return JSONResponse({"models": [describe(s, states.get(s.tag, {})) for s in specs]})

    async def status(self, request: Request) -> Response:
        """Answer with the state of a model's versions, as TensorFlow Serving's clients read it."""
        states = (await self._gateway.ask()).get("models", {})
        versions = [version_status(s, states.get(s.tag, {})) for s in self._find(request)]
        return JSONResponse({"model_version_status": versions})

    async def ready(self, request: Request) -> Response:
        """Answer 200 if one of the versions is served now, else 503."""
        state = await self._gateway.ask()
        tags = {spec.tag for spec in self._find(request)}
        models = {tag: each for tag, each in state.get("models", {}).items() if tag in tags}
        _, body = readiness({**state, "models": models})
        is_ending = state.get("draining") or self._state.is_draining
        is_ready = bool(body["served"]) and not is_ending
        body["status"] = "ready" if is_ready else "not ready"
        return JSONResponse(body, status_code=200 if is_ready else 503)

    async def metadata(self, request: Request) -> Response:
        """Answer with a version's specification: methods, their inputs and outputs."""
        params = request.path_params
        spec = self._gateway.find(params["name"], params.get("version"))
        return Response(msgspec.json.encode(spec), media_type="application/json")

    def _find(self, request: Request) -> Iterable[ModelSpec]:
        """Return the version that the path names, or all versions of the name."""
        name, version = request.path_params["name"], request.path_params.get("version")
        if version is not None or ":" in name:
            return [self._gateway.find(name, version)]
        models = self._gateway.models.values()
        found = [spec for spec in models if spec.name == name]
        if not found:
            near = did_you_mean(name, {spec.name for spec in models})
            raise NotFound(f"Could not find any versions of model {name}.{near}")
        return sorted(found, key=lambda spec: spec.serial, reverse=True)


def describe(spec: ModelSpec, state: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of the list of models."""
    known = state.get("methods", {})
    methods = {
        name: {**msgspec.to_builtins(method), **known.get(name, {})}
        for name, method in spec.methods.items()
    }
    return {
        "name": spec.name,
        "version": spec.version,
        "serial": spec.serial,
        "state": STATES.get(state.get("state", ""), "UNAVAILABLE"),
        "reason": state.get("reason", ""),
        "methods": methods,
    }


def version_status(spec: ModelSpec, state: dict[str, Any]) -> dict[str, Any]:
    """Return TensorFlow Serving's record of one version."""
    name = STATES.get(state.get("state", ""), "UNAVAILABLE")
    is_fine = name != "UNAVAILABLE"
    return {
        "version": spec.version,
        "state": name if is_fine else "END",
        "status": {
            "error_code": "OK" if is_fine else "UNAVAILABLE",
            "error_message": state.get("reason", ""),
        },
    }
