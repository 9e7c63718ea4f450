"""The Python client: the same calls over HTTP and straight to the dispatcher, sync and async."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from tests.client_world import (
    IDS,
    STATE,
    Dispatcher,
    HttpServer,
    dispatcher,
    http_server,
    method,
    model,
    rows,
)
from tfrunner.client import AsyncClient, Client, ModelState, find_address
from tfrunner.config import RunFile
from tfrunner.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    StateError,
    Unavailable,
)
from tfrunner.rundir import RunDirectory


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tfr-", dir="/tmp") as path:
        yield Path(path)


class Door(NamedTuple):
    """A client that is open, and the server it calls."""

    call: Callable[..., Any]
    server: HttpServer | Dispatcher

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Call `predict` of the client."""
        return self.call("predict", *args, **kwargs)


@pytest.fixture(params=["http", "http async", "ipc", "ipc async"])
def door(request: pytest.FixtureRequest, folder: Path) -> Iterator[Door]:
    """Give each kind of client, over each way."""
    way, _, is_async = request.param.partition(" ")
    with http_server() if way == "http" else dispatcher(folder) as server:
        if not is_async:
            with Client(server.address, timeout=10, retries=False) as client:
                yield Door(lambda name, *a, **k: getattr(client, name)(*a, **k), server)
            return
        loop = asyncio.new_event_loop()
        async_client = AsyncClient(server.address, timeout=10, retries=False)

        def call(name: str, *args: Any, **kwargs: Any) -> Any:
            return loop.run_until_complete(getattr(async_client, name)(*args, **kwargs))

        try:
            yield Door(call, server)
        finally:
            loop.run_until_complete(async_client.close())
            loop.close()


# --- inputs and outputs -----------------------------------------------------------------------


def test_an_array_comes_back_with_its_dtype(door):
    """Arrays in, arrays out."""
    outputs = door.predict("echo", rows())
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, rows())


@pytest.mark.parametrize("name", ["echo", "echo:v1", "echo:1"])
def test_a_model_is_named_with_or_without_its_version(door, name):
    """A name means its newest version; a version may be its serial."""
    assert door.predict(name, rows()).shape == (3, 2)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((rows().tolist(), [1, 2, 3]), {}),
        ((rows().tolist(),), {"ids": [1, 2, 3]}),
        ((), {"ids": (1, 2, 3), "x": rows().astype("float64")}),
        (({"ids": [1, 2, 3], "x": rows()},), {}),
    ],
    ids=["by position", "mixed", "by name", "one dict"],
)
def test_two_arguments_are_given_by_position_by_name_or_as_one_dict(door, args, kwargs):
    """A tuple of outputs stays a tuple, and each output keeps its dtype."""
    outputs = door.predict("echo", *args, method="pair", **kwargs)
    assert type(outputs) is tuple
    assert [each.dtype.name for each in outputs] == ["float32", "int64"]
    np.testing.assert_array_equal(outputs[0], rows())
    assert outputs[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["itself", "by name"])
