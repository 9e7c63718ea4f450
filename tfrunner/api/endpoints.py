"""The endpoints of Services: POST /<route>, the user's function between two descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tfrunner.api.bodies import ClientGone, read_body
from tfrunner.api.state import ProcessState
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.io import Body
from tfrunner.service import Endpoint, Service


def endpoint_routes(services: Iterable[Service], *, state: ProcessState) -> list[Route]:
    """Return one route for each endpoint.

    Raises:
        ConfigError: Two Services have the same route.
    """
    routes: dict[str, Route] = {}
    for service in services:
        for endpoint in service.endpoints.values():
            if endpoint.route in routes:
                raise ConfigError(f"two Services have the route {endpoint.route!r}")
            answer = _answer(endpoint, state)
            routes[endpoint.route] = Route(endpoint.route, answer, methods=["POST"])
    return list(routes.values())


def _answer(endpoint: Endpoint, state: ProcessState) -> Any:
    async def answer(request: Request) -> Response:
        length = request.headers.get("content-length")
        try:
            data = await read_body(
                request.receive,
                state.bounds.body_limit,
                length=length.encode() if length else None,
                held=state.held,
            )
        except ClientGone:
            raise ClientDisconnect from None
        value = endpoint.input.read(Body(data, request.headers.get("content-type", "")))
        try:
            result = await _run(endpoint, value)
        except TFRunnerError:
            raise
        except Exception as exc:
            raise TFRunnerError(
                f"the endpoint {endpoint.name!r} failed; the server's log has the details"
            ) from exc
        body = endpoint.output.write(result)
        return Response(body.data, media_type=body.content_type)

    return answer


async def _run(endpoint: Endpoint, value: Any) -> Any:
    """Call the user's function: in the event loop if it is async, else in a thread."""
    if endpoint.is_async:
        return await endpoint.function(value)
    return await run_in_threadpool(endpoint.function, value)
