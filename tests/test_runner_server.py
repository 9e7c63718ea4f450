"""Runners of a server: through a thread of their own, or an api process's gateway."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client_world import Dispatcher, dispatcher, model, rows
from tfrunner.background import BackgroundGateway
from tfrunner.config import RunFile
from tfrunner.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    StateError,
    Unavailable,
)
from tfrunner.gateway import Gateway
from tfrunner.rundir import RunDirectory
from tfrunner.runner import Runner


@pytest.fixture
def server(run_root: Path) -> Iterator[Dispatcher]:
    """Return a server that answers every request with its own input."""
    with dispatcher(run_root) as started:
        yield started


@pytest.fixture
def runner(server: Dispatcher) -> Iterator[Runner]:
    """Return a runner of its model, connected."""
    made = Runner(model())
    made.init_client(server.address)
    yield made
    made.destroy()


def threads() -> list[str]:
    """Return the names of the gateways' threads that run."""
    return [each.name for each in threading.enumerate() if each.name == "tfrunner-gateway"]


def test_a_runner_of_a_server_answers_like_a_local_one(runner: Runner) -> None:
    """Arrays, nested values, and the same casting."""
    assert np.array_equal(runner.run(rows()), rows())
    assert np.array_equal(runner.run(x=rows().tolist()), rows())
    x, ids = runner.pair.run(rows(2), [7, 8])
    assert (x.tolist(), ids.tolist()) == (rows(2).tolist(), [7, 8])
    with pytest.raises(InvalidInput, match=r"expected float32 \[\?, 2\]"):
        runner.run([[1, 2, 3]])


def test_async_run_works_in_any_event_loop(runner: Runner) -> None:
    """Many at once, in two loops one after the other."""

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(runner.async_run([[n, n]]) for n in range(20)))

    for _ in range(2):
        assert [answer.tolist() for answer in asyncio.run(ask_all())] == [
            [[n, n]] for n in range(20)
        ]


def test_run_is_refused_in_an_event_loop(runner: Runner) -> None:
    """It would block it."""

    async def run_here() -> None:
        runner.run(rows())

    with pytest.raises(StateError, match="async_run"):
        asyncio.run(run_here())


def test_the_servers_errors_arrive_as_they_are(runner: Runner) -> None:
    """With their class and what else they say."""
    with pytest.raises(Overloaded, match="the queue is full") as caught:
        runner.fail.run(rows(), timeout=1)
    assert caught.value.retry_after == 2.5


def test_no_answer_ends_at_the_timeout(runner: Runner) -> None:
    """In a thread and in an event loop."""
    with pytest.raises(DeadlineExceeded):
        runner.silent.run(rows(), timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(runner.silent.async_run(rows(), timeout=0.05))


def test_a_caller_that_stops_waiting_cancels_its_request(
    runner: Runner, server: Dispatcher
) -> None:
    """The dispatcher is told."""

    async def give_up() -> None:
        waiting = asyncio.ensure_future(runner.silent.async_run(rows()))
        await asyncio.sleep(0)  # it submits in its first step
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

    # One that is cancelled before it left needs no message; the gateway's own timer says
    # Cancel after 60 s.
    assert any(asyncio.run(give_up()) or server.cancelled.wait(0.2) for _ in range(50))


def test_the_server_is_found_through_its_run_file(
    run_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or through $TFRUNNER_ADDRESS; without either nothing is found."""
    with pytest.raises(NotFound, match="No tfrunner server runs here"):
        Runner(model()).init_client()
    with RunDirectory(run_root) as directory, dispatcher(directory.path) as server:
        assert server.address == directory.frontend
        directory.publish(RunFile(1, "http://127.0.0.1:1", (directory.frontend,), ("echo:v1",)))
        runner = Runner(model())
        runner.init_client()
        assert np.array_equal(runner.run(rows()), rows())
        runner.destroy()
        monkeypatch.setenv("TFRUNNER_ADDRESS", directory.frontend)
        monkeypatch.setenv("TFRUNNER_RUN_DIR", str(run_root / "none"))
        runner.init_client()
        assert np.array_equal(runner.run(rows()), rows())
        runner.destroy()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8000", "tcp://10.0.0.1:5000"], ids=["http", "far"]
)
def test_an_address_that_is_no_frontend_is_refused(address: str) -> None:
    """A runner does not speak HTTP, and nothing leaves the machine."""
    with pytest.raises(ConfigError, match=address):
        Runner(model()).init_client(address)
    assert threads() == []


def test_a_model_that_is_not_served_is_named(server: Dispatcher) -> None:
    """Nothing keeps running, and the runner may be initialized again."""
    other = Runner(model("other"))
    with pytest.raises(NotFound, match="other"):
        other.init_client(server.address)
    assert not other.is_initialized
    assert threads() == []


def test_a_server_that_does_not_answer_is_unavailable(run_root: Path) -> None:
    """After the given time."""
    with pytest.raises(Unavailable):
        Runner(model()).init_client(f"ipc://{run_root}/nobody", timeout=0.1)
    assert threads() == []


def test_destroy_ends_the_thread(server: Dispatcher) -> None:
    """And what was waiting fails."""
    runner = Runner(model())
    runner.init_client(server.address)
    with pytest.raises(StateError, match="already"):
        runner.init_client(server.address)
    assert threads() == ["tfrunner-gateway"]
    runner.destroy()
    runner.destroy()
    assert threads() == []
    with pytest.raises(StateError, match="not initialized"):
        runner.run(rows())


def test_a_background_gateway_refuses_what_does_not_fit_its_state(server: Dispatcher) -> None:
    """Started twice, or used while closed."""
    background = BackgroundGateway(server.address)
    with pytest.raises(StateError, match="not open"):
        background.ask()
    with background:
        assert "open" in repr(background)
        assert background.ask()["epoch"] == "e1"
        with pytest.raises(StateError, match="already"):
            background.start()
    assert "closed" in repr(background)
    background.close()


def test_a_runner_without_a_saved_model_has_no_local_form() -> None:
    """Only its specification is known."""
    with pytest.raises(StateError, match="init_client"):
        Runner(model()).init_local()


def test_an_attached_runner_uses_the_gateway_of_its_event_loop(server: Dispatcher) -> None:
    """From the loop itself, from another thread, and from another loop."""

    async def use() -> None:
        gateway = Gateway(server.address, name="api")
        await gateway.open()
        runner = Runner(model())
        try:
            runner.attach(gateway)
            assert np.array_equal(await runner.async_run(rows()), rows())
            assert np.array_equal(await asyncio.to_thread(runner.run, rows()), rows())
            elsewhere = await asyncio.to_thread(lambda: asyncio.run(runner.async_run(rows())))
            assert np.array_equal(elsewhere, rows())
            with pytest.raises(StateError, match="async_run"):
                runner.run(rows())
            with pytest.raises(StateError, match="already"):
                runner.attach(gateway)
            with pytest.raises(NotFound):
                Runner(model("other")).attach(gateway)
        finally:
            runner.destroy()
            await gateway.close()

    asyncio.run(use())