def test_a_nested_input_is_sent_nested(door, is_wrapped):
    """A dict that is the argument itself is not mistaken for keywords, nor the other way."""
    features = {"a": rows(), "b": {"c": [1, 2, 3]}}
    given = {"features": features} if is_wrapped else features
    outputs = door.predict("echo", given, method="nested")
    assert outputs["a"].tolist() == rows().tolist()
    assert outputs["b"]["c"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("given", [{"a": rows()}, {"a": {"a": rows()}}], ids=["itself", "by name"])
def test_a_dict_whose_key_is_also_the_arguments_name_is_understood(door, given):
    """Where it could be either, it is the argument itself."""
    if isinstance(given["a"], dict):
        assert door.predict("echo", method="same", **given)["a"].shape == (3, 2)
    else:
        assert door.predict("echo", given, method="same")["a"].shape == (3, 2)


def test_strings_come_back_as_bytes(door):
    """A string tensor is an array of bytes, as TensorFlow's own are."""
    outputs = door.predict("echo", ["a\0", "\u00e9"], method="words")
    assert outputs.dtype == object
    assert outputs.tolist() == [b"a\0", "\u00e9".encode()]


# --- errors -----------------------------------------------------------------------------------


def test_a_wrong_input_fails_with_the_same_error_everywhere(door):
    """The input is cast before it is sent; the text is that of a local run."""
    with pytest.raises(InvalidInput, match=r"shape \[3\]; expected float32 \[\?, 2\]"):
        door.predict("echo", [1, 2, 3])


@pytest.mark.parametrize(
    ("name", "method_name", "text"),
    [
        ("ehco", None, "'echo'"),
        ("echo:v9", None, "v9"),
        ("echo", "__cal__", "Did you mean '__call__'"),
    ],
    ids=["model", "version", "method"],
)
def test_a_wrong_name_is_answered_with_what_there_is(door, name, method_name, text):
    """NotFound names the near one."""
    with pytest.raises(NotFound, match=text):
        door.predict(name, rows(), method=method_name)


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan"), True])
def test_a_timeout_that_is_none_is_refused(door, timeout):
    """Seconds, and more than none."""
    with pytest.raises(InvalidInput, match="positive number of seconds"):
        door.predict("echo", rows(), timeout=timeout)


@pytest.mark.parametrize(
    "timeout",
    [float("inf"), 1e300, 10**400, 10**7, np.int64(5), np.float32(5), Fraction(9, 2)],
    ids=["inf", "1e300", "10**400", "10**7", "int64", "float32", "fraction"],
)
def test_any_number_of_seconds_is_a_timeout(door, timeout):
    """More than a server takes is as much as it takes; NumPy's numbers are numbers."""
    np.testing.assert_array_equal(door.predict("echo", rows(), timeout=timeout), rows())
    assert door.call("is_ready", timeout=timeout)
    assert door.call("models", timeout=timeout) and door.call("status", timeout=timeout)
    assert Client(door.server.address, timeout=timeout).timeout <= 1e6


def test_the_error_of_a_request_is_raised_in_its_caller(door):
    """The class that the server's code names, with its text."""
    from tfrunner import errors

    expected = {HttpServer: errors.ModelError, Dispatcher: errors.Overloaded}[type(door.server)]
    with pytest.raises(expected) as caught:
        door.predict("echo", rows(), method="fail")
    if expected is errors.Overloaded:
        assert (caught.value.message, caught.value.retry_after) == ("the queue is full", 2.5)
    else:
        assert (caught.value.message, caught.value.request_id) == ("the model raised", "r-7")


# --- state ------------------------------------------------------------------------------------


def test_models_are_listed_with_their_state(door):
    """Typed records, equal over both ways but for what is known of methods."""
    (listed,) = door.call("models")
    assert isinstance(listed, ModelState)
    assert (listed.tag, listed.serial, listed.state) == ("echo:v1", 1, "AVAILABLE")
    assert listed.is_available
    assert "__call__" in listed.methods


@pytest.mark.parametrize(
    ("name", "is_ready"),
    [(None, True), ("echo", True), ("echo:1", True), ("echo:v2", False), ("other", False)],
)
def test_readiness_is_asked_of_the_server_or_of_one_model(door, name, is_ready):
    """A model that is not served is not ready; that is no error."""
    assert door.call("is_ready", name) is is_ready


def test_status_is_plain_data(door):
    """The dispatcher's own state."""
    assert door.call("status")["models"] == STATE["models"]


def test_a_new_version_of_a_model_is_used_when_the_old_specification_refuses():
    """The specification that a client keeps is fetched again before its refusal counts."""
    with http_server() as server, Client(server.address) as client:
        client.predict("echo", rows())
        newer = model(version="v2", serial=2, **{"__call__": method("__call__", ("ids", IDS))})
        server.models.append(newer)
        assert client.predict("echo", [1, 2]).tolist() == [1, 2]
        assert client.predict("echo:v1", rows()).dtype == np.float32


def test_a_specification_is_fetched_once():
    """The second call of a model is one request."""
    with http_server() as server, Client(server.address) as client:
        client.predict("echo", rows())
        del server.requests[:]
        client.predict("echo", rows())
        assert [path for _, path, _ in server.requests] == ["/v1/models/echo:predict"]


# --- waiting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_request_that_nobody_answers_ends_at_its_deadline_and_is_cancelled(folder, is_async):
    """The dispatcher is told, so that the rows are not run for nobody."""
    with dispatcher(folder) as server:
        with pytest.raises(DeadlineExceeded):
            if is_async:
                asyncio.run(_predict(server.address, "echo", rows(), method="silent", timeout=1.0))
            else:
                with Client(server.address) as client:
                    client.predict("echo", rows(), method="silent", timeout=1.0)
        assert server.cancelled.wait(5)


def test_a_cancelled_task_cancels_its_request(folder):
    """Nobody waits any more: the dispatcher is told."""

    async def story(server: Dispatcher) -> None:
        async with AsyncClient(server.address) as client:
            await client.predict("echo", rows())
            task = asyncio.create_task(client.predict("echo", rows(), method="silent"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.cancelled.wait, 5)

    with dispatcher(folder) as server:
        asyncio.run(story(server))


class Interrupted(Exception):
    """What the test's signal raises in the main thread."""


def test_an_interrupted_call_cancels_its_request(folder):
    """Ctrl-C while waiting: the dispatcher is told."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with dispatcher(folder) as server, Client(server.address) as client:
            client.predict("echo", rows())
            alarm = threading.Thread(
                target=lambda: server.waited_for.wait(10) and os.kill(os.getpid(), signal.SIGUSR1)
            )
            alarm.start()
            with pytest.raises(Interrupted):
                client.predict("echo", rows(), method="silent")
            assert server.cancelled.wait(5)
            alarm.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


async def _predict(address: str, *args: Any, **kwargs: Any) -> Any:
    async with AsyncClient(address) as client:
        return await client.predict(*args, **kwargs)


@pytest.mark.parametrize("way", ["http", "ipc"])
def test_many_threads_share_one_client(folder, way):
    """Each gets its own rows."""
    inputs = [rows() + index for index in range(100)]
    with (
        http_server() if way == "http" else dispatcher(folder) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(16) as threads,
    ):
        outputs = list(threads.map(lambda x: client.predict("echo", x), inputs))
    for given, got in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize("way", ["http", "ipc"])
def test_tasks_share_one_async_client(folder, way):
    """Each gets its own rows."""

    async def story(address: str) -> None:
        async with AsyncClient(address) as client:
            inputs = [rows() + index for index in range(100)]
            outputs = await asyncio.gather(*(client.predict("echo", x) for x in inputs))
            for given, got in zip(inputs, outputs, strict=True):
                np.testing.assert_array_equal(got, given)

    with http_server() if way == "http" else dispatcher(folder) as server:
        asyncio.run(story(server.address))


# --- life -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["http", "ipc"])
def test_a_closed_client_says_so(folder, way):
    """Closing may be repeated; calling afterwards is an error, and no thread is left."""
    with http_server() if way == "http" else dispatcher(folder) as server:
        before = threading.active_count()
        client = Client(server.address)
        client.predict("echo", rows())
        assert "open" in repr(client)
        client.close()
        client.close()
        with pytest.raises(StateError, match="closed"):
            client.predict("echo", rows())
        assert threading.active_count() == before


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_no_dispatcher_at_an_address_is_said_within_the_timeout(folder, is_async):
    """Unavailable, with the address; is_ready is False instead."""
    address = f"ipc://{folder}/nobody"
    with pytest.raises(Unavailable, match="nobody"):
        if is_async:
            asyncio.run(_predict(address, "echo", rows(), timeout=0.2))
        else:
            Client(address).predict("echo", rows(), timeout=0.2)
    assert not Client(address).is_ready(timeout=0.2)


def test_the_running_server_is_found_and_its_socket_preferred(folder, monkeypatch):
    """With no address, `run.json` says where the server is."""
    monkeypatch.delenv("TFRUNNER_ADDRESS", raising=False)
    monkeypatch.setenv("TFRUNNER_RUN_DIR", str(folder / "run"))
    with pytest.raises(NotFound, match="tfrunner serve"):
        Client().predict("echo", rows())
    assert not Client().is_ready()
    with RunDirectory(folder / "run") as run, dispatcher(run.path) as server:
        frontend = ("tcp://127.0.0.1:9", server.address)
        run.publish(RunFile(os.getpid(), "http://127.0.0.1:9", frontend, ("echo:v1",)))
        with Client() as client:
            assert client.predict("echo", rows()).shape == (3, 2)
            assert client.address == server.address


def test_the_environment_names_a_server(monkeypatch):
    """TFRUNNER_ADDRESS is used where no address is given."""
    monkeypatch.setenv("TFRUNNER_ADDRESS", "http://there:1/")
    assert find_address() == "http://there:1"
    assert find_address("tcp://127.0.0.1:2") == "tcp://127.0.0.1:2"


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://x", "http://", "http://x:port", "http://x:0"]
)
def test_what_is_no_address_is_refused(address):
    """The error says which forms are expected."""
    with pytest.raises(ConfigError, match="expected http://host:port"):
        Client(address).models()


def test_a_dispatcher_elsewhere_is_refused():
    """No keys yet: a dispatcher is called on this machine only."""
    with pytest.raises(ConfigError, match="refused"):
        Client("tcp://192.0.2.1:5555").predict("echo", rows(), timeout=1)


def test_model_states_are_what_the_http_listing_holds():
    """The record decodes what the server lists, and keeps to it."""
    text = b'{"name":"a","version":"v","serial":3,"state":"LOADING","reason":"","methods":{}}'
    state = msgspec.json.decode(text, type=ModelState)
    assert (state.tag, state.is_available) == ("a:v", False)
