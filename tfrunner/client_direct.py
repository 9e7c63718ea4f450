"""The client's way straight to the dispatcher's frontend, over ipc or tcp on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import msgspec

from tfrunner import casting
from tfrunner.attempts import Attempts, seconds_left
from tfrunner.background import BackgroundGateway
from tfrunner.client_models import ModelCall, ModelState, choose_method, spread
from tfrunner.connections import owned
from tfrunner.errors import DeadlineExceeded, Unavailable
from tfrunner.gateway import Gateway
from tfrunner.promises import Rescue
from tfrunner.shortcuts import Shortcut, shortcut
from tfrunner.specs import MethodSpec, ModelSpec

NAME = "client"
"""What the identities of clients begin with."""

ASK_SECONDS = 2.0


class DirectChannel:
    """A gateway that is shared, and driven, by any number of threads.

    Args:
        address: The dispatcher's frontend.
        find: Says where the dispatcher listens by now, asked while it does not answer.
    """

    def __init__(self, address: str, *, find: Callable[[], str] | None = None) -> None:
        self._background = BackgroundGateway(address, name=NAME, find=find)
        self._choices = Choices(self._background)

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
        model, method, cast = self._choices.prepare(call, waits=True)
        attempts.is_repeatable = method.repeatable
        return self._background.run(model, method, cast, timeout=deadline - time.monotonic())

    def submit(self, call: ModelCall, deadline: float, rescue: Rescue) -> Future[Any]:
        """Return a future of the outputs of a call; `rescue` is asked when it fails."""
        model, method, cast = self._choices.prepare(call)
        left = seconds_left(deadline, time.monotonic())
        return self._background.submit(model, method, cast, timeout=left, rescue=rescue)

    def models(self, attempts: Attempts, timeout: float) -> list[ModelState]:
        """Return every model that the server knows."""
        state = self._background.ask(timeout)
        return _records(self._background.models, state)

    def is_ready(self, model: str | None, attempts: Attempts, timeout: float) -> bool:
        """Return whether the server, or one model of it, is ready."""
        try:
            state = self._background.ask(min(timeout, ASK_SECONDS))
        except (Unavailable, DeadlineExceeded):
            return False
        return _is_ready(_records(self._background.models, state), state, model)

    def status(self, attempts: Attempts, timeout: float) -> dict[str, Any]:
        """Return the server's state."""
        return self._background.ask(timeout)

    def close(self) -> None:
        """Close the gateway."""
        self._background.close()


class AsyncDirectChannel:
    """A gateway in the caller's event loop; its arguments are those of `DirectChannel`."""

    def __init__(self, address: str, *, find: Callable[[], str] | None = None) -> None:
        self._gateway = Gateway(address, name=NAME, find=find, owns=True)
        self._choices = Choices(self._gateway)

    @property
    def address(self) -> str:
        """Where the dispatcher listens."""
        return self._gateway.address

    async def open(self, timeout: float) -> None:
        """Connect; wait for the dispatcher's first word."""
        await self._gateway.open(timeout)

    async def predict(self, call: ModelCall, attempts: Attempts, timeout: float) -> Any:
        """Return the outputs of a call."""
        model, method, cast = self._choices.prepare(call, waits=True)
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


class Choice(NamedTuple):
    """What names mean, and how its input is cast where that can be done the short way."""

    model: ModelSpec
    method: MethodSpec
    short: Shortcut | None

    def cast(self, call: ModelCall, method: MethodSpec) -> casting.Call:
        """Return the input of a call as it travels, with bytes of its own."""
        return owned(self._cast(call, method))

    def cast_for_one_who_waits(self, call: ModelCall, method: MethodSpec) -> casting.Call:
        """Return the same, with large bodies as they lie: see `connections.owned`."""
        return owned(self._cast(call, method), waits=True)

    def _cast(self, call: ModelCall, method: MethodSpec) -> casting.Call:
        if self.short is not None and len(call.args) == 1 and not call.kwargs:
            cast = self.short(call.args[0])
            if cast is not None:
                return cast
        return casting.cast(method, *spread(method, call.args, call.kwargs))


class Choices:
    """The model and method that names mean, looked up once for as long as the models stay.

    Args:
        gateway: Knows the models.
    """

    def __init__(self, gateway: Gateway | BackgroundGateway) -> None:
        self._gateway = gateway
        self._known: tuple[object, dict[tuple[str, str | None], Choice]] = (None, {})

    def prepare(
        self, call: ModelCall, *, waits: bool = False
    ) -> tuple[ModelSpec, MethodSpec, casting.Call]:
        """Return the model and method that are meant, and the input as it travels.

        Args:
            call: What is called.
            waits: Whether its caller waits for the answer; see `connections.owned`.
        """
        models, known = self._known
        if models is not self._gateway.models:  # another dispatcher
            models, known = self._known = self._gateway.models, {}
        names = call.model, call.method
        chosen = known.get(names)
        if chosen is None:
            model = self._gateway.find(call.model)
            method = choose_method(model, call.method)
            chosen = known[names] = Choice(model, method, shortcut(method))
        make = chosen.cast_for_one_who_waits if waits else chosen.cast
        return chosen.model, chosen.method, call.in_form(chosen.method, make)


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
