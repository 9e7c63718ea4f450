"""/docs and /openapi.json: what the server offers, with a page to try it. All assets are ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from tfrunner.api.openapi import document
from tfrunner.service import Service
from tfrunner.specs import ModelSpec

ASSETS = Path(__file__).parent / "assets"
MEDIA_TYPES = {"docs.css": "text/css", "docs.js": "text/javascript"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src data:",  # the empty icon
    "cache-control": "no-cache",
}


class KnowsModels(Protocol):
    """Who knows what is served: a gateway."""

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """What is served, by tag."""


class Docs:
    """The routes of the documentation.

    Args:
        gateway: Knows the models.
        services: Whose endpoints are shown.
    """

    def __init__(self, gateway: KnowsModels, services: Iterable[Service]) -> None:
        self._gateway = gateway
        self._services = tuple(services)

    async def document(self, request: Request) -> Response:
        """Answer with the OpenAPI document of what is served now."""
        models = self._gateway.models.values()
        return JSONResponse(document(models, self._services, version=own_version()))

    async def page(self, request: Request) -> Response:
        """Answer with the page."""
        return FileResponse(ASSETS / "docs.html", media_type="text/html", headers=HEADERS)

    async def asset(self, request: Request) -> Response:
        """Answer with one of the page's files."""
        name = request.path_params["asset"]
        if name not in MEDIA_TYPES:
            raise HTTPException(404)
        return FileResponse(ASSETS / name, media_type=MEDIA_TYPES[name], headers=HEADERS)


def own_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("tfrunner")
    except PackageNotFoundError:
        return "unknown"
