"""Call a tfrunner server from Python: arrays in, arrays out.

    with Client() as client:
        outputs = client.predict("digits", images)

`Client` may be shared by any number of threads; `AsyncClient` belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tfrunner import config, rundir
from tfrunner.client_connection import AsyncHttpChannel, HttpChannel
from tfrunner.client_direct import AsyncDirectChannel, DirectChannel
from tfrunner.client_models import ModelCall, ModelState, check_timeout
from tfrunner.errors import ConfigError, DeadlineExceeded, NotFound, StateError, Unavailable

__all__ = ["AsyncClient", "Client", "ModelState", "find_address"]

OPEN_SECONDS = 10.0
"""How long the first call waits for a dispatcher, if its timeout is not shorter."""


def find_address(address: str | None = None) -> str:
    """Return the address to call: the given one, TFRUNNER_ADDRESS, or the one running server's.

    Args:
        address: `http://host:port`, `ipc://path` or `tcp://127.0.0.1:port`; None: find it.

    Raises:
        NotFound: None was given, and no server runs here, or several do.
        ConfigError: It is no address.
    """
    chosen = address or config.server_address()
    if chosen is None:
        server = rundir.find_server(config.run_root())
        direct = [each for each in server.frontend if each.startswith("ipc://")]
        chosen = (direct or [server.http])[0]
    parts = urlsplit(chosen)
    if parts.scheme in ("http", "https") and parts.hostname and _has_valid_port(chosen):
        return chosen.rstrip("/")
    if parts.scheme in ("ipc", "tcp"):
        return chosen
    raise ConfigError(
        f"{chosen!r} is no address; expected http://host:port, ipc://path or tcp://127.0.0.1:port."
    )


def _has_valid_port(address: str) -> bool:
    try:
        return urlsplit(address).port != 0
    except ValueError:
        return False


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


class Client:
    """Calls a server; a context manager.

    Args:
        address: `http://host:port`, `ipc://path` or `tcp://127.0.0.1:port`; None: the server
            that TFRUNNER_ADDRESS names, else the one that runs on this machine.
        timeout: Seconds that a call may take, where the call does not say.
    """

    def __init__(
        self, address: str | None = None, *, timeout: float = config.DEFAULTS.timeout
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._given = address
        self._lock = threading.Lock()
        self._channel: HttpChannel | DirectChannel | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return _describe(self, self._given, self._channel)

    @property
    def address(self) -> str:
        """The address that is called."""
        channel = self._channel
        return channel.address if channel is not None else find_address(self._given)

    def predict(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a model on these inputs.

        Args:
            model: `name`, or `name:version`.
            args: Inputs in the order of the method's arguments: arrays, lists, numbers,
                strings, nested structures. One dict of all arguments by name is also taken.
            method: Name of the method; None: the model's default one.
            timeout: Seconds until DeadlineExceeded.
            kwargs: Inputs by name.

        Returns:
            An array, or the dict, tuple or list of arrays that the model gives, with the
            model's dtypes. Arrays may be read-only: copy one to change it.

        Raises:
            InvalidInput: The input does not fit; nothing was run.
            NotFound: The server has no such model, version or method.
            ModelError: The model's own code raised.
            Unavailable: No server answers, or it cannot now; `retry_after` says when it may.
            DeadlineExceeded: No answer came within the timeout.
        """
        deadline, timeout = self._start(timeout)
        channel = self._open(timeout)
        return channel.predict(ModelCall(model, method, args, kwargs), _left(deadline))

    def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """Return every model version that the server knows, and its state."""
        deadline, timeout = self._start(timeout)
        return self._open(timeout).models(_left(deadline))

    def is_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Return whether the server, or one model of it, answers requests now."""
        deadline, timeout = self._start(timeout)
        try:
            return self._open(timeout).is_ready(model, _left(deadline))
        except (NotFound, Unavailable, DeadlineExceeded):
            return False

    def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's whole state as plain data: models, workers, counters."""
        deadline, timeout = self._start(timeout)
        return self._open(timeout).status(_left(deadline))

    def close(self) -> None:
        """Close the connections; calls that wait fail. Safe to repeat."""
        with self._lock:
            channel, self._channel = self._channel, None
            self._is_closed = True
        if channel is not None:
            channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, timeout: float | None) -> tuple[float, float]:
        """Return a call's deadline and timeout."""
        seconds = self.timeout if timeout is None else check_timeout(timeout)
        return time.monotonic() + seconds, seconds

    def _open(self, timeout: float) -> HttpChannel | DirectChannel:
        """Return the open channel; the first call of all opens it."""
        if self._channel is not None:
            return self._channel
        if not self._lock.acquire(timeout=timeout):
            raise DeadlineExceeded(f"no connection to {self._given} within {timeout:.3g} s")
        try:
            if self._is_closed:
                raise StateError("The client is closed; make a new one.")
            if self._channel is None:
                address = find_address(self._given)
                channel = HttpChannel(address) if _is_http(address) else DirectChannel(address)
                channel.open(min(timeout, OPEN_SECONDS))
                self._channel = channel
            return self._channel
        finally:
            self._lock.release()


