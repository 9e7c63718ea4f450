"""How a runner reaches its model: in this process, through a gateway, or through a thread.

All three take the same `Call` and give the same values, so that a runner cannot tell them
apart.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from tfrunner.attempts import Attempts, async_repeat, repeat
from tfrunner.caller import CALLER
from tfrunner.casting import Call
from tfrunner.errors import DeadlineExceeded, ModelError, StateError, TFRunnerError
from tfrunner.padding import cut_back
from tfrunner.shared_memory import LEND_FROM
from tfrunner.specs import MethodSpec, ModelSpec, leaves
from tfrunner.tensors import check_rows, decode_layout, unpack
from tfrunner.values import in_python

if TYPE_CHECKING:
    from tfrunner.background import BackgroundGateway
    from tfrunner.gateway import Answer, Gateway

SLACK_SECONDS = 1.0
"""A gateway's own timer answers first; a thread waits for it a little longer."""


class Connection(Protocol):
    """A way to a model."""

    def run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; wait for them."""

    async def async_run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs."""

    def close(self) -> None:
        """Let go of what the connection holds."""


class LocalConnection:
    """The model, loaded in this process: no batching, no other process.

    Args:
        methods: Each method as a function of its tensors; gives (arrays, structure).
        describe: Gives the text of what a model raises, as a worker words it.
    """

    def __init__(
        self,
        methods: dict[str, Callable[[list[Any]], Any]],
        *,
        describe: Callable[[BaseException], str],
    ) -> None:
        self._methods = methods
        self._describe = describe

    def run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs. A function that runs here cannot be stopped by its timeout."""
        arrays = unpack(decode_layout(call.layout), call.bodies, call.rows)
        try:
            output = self._methods[method.name](arrays)
        except TFRunnerError:
            raise
        except Exception as exc:
            raise ModelError(self._describe(exc)) from exc
        if method.batchable:
            for array, leaf in zip(output.arrays, leaves(output.structure), strict=True):
                check_rows(array, method.batch_dim[1], call.rows, output=leaf.name)
        arrays = cut_back(output.structure, output.arrays, call.cuts)
        return in_python(output.structure, arrays)

    async def async_run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; the model runs in another thread."""
        try:
            return await asyncio.wait_for(
                asyncio.to_thread(self.run, method, call, timeout), timeout
            )
        except asyncio.TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout:g} s") from None

    def close(self) -> None:
        """Let go of the model."""
        self._methods = {}


class GatewayConnection:
    """The gateway of this api process, in whose event loop it was made."""

    def __init__(self, gateway: Gateway, model: ModelSpec) -> None:
        self._gateway = gateway
        self._model = model
        self._loop = asyncio.get_running_loop()

    async def async_run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; from another event loop than the gateway's, through its own."""
        if asyncio.get_running_loop() is not self._loop:
            return await asyncio.wrap_future(self._elsewhere(method, call, timeout))
        return (await self._submit(method, call, timeout)).value()

    def run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; called in a thread that is not the event loop's."""
        return wait(self._elsewhere(method, call, timeout), timeout)

    def _elsewhere(
        self, method: MethodSpec, call: Call, timeout: float
    ) -> concurrent.futures.Future[Any]:
        return asyncio.run_coroutine_threadsafe(self.async_run(method, call, timeout), self._loop)

    def _submit(self, method: MethodSpec, call: Call, timeout: float) -> asyncio.Future[Answer]:
        model = self._gateway.find(self._model.name, self._model.version)
        client = CALLER.get()
        return self._gateway.submit(model, method, call, timeout=timeout, client=client)

    def close(self) -> None:
        """Do nothing: the gateway belongs to the api process."""


class ServerConnection:
    """A running server, through a gateway of its own.

    Args:
        background: Open.
        model: As the server serves it.
        retries: Whether a call is made again where that is safe.
    """

    def __init__(
        self, background: BackgroundGateway, model: ModelSpec, *, retries: bool = True
    ) -> None:
        self._background = background
        self._model = model
        self._retries = retries
        self._closed = threading.Event()

    def run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; callable from any thread."""
        call = owned(call, waits=True)

        def act(left: float) -> Any:
            return self._background.run(self._served(), method, call, timeout=left)

        return repeat(self._attempts(method, timeout), act, sleep=self._closed.wait)

    async def async_run(self, method: MethodSpec, call: Call, timeout: float) -> Any:
        """Return the outputs; callable in any event loop."""
        call = owned(call, waits=True)

        async def act(left: float) -> Any:
            future = self._background.submit(self._served(), method, call, timeout=left)
            return await asyncio.wrap_future(future)

        return await async_repeat(self._attempts(method, timeout), act, sleep=asyncio.sleep)

    def _attempts(self, method: MethodSpec, timeout: float) -> Attempts:
        attempts = Attempts(timeout, now=monotonic(), is_enabled=self._retries)
        attempts.is_repeatable = method.repeatable
        return attempts

    def _served(self) -> ModelSpec:
        return self._background.find(self._model.name, self._model.version)

    def close(self) -> None:
        """Close the gateway."""
        self._closed.set()
        self._background.close()


def owned(call: Call, *, waits: bool = False) -> Call:
    """Return the call with bytes of its own.

    Casting does not copy an array that fits. Its owner may change it as soon as it stops
    waiting, while the bytes have yet to leave, or must be sent again.

    Args:
        call: From `casting.cast`.
        waits: Whether its owner waits until it is not sent again. Then large bodies are left to
            the gateway, which copies them once, to where they leave from.
    """
    for body in call.bodies:
        if type(body) is not bytes:
            break
    else:
        return call
    bodies = (body if waits and len(body) >= LEND_FROM else bytes(body) for body in call.bodies)
    return Call(call.layout, call.rows, tuple(bodies), call.cuts)


def wait(future: concurrent.futures.Future[Any], timeout: float) -> Any:
    """Return a future's result; the gateway's timer fails it after `timeout` seconds.

    Raises:
        DeadlineExceeded: Neither came.
    """
    try:
        return future.result(timeout + SLACK_SECONDS)
    except concurrent.futures.TimeoutError:
        if future.done():
            raise  # the gateway's own DeadlineExceeded
        future.cancel()
        raise DeadlineExceeded(f"no answer within {timeout:g} s") from None


def refuse_in_event_loop(name: str) -> None:
    """Refuse to block an event loop.

    Raises:
        StateError: One runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise StateError(f"{name}.run would block the event loop: use `await {name}.async_run(...)`.")
