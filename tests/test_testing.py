"""`tfrunner.testing.serve`: a real server, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.client_world import rows
from tfrunner import rundir
from tfrunner.client import AsyncClient, Client
from tfrunner.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotFound,
    TFRunnerError,
    Unavailable,
)
from tfrunner.testing import serve


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give an empty store, and no other server to call."""
    monkeypatch.setenv("TFRUNNER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFRUNNER_ADDRESS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give temporary files a folder of their own, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="tfr-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_a_server_is_started_called_both_ways_and_ended(temporary):
    """Same answers over HTTP and straight; afterwards no process and no file is left."""
    with serve("echo", echo=True) as client:
        assert list(temporary.iterdir())
        processes = psutil.Process(client.pid).children(recursive=True)
        assert len(processes) >= 3
        assert client.address.startswith("ipc://")
        straight = client.predict("echo", rows())
        with Client(client.http_address) as http:
            over_http = http.predict("echo", rows())
            assert http.models() == client.models()
            assert http.is_ready("echo") and client.is_ready("echo")
            assert http.status()["models"].keys() == client.status()["models"].keys()
        for each in (straight, over_http):
            np.testing.assert_array_equal(each["y"] if isinstance(each, dict) else each, rows())
        assert type(straight) is type(over_http)
    assert not [each for each in processes if each.is_running()]
    assert not list(temporary.iterdir())


def test_errors_are_the_same_over_both_ways():
    """Class and text, for what callers do wrong and for what a model raises."""
    with serve("echo", echo=True) as straight, Client(straight.http_address) as http:
        for args, kwargs, kind in [
            (("echo", -rows() - 1), {"method": "fail"}, ModelError),
            (("echo", [1.0]), {}, InvalidInput),
            (("echo", rows()), {"method": "fial"}, NotFound),
            (("ehco", rows()), {}, NotFound),
            (("echo:7", rows()), {}, NotFound),
        ]:
            with pytest.raises(kind) as one:
                straight.predict(*args, **kwargs)
            with pytest.raises(kind) as other:
                http.predict(*args, **kwargs)
            assert type(one.value) is type(other.value)
            assert one.value.message == other.value.message
            if kind is ModelError:
                assert other.value.request_id


def test_a_slow_model_does_not_keep_a_caller_beyond_its_timeout():
    """DeadlineExceeded over both ways; the server goes on."""
    slow = np.full((1, 1), 1.0, "float32")
    with serve("echo", echo=True) as straight, Client(straight.http_address) as http:
        for client in (straight, http):
            with pytest.raises(DeadlineExceeded):
                client.predict("echo", slow, method="slow", timeout=0.2)
            np.testing.assert_array_equal(client.predict("echo", rows()), rows())


def test_many_threads_share_a_client_of_a_real_server():
    """Requests are batched with each other; everyone gets his own rows."""
    inputs = [rows(1 + index % 3) + index for index in range(300)]
    with (
        serve("echo", echo=True, max_batch_size=8) as straight,
        Client(straight.http_address) as http,
        ThreadPoolExecutor(16) as threads,
    ):
        for client in (straight, http):
            predict = partial(client.predict, "echo")
            for given, got in zip(inputs, threads.map(predict, inputs), strict=True):
                np.testing.assert_array_equal(got, given)


def test_an_async_client_calls_a_real_server():
    """Both ways from one event loop."""

    async def story(address: str) -> None:
        async with AsyncClient(address) as client:
            assert await client.is_ready()
            inputs = [rows() + index for index in range(50)]
            outputs = await asyncio.gather(*(client.predict("echo", x) for x in inputs))
            for given, got in zip(inputs, outputs, strict=True):
                np.testing.assert_array_equal(got, given)

    with serve("echo", echo=True) as client:
        asyncio.run(story(client.address))
        asyncio.run(story(client.http_address))


def test_a_server_is_ended_when_the_test_fails():
    """The error of the test is what comes out."""
    processes = []
    with pytest.raises(ZeroDivisionError), serve("echo", echo=True) as client:
        processes = psutil.Process(client.pid).children(recursive=True)
        raise ZeroDivisionError
    assert processes
    assert not [each for each in processes if each.is_running()]


def test_a_server_that_cannot_start_says_why():
    """The last lines of its log are in the error."""
    with pytest.raises(Unavailable, match=r"(?s)exit code.*no_such"), serve("no_such"):
        pass


def test_a_server_that_is_not_ready_in_time_is_ended(temporary):
    """Unavailable, and nothing is left."""
    is_late = pytest.raises(Unavailable, match="not ready in time")
    with is_late, serve("echo", echo=True, start_timeout=0.001):
        pass
    assert not list(temporary.iterdir())


def test_a_server_does_not_outlive_the_process_that_started_it():
    """Also when that is killed, and can end nothing itself."""
    code = (
        "import sys; from tfrunner.testing import serve\n"
        "with serve('echo', echo=True) as client: print(client.pid, flush=True); sys.stdin.read()"
    )
    with tempfile.TemporaryDirectory(prefix="tfr-") as folder:
        starter = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": folder},
        )
        assert starter.stdout and starter.stdin
        server = psutil.Process(int(starter.stdout.readline()))
        processes = [server, *server.children(recursive=True)]
        starter.kill()
        starter.wait()
        _, alive = psutil.wait_procs(processes, timeout=30)
        starter.stdin.close()
        starter.stdout.close()
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_a_server_started_by_another_thread_outlives_the_thread():
    """A fixture may be set up in a thread of its own."""
    opened = []
    server = serve("echo", echo=True)
    thread = threading.Thread(target=lambda: opened.append(server.__enter__()))
    thread.start()
    thread.join()
    try:
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(opened[0].pid).wait(1.0)
        assert opened[0].is_ready()
    finally:
        server.__exit__(None, None, None)


@pytest.mark.tensorflow
def test_a_module_that_was_never_saved_is_served(home):
    """It is saved into a temporary store; the caller's own stays as it is."""
    import tensorflow as tf

    class Half(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x):
            return x / 2

    with serve(Half(), signatures={"__call__": {"batchable": True}}) as client:
        np.testing.assert_allclose(client.predict("model", rows().tolist()), rows() / 2)
        with Client(client.http_address) as http:
            np.testing.assert_allclose(http.predict("model", rows()), rows() / 2)
            with pytest.raises(TFRunnerError, match="expected"):
                http.predict("model", [[1.0, 2.0, 3.0]])
    assert not home.exists()
    assert rundir.running_servers(home) == []