class AsyncClient:
    """Calls a server from an event loop; an async context manager. Otherwise as `Client`."""

    def __init__(
        self, address: str | None = None, *, timeout: float = config.DEFAULTS.timeout
    ) -> None:
        self.timeout = check_timeout(timeout)
        self._given = address
        self._lock = asyncio.Lock()
        self._channel: AsyncHttpChannel | AsyncDirectChannel | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return _describe(self, self._given, self._channel)

    @property
    def address(self) -> str:
        """The address that is called."""
        channel = self._channel
        return channel.address if channel is not None else find_address(self._given)

    async def predict(
        self,
        model: str,
        /,
        *args: Any,
        method: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a model on these inputs; see `Client.predict`. Cancelling cancels the request."""
        deadline, timeout = self._start(timeout)
        channel = await self._open(timeout)
        return await channel.predict(ModelCall(model, method, args, kwargs), _left(deadline))

    async def models(self, *, timeout: float | None = None) -> list[ModelState]:
        """Return every model version that the server knows, and its state."""
        deadline, timeout = self._start(timeout)
        return await (await self._open(timeout)).models(_left(deadline))

    async def is_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Return whether the server, or one model of it, answers requests now."""
        deadline, timeout = self._start(timeout)
        try:
            return await (await self._open(timeout)).is_ready(model, _left(deadline))
        except (NotFound, Unavailable, DeadlineExceeded):
            return False

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the server's whole state as plain data: models, workers, counters."""
        deadline, timeout = self._start(timeout)
        return await (await self._open(timeout)).status(_left(deadline))

    async def close(self) -> None:
        """Close the connections; calls that wait fail. Safe to repeat."""
        async with self._lock:
            channel, self._channel = self._channel, None
            self._is_closed = True
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _start(self, timeout: float | None) -> tuple[float, float]:
        """Return a call's deadline and timeout."""
        seconds = self.timeout if timeout is None else check_timeout(timeout)
        return time.monotonic() + seconds, seconds

    async def _open(self, timeout: float) -> AsyncHttpChannel | AsyncDirectChannel:
        """Return the open channel; the first call of all opens it."""
        if self._channel is not None:
            return self._channel
        try:
            await asyncio.wait_for(self._lock.acquire(), timeout)
        except asyncio.TimeoutError as exc:
            raise DeadlineExceeded(
                f"no connection to {self._given} within {timeout:.3g} s"
            ) from exc
        try:
            if self._is_closed:
                raise StateError("The client is closed; make a new one.")
            if self._channel is None:
                address = find_address(self._given)
                channel = (
                    AsyncHttpChannel(address) if _is_http(address) else AsyncDirectChannel(address)
                )
                await channel.open(min(timeout, OPEN_SECONDS))
                self._channel = channel
            return self._channel
        finally:
            self._lock.release()


def _left(deadline: float) -> float:
    """Return the seconds that are left, or raise DeadlineExceeded."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the timeout passed while the connection was opened")
    return left


def _describe(client: object, given: str | None, channel: Any) -> str:
    state = "closed" if channel is None else "open"
    address = (given or "the running server") if channel is None else channel.address
    return f"<{type(client).__name__} {address} [{state}]>"
