"""Runnables in real worker processes: what they answer, what is merged, what they are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.runnables import PARAMETERS, TABLE, Doubler
from tests.waiting import LIMIT
from tfrunner import Runner
from tfrunner.errors import DeadlineExceeded, InvalidInput, ModelError
from tfrunner.testing import ServedClient, serve

FOLDER = Path(__file__).parent
TARGET = f"{FOLDER}/runnables.py:svc"


@pytest.fixture(scope="module")
def server() -> Iterator[ServedClient]:
    """Return a client of a server of the test Service, whose class is in a file."""
    with serve(TARGET) as client:
        yield client


@pytest.fixture(scope="module")
def remote(server: ServedClient) -> Iterator[Runner]:
    """Return a runner of the server's Runnable."""
    runner = Runner(
        Doubler,
        name="double",
        runnable_init_params=PARAMETERS,
        method_configs={"sleep": {"max_latency_ms": 100}},
    )
    runner.init_client(server.address)
    yield runner
    runner.destroy()


@pytest.fixture(scope="module")
def local() -> Iterator[Runner]:
    """Return a runner of the same Runnable in this process."""
    runner = Runner(Doubler, name="double", runnable_init_params=PARAMETERS)
    runner.init_local(quiet=True)
    yield runner
    runner.destroy()


@pytest.fixture
def http(server: ServedClient) -> Iterator[httpx.Client]:
    """Return an HTTP client of the server."""
    with httpx.Client(base_url=server.http_address, trust_env=False, timeout=LIMIT) as client:
        yield client


def plain(value: Any) -> Any:
    """Return a result as nested lists and values, with the dtypes and types that it has."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(plain, value)]
    return [type(value).__name__, value]


CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "array": ("predict", (np.arange(3.0),), {}),
    "integers and a parameter": ("predict", (np.arange(3), 5), {}),
    "rows of anything": ("predict", ([1, "a", b"b", None, 2.5, [1], {"k": (1, 2)}],), {}),
    "rows with arrays": ("predict", ([np.ones(2, "int8"), "x"],), {"plus": 1}),
    "no rows": ("predict", ([],), {}),
    "an array without rows": ("predict", (np.ones((0, 2)),), {}),
    "cast": ("typed", ([[1, 2], [3, 4]],), {}),
    "another output axis": ("turned", (np.arange(6).reshape(3, 2),), {}),
    "a dict": ("describe", ({"a": [1, (2, 3)], "b": np.arange(2)},), {}),
    "text": ("describe", ("text",), {}),
    "None": ("describe", (None,), {}),
    "a list": ("describe", ([1, [2, 3]],), {}),
    "text in an array": ("describe", (np.array(["a", "b"]),), {}),
    "a tuple with None": ("take", (TABLE.size - 1,), {"name": 1}),
}


@pytest.mark.parametrize(("method", "args", "kwargs"), CASES.values(), ids=CASES.keys())
def test_a_worker_answers_like_this_process(
    remote: Runner, local: Runner, method: str, args: Any, kwargs: Any
) -> None:
    """The same values, dtypes and types."""
    there = remote.method(method).run(*args, **kwargs)
    assert plain(there) == plain(local.method(method).run(*args, **kwargs))


@pytest.mark.parametrize(
    ("method", "args"),
    [("drop", ([1, 2],)), ("total", ([1, 2],)), ("fail", ("x",)), ("strange", ()), ("dates", ())],
    ids=str,
)
def test_errors_are_worded_alike_here_and_there(
    remote: Runner, local: Runner, server: ServedClient, method: str, args: Any
) -> None:
    """The traceback is in the server's log alone."""
    with pytest.raises(ModelError) as there:
        remote.method(method).run(*args)
    with pytest.raises(ModelError) as here:
        local.method(method).run(*args)
    assert there.value.message == here.value.message
    assert "Traceback" not in there.value.message
    assert "Traceback" in server.log.read_text()


def test_workers_of_a_runnable_import_no_tensorflow(remote: Runner, server: ServedClient) -> None:
    """Nor does anything else that a server of Runnables starts."""
    assert remote.modules.run() == ["numpy"]
    children = psutil.Process(server.pid).children(recursive=True)
    assert len(children) == 3
    for child in children:
        assert not any("libtensorflow" in each.path for each in child.memory_maps())


def test_parameters_are_kept_from_other_users_and_from_command_lines(server: ServedClient) -> None:
    """They stand in a file of the run directory that only this user can read."""
    run = Path(server.address.removeprefix("ipc://")).parent
    files = list(run.glob("*.parameters"))
    assert [file.name for file in files] == ["double:1.parameters"]
    assert files[0].stat().st_mode & 0o077 == 0
    assert files[0].stat().st_size > TABLE.nbytes


def test_input_that_does_not_fit_never_reaches_a_worker(remote: Runner) -> None:
    """As for saved models."""
    with pytest.raises(InvalidInput, match=r"expected float32 \[\?, 2\]"):
        remote.typed.run([[1, 2, 3]])


