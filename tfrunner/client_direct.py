"""The client's way straight to the dispatcher's frontend, over ipc or tcp on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import msgspec

from tfrunner import casting
from tfrunner.attempts import Attempts
from tfrunner.background import BackgroundGateway
from tfrunner.client_models import ModelCall, ModelState, choose_method, spread
from tfrunner.connections import owned
from tfrunner.errors import DeadlineExceeded, Unavailable
from tfrunner.gateway import Gateway
from tfrunner.specs import MethodSpec, ModelSpec

NAME = "client"
"""What the identities of clients begin with."""

ASK_SECONDS = 2.0
SLACK_SECONDS = 0.5
"""How long after a request's timeout its gateway is given up: its own timer answers before."""


class DirectChannel:
    """A gateway in a thread of its own, shared by any number of threads.

    Args:
        address: The dispatcher's frontend.
        find: Says where the dispatcher listens by now, asked while it does not answer.
    """

    def __init__(self, address: str, *, find: Callable[[], str] | None = None) -> None:
        self._background = BackgroundGateway(address, name=NAME, find=find)

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._background.address

    def open(self, timeout: float) -> None:
        """Connect; wait for the dispatcher's first word."""
        self._background.start(timeout)

    def predict(self, call: ModelCall, attempts: Attempts, timeout: float) -> Any:
        """Return the outputs of a call."""
        deadline = time.monotonic() + timeout
        model, method, cast = _prepare(self._background.gateway, call)
        attempts.is_repeatable = method.repeatable
        future = self._background.submit(model, method, cast, timeout=timeout)
        try:
            return future.result(deadline - time.monotonic() + SLACK_SECONDS).value()
        except FutureTimeout:
            if future.done():
                raise  # the gateway's own DeadlineExceeded
            raise DeadlineExceeded(
                f"no answer from {self.address} within {attempts.timeout:.3g} s"
            ) from None
        finally:
            future.cancel()  # nothing to do, unless the caller stopped waiting

    def models(self, attempts: Attempts, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        state = self._background.ask(timeout)
        return _records(self._background.gateway.models, state)

    def is_ready(self, model: str | None, attempts: Attempts, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        try:
            state = self._background.ask(min(timeout, ASK_SECONDS))
        except (Unavailable, DeadlineExceeded):
            return False
        return _is_ready(_records(self._background.gateway.models, state), state, model)

    def status(self, attempts: Attempts, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return self._background.ask(timeout)

    def close(self) -> None:
        """Close the gateway and end its thread."""
        self._background.close()


class AsyncDirectChannel:
    """A gateway in the caller's event loop; its arguments are those of `DirectChannel`."""

    def __init__(self, address: str, *, find: Callable[[], str] | None = None) -> None:
        self._gateway = Gateway(address, name=NAME, find=find)

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._gateway.address

    async def open(self, timeout: float) -> None:
        """Connect; wait for the dispatcher's first word."""
        await self._gateway.open(timeout)

    async def predict(self, call: ModelCall, attempts: Attempts, timeout: float) -> Any:
        """Return the outputs of a call."""
        model, method, cast = _prepare(self._gateway, call)
        attempts.is_repeatable = method.repeatable
        answer = await self._gateway.submit(model, method, cast, timeout=timeout)
        return answer.value()

    async def models(self, attempts: Attempts, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        return _records(self._gateway.models, await self._gateway.ask(timeout))

    async def is_ready(self, model: str | None, attempts: Attempts, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        try:
            state = await self._gateway.ask(min(timeout, ASK_SECONDS))
        except (Unavailable, DeadlineExceeded):
            return False
        return _is_ready(_records(self._gateway.models, state), state, model)

    async def status(self, attempts: Attempts, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return await self._gateway.ask(timeout)

    async def close(self) -> None:
        """Close the gateway."""
        await self._gateway.close()


def _prepare(gateway: Gateway, call: ModelCall) -> tuple[ModelSpec, MethodSpec, casting.Call]:
    """Return the model and method that are meant, and the input as it travels."""
    model = gateway.find(call.model)
    method = choose_method(model, call.method)
    return model, method, call.in_form(method, _cast)


def _cast(call: ModelCall, method: MethodSpec) -> casting.Call:
    return owned(casting.cast(method, *spread(method, call.args, call.kwargs)))


def _records(models: Mapping[str, ModelSpec], state: Mapping[str, Any]) -> list[ModelState]:
    known: Mapping[str, Any] = state.get("models", {})
    records = []
    for tag, spec in models.items():
        row: Mapping[str, Any] = known.get(tag, {})
        records.append(
            ModelState(
                name=spec.name,
                version=spec.version,
                serial=spec.serial,
                state=str(row.get("state", "loading")).upper(),
                reason=row.get("reason", ""),
                methods=_methods(spec, row.get("methods", {})),
            )
        )
    return records


def _methods(spec: ModelSpec, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is specified of each method, in JSON's form, and what its workers found."""
    return {
        name: {**msgspec.json.decode(msgspec.json.encode(method)), **known.get(name, {})}
        for name, method in spec.methods.items()
    }


def _is_ready(records: list[ModelState], state: Mapping[str, Any], model: str | None) -> bool:
    """Return the server's readiness: no model is still loading, and one at least is served."""
    if state.get("draining"):
        return False
    if model is not None:
        return any(each.is_available for each in records if each.is_meant_by(model))
    if not records:  # a server of Services that need no model
        return True
    is_settled = all(each.state in ("AVAILABLE", "UNAVAILABLE") for each in records)
    return is_settled and any(each.is_available for each in records)
