"""The life of a client: closed while calls wait, closed twice, used after, left unclosed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.client_world import Dispatcher, HttpServer, dispatcher, http_server, rows
from tfrunner.client import AsyncClient, Client
from tfrunner.errors import StateError, Unavailable

LIMIT = 30.0
SOON = 6.0  # less than a first call waits for a server, far more than anything here takes


@pytest.fixture(params=["http", "ipc"])
def server(request: pytest.FixtureRequest, run_root: Path) -> Iterator[HttpServer | Dispatcher]:
    """Run a server that answers every request with its input."""
    with http_server() if request.param == "http" else dispatcher(run_root) as running:
        yield running


@pytest.fixture
def unheard() -> Iterator[socket.socket]:
    """Listen, and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        yield listener


def address_of(listener: socket.socket) -> str:
    """Return where it listens."""
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def check_that_close_ends_calls(address: str, waited_for: threading.Event) -> None:
    """Close a client while calls wait; check that all of them fail."""
    client = Client(address, timeout=2 * LIMIT)
    client.predict("echo", rows())

    def call(number: int) -> Any:
        return client.predict("echo", rows() + number, method="silent")

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(call, number) for number in range(8)]
        waiting += [client.submit("echo", rows(), method="silent") for _ in range(4)]
        assert waited_for.wait(LIMIT)
        client.close()
        for each in waiting:
            error = each.exception(SOON)
            assert isinstance(error, (StateError, Unavailable)), repr(error)
            assert "closed" in str(error)


def test_calls_that_wait_fail_when_the_client_is_closed(server: HttpServer | Dispatcher) -> None:
    """At once, not when the server answers, and with an error that says why."""
    check_that_close_ends_calls(server.address, server.waited_for)


def test_calls_that_wait_over_tls_fail_when_the_client_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends below TLS."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    with http_server(**files) as server:
        check_that_close_ends_calls(server.address, server.waited_for)


def test_a_single_attempt_fails_when_the_client_is_closed(server: HttpServer | Dispatcher) -> None:
    """The same without retries; what may have run is said to."""
    client = Client(server.address, timeout=2 * LIMIT, retries=False)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.predict, "echo", rows(), method="silent")
        assert server.waited_for.wait(LIMIT)
        client.close()
        with pytest.raises(Unavailable, match="closed"):
            waiting.result(SOON)


def test_tasks_that_wait_fail_when_the_client_is_closed(server: HttpServer | Dispatcher) -> None:
    """As calls of the synchronous client do."""

    async def story() -> None:
        client = AsyncClient(server.address, timeout=2 * LIMIT)
        await client.predict("echo", rows())
        waiting = [client.submit("echo", rows(), method="silent") for _ in range(8)]
        assert await asyncio.to_thread(server.waited_for.wait, LIMIT)
        await client.close()
        done, left = await asyncio.wait(waiting, timeout=SOON)
        assert not left
        for each in done:
            error = each.exception()
            assert isinstance(error, (StateError, Unavailable)), repr(error)
            assert "closed" in str(error)

    asyncio.run(story())


def calls(client: Client | AsyncClient) -> list[Callable[[], Any]]:
    """Return every call that there is."""
    return [
        lambda: client.predict("echo", rows()),
        lambda: client.submit("echo", rows()),
        lambda: client.call("echo", 1),
        client.models,
        client.is_ready,
        client.status,
    ]


@pytest.mark.parametrize("is_used", [True, False], ids=["used", "never used"])
def test_every_call_of_a_closed_client_says_so(
    server: HttpServer | Dispatcher, is_used: bool
) -> None:
    """One error for all; and it may be closed again, by many threads at once."""
    client = Client(server.address)
    if is_used:
        client.predict("echo", rows())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: client.close(), range(8)))
    for call in calls(client):
        with pytest.raises(StateError, match="The client is closed; make a new one"):
            call()
    client.close()
    assert "closed" in repr(client)


@pytest.mark.parametrize("is_used", [True, False], ids=["used", "never used"])
def test_every_call_of_a_closed_async_client_says_so(
    server: HttpServer | Dispatcher, is_used: bool
) -> None:
    """The same."""

    async def story() -> None:
        client = AsyncClient(server.address)
        if is_used:
            await client.predict("echo", rows())
        await asyncio.gather(*(client.close() for _ in range(8)))
        for call in calls(client):
            with pytest.raises(StateError, match="The client is closed; make a new one"):
                await call()
        await client.close()

    asyncio.run(story())


def test_a_client_may_be_closed_while_it_looks_for_its_server(unheard: socket.socket) -> None:
    """Neither who closes nor who calls waits until the search is given up."""
    client = Client(address_of(unheard), timeout=LIMIT)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(client.predict, "echo", rows()) for _ in range(2)]
        unheard.accept()[0].close()
        threads.submit(client.close).result(SOON)
        for each in waiting:
            with pytest.raises(StateError, match="closed"):
                each.result(SOON)


def test_an_async_client_may_be_closed_while_it_looks_for_its_server(
    unheard: socket.socket,
) -> None:
    """The same."""

    async def story() -> None:
        client = AsyncClient(address_of(unheard), timeout=LIMIT)
        waiting = [client.submit("echo", rows()) for _ in range(2)]
        connection, _ = await asyncio.to_thread(unheard.accept)
        connection.close()
        await asyncio.wait_for(client.close(), SOON)
        for each in waiting:
            with pytest.raises(StateError, match="closed"):
                await asyncio.wait_for(each, SOON)

    asyncio.run(story())


def test_closing_an_async_client_ends_the_pause_of_a_call(run_root: Path) -> None:
    """Nobody waits for a server on behalf of a closed client."""

    async def story() -> None:
        client = AsyncClient(server.address, timeout=2 * LIMIT)
        waiting = client.submit("echo", rows())
        while not server.bodies:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises((StateError, Unavailable), match="closed"):
            await asyncio.wait_for(waiting, SOON)

    with dispatcher(run_root) as server:
        server.faults = [("overloaded", 2 * SOON)]
        asyncio.run(story())