def test_a_runners_latency_is_the_timeout_of_its_calls(remote: Runner) -> None:
    """Its own goes first; a call's own before it."""
    with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
        remote.sleep.run(3.0)
    assert remote.sleep.run(0.0, timeout=LIMIT) == 0.0


def test_a_services_runner_is_served_with_its_own_bounds(
    http: httpx.Client, remote: Runner
) -> None:
    """Endpoints use them too: rows of a batch, milliseconds of a call."""
    assert http.post("/predict", json=[1]).json() == [{"row": 1, "type": "int", "plus": 1}]
    assert http.post("/wait", json=30.0).status_code == 504
    assert remote.company.run(["a", "b", "c", "d", "e"]) == [2, 2, 2, 2, 1]


def test_an_embedded_runner_answers_in_the_api_process(
    http: httpx.Client, server: ServedClient
) -> None:
    """No worker hosts it; the log warns of the memory."""
    rows, modules = http.post("/embedded", json=[1]).json()
    assert rows == [{"row": 1, "type": "int", "plus": 1}]
    assert modules == ["numpy"]
    assert [model["name"] for model in http.get("/v1/models").json()["models"]] == ["double"]
    assert "runner inside is embedded" in server.log.read_text()


def test_a_runnable_answers_http_predicts(http: httpx.Client) -> None:
    """Typed and untyped arguments as JSON; defaults may be left out."""
    url = "/v1/models/double:predict"
    asked = {"signature_name": "predict", "inputs": {"rows": [1, "a"]}}
    assert http.post(url, json=asked).json()["outputs"] == [
        {"row": 1, "type": "int", "plus": 0},
        {"row": "a", "type": "str", "plus": 0},
    ]
    asked = {"signature_name": "predict", "instances": [1, "a"]}
    assert [each["row"] for each in http.post(url, json=asked).json()["predictions"]] == [1, "a"]
    asked = {"signature_name": "take", "inputs": {"index": 3}}
    assert http.post(url, json=asked).status_code == 200
    asked = {"signature_name": "describe", "inputs": {"value": {"a": [1]}}}
    assert http.post(url, json=asked).json()["outputs"]["value"] == {"a": [1]}
    metadata = http.get("/v1/models/double/metadata").json()
    assert metadata["metadata"] == {"runnable": "runnables:Doubler"}


def ask_two(runner: Runner, rows: int) -> list[Any]:
    """Return the answers to two requests that wait together."""
    given = list(range(rows))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(runner.company.run, given, timeout=LIMIT) for _ in range(2)]
        return [each.result() for each in asked]


@pytest.mark.parametrize(
    ("batching", "rows", "company"),
    [("true", 1, [2]), ("false", 1, [1]), ("false", 100, [100] * 100)],
    ids=["on", "off", "off and larger than a batch"],
)
def test_requests_of_different_callers_are_merged_unless_batching_is_off(
    tmp_path: Path, batching: str, rows: int, company: list[int]
) -> None:
    """Nothing starts before two requests wait; the configuration switches batching off.

    A request of a method that is not batched is never cut apart, whatever its number of rows.
    """
    file = tmp_path / "tfrunner.toml"
    file.write_text(f"[runners.double]\nbatching = {batching}\nmax_batch_size = 64\n")
    runner = Runner(Doubler, name="double")
    with serve(TARGET, hold=2, config=file) as client, runner:
        runner.init_client(client.address)
        assert ask_two(runner, rows) == [company, company]


def test_one_worker_for_each_core_where_a_runnable_uses_one(tmp_path: Path) -> None:
    """Each with one thread; a number in the configuration goes before, and so does a timeout."""
    (tmp_path / "single.py").write_text(
        "import tfrunner\n"
        "from tests.runnables import Single\n"
        "svc = tfrunner.Service('s', runners=[tfrunner.Runner(Single), "
        "tfrunner.Runner(Single, name='pair')])\n"
    )
    file = tmp_path / "tfrunner.toml"
    file.write_text("[runners.pair]\nworkers = 2\n[models.single]\nmax_latency_ms = 100\n")
    with serve(f"{tmp_path}/single.py", workers=0, config=file) as client:
        workers = [
            child
            for child in psutil.Process(client.pid).children()
            if "tfrunner_workers" in child.cmdline()
        ]
        names = [child.cmdline()[-1] for child in workers]
        assert sum('"worker-pair-' in name for name in names) == 2
        assert sum('"worker-single-' in name for name in names) == len(os.sched_getaffinity(0))
        assert {child.environ()["OMP_NUM_THREADS"] for child in workers} == {"1"}
        url = f"{client.http_address}/v1/models/single:predict"
        asked = {"signature_name": "sleep", "inputs": {"seconds": 30.0}}
        reply = httpx.post(url, json=asked, trust_env=False, timeout=LIMIT)
        assert (reply.status_code, reply.json()["code"]) == (504, "deadline_exceeded")
