"""The whole chain with real processes and the echo model: client, dispatcher, workers, HTTP."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.waiting import wait_for
from tfrunner import Client
from tfrunner.errors import (
    InvalidInput,
    ModelError,
    NotFound,
    PoisonRequest,
    TFRunnerError,
)
from tfrunner.rundir import running_servers
from tfrunner.testing import ServedClient, serve

MODEL = "echo:1"


def row(*values: float) -> np.ndarray:
    """Return one row."""
    return np.asarray([values], dtype="float32")


def call_all(client: Client, rows: list[np.ndarray], **how: object) -> list[object]:
    """Call with every row at once, each from a thread of its own; return answers or errors."""

    def call(one: np.ndarray) -> object:
        try:
            return client.predict("echo", one, **how)
        except TFRunnerError as exc:
            return exc

    with ThreadPoolExecutor(len(rows)) as pool:
        return list(pool.map(call, rows))


def ledger(client: Client) -> dict[str, object]:
    """Return what the dispatcher counted for the model."""
    return client.status()["models"][MODEL]


def wait_until_running(client: Client, *, count: int = 1) -> list[int]:
    """Return the process ids of workers that run a batch, once there are so many."""

    def find() -> list[int]:
        workers = client.status()["workers"].values()
        busy = [worker["pid"] for worker in workers if worker["running"]]
        return busy if len(busy) >= count else []

    return wait_for(find)


def test_rows_of_two_clients_share_a_batch_and_each_gets_its_own():
    """The promise of the seed page: requests of different clients are merged."""
    with serve("echo", echo=True, hold=2) as one, Client(one.address) as other:
        answers: dict[str, np.ndarray] = {}

        def call(name: str, client: Client, rows: np.ndarray) -> None:
            answers[name] = client.predict("echo", rows)

        threads = [
            threading.Thread(target=call, args=("one", one, row(1, 2, 3, 4, 5))),
            threading.Thread(target=call, args=("other", other, row(6, 7, 8, 9, 0))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers["one"].tolist() == [[1, 2, 3, 4, 5]]
        assert answers["other"].tolist() == [[6, 7, 8, 9, 0]]
        assert ledger(one)["batch_rows"] == {"2": 1}


def test_one_bad_request_among_32_fails_alone_over_http_and_client():
    """A poisoned batch is run again in halves: 31 neighbours are answered."""
    with serve("echo", echo=True, hold=32) as client:
        rows = [row(-1.0 if index == 17 else float(index)) for index in range(32)]
        answers = call_all(client, rows, method="fail")
        assert [index for index, a in enumerate(answers) if isinstance(a, ModelError)] == [17]
        assert "an element is negative" in str(answers[17])
        for index, answer in enumerate(answers):
            assert index == 17 or answer.tolist() == rows[index].tolist()
        assert ledger(client)["bisected"] == 1
        assert "32" not in ledger(client)["batch_rows"]


def test_a_worker_killed_in_mid_batch_fails_nobody():
    """A kill -9 while a batch runs, with another worker up: every request is answered."""
    with serve("echo", echo=True, workers=2, hold=3) as client:
        rows = [row(3.0, float(index)) for index in range(3)]  # seconds: time to find it running
        with ThreadPoolExecutor(1) as pool:
            calls = pool.submit(call_all, client, rows, method="slow")
            os.kill(wait_until_running(client)[0], signal.SIGKILL)
            answers = calls.result(60)
        assert [answer.tolist() for answer in answers] == [each.tolist() for each in rows]
        assert ledger(client)["requeued"] >= 1


def test_a_request_that_kills_its_worker_fails_alone_after_two_deaths():
    """The model ends the process: exactly the culprit fails, and the server goes on."""
    with serve("echo", echo=True, workers=2, hold=16) as client:
        rows = [row(-1.0 if index == 5 else float(index)) for index in range(16)]
        answers = call_all(client, rows, method="die")
        assert [i for i, answer in enumerate(answers) if isinstance(answer, Exception)] == [5]
        assert isinstance(answers[5], PoisonRequest)
        for index, answer in enumerate(answers):
            assert index == 5 or answer.tolist() == rows[index].tolist()
        assert ledger(client)["poisoned"] == 1


def test_rows_that_the_model_dropped_are_never_answered_with():
    """Rows in and rows out must be equal: an error, not a wrong answer."""
    with serve("echo", echo=True) as client, pytest.raises(ModelError, match="expected 3 rows"):
        client.predict("echo", np.ones((3, 2), "float32"), method="drop")


def test_a_request_larger_than_the_bound_comes_back_whole_and_in_order():
    """Row ranges on two workers, joined by the gateway."""
    with serve("echo", echo=True, workers=2, max_batch_size=8) as client:
        rows = np.arange(2 * 1001, dtype="float32").reshape(1001, 2)
        assert np.array_equal(client.predict("echo", rows), rows)
        assert max(map(int, ledger(client)["batch_rows"])) == 8


@pytest.mark.parametrize(
    "bound", [{"queue_requests": 1}, {"queue_bytes": 600}], ids=["requests", "bytes"]
)
def test_a_full_queue_answers_503_and_says_when_to_come_back(bound: dict[str, int]):
    """Beyond --queue-requests and --queue-bytes; what waits already is not dropped."""
    with serve("echo", echo=True, hold=2, **bound) as client, ThreadPoolExecutor(1) as pool:

        def post(timeout: str) -> httpx.Response:
            headers = {"X-Request-Timeout": timeout}
            body = {"instances": [[1.0] * 100]}  # 400 bytes, and those of its layout
            url = client.http_address + PREDICT
            return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)

        waits = pool.submit(post, "5")
        while ledger(client)["queued_requests"] < 1:
            assert not waits.done()
        refused = post("60")
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["code"] == "overloaded" and "is full" in refused.json()["error"]
        assert sum(ledger(client)["refused"].values()) == 1
        assert waits.result().status_code == 504


def test_large_tensors_cross_unchanged():
    """Bodies above the inline limit travel as frames of their own."""
    with serve("echo", echo=True) as client:
        rows = np.random.default_rng(0).random((16, 200_000), dtype="float32")
        assert np.array_equal(client.predict("echo", rows), rows)


# --- one server for what needs no special one ---------------------------------------------------


@pytest.fixture(scope="module")
def server():
    """Serve the echo model with a small body limit, and a loopback port for direct clients."""
    with serve("echo", echo=True, body_limit=100_000, direct="tcp://127.0.0.1:*") as client:
        run_root = Path(client.address.removeprefix("ipc://")).parents[1]
        ((_, client.tcp_address),) = (each.frontend for each in running_servers(run_root))
        yield client


@pytest.fixture
def http(server: ServedClient):
    """Call the server over plain HTTP."""
    with httpx.Client(base_url=server.http_address) as client:
        yield client


PREDICT = "/v1/models/echo:predict"


def test_every_way_in_gives_the_same_answer(server: ServedClient, http: httpx.Client):
    """The Python client over ipc, tcp and HTTP, row JSON and columnar JSON."""
    rows = np.asarray([[1.5, -2.0], [0.25, 1e-7]], dtype="float32")
    rows_json = rows.tolist()
    row_form = http.post(PREDICT, json={"instances": rows_json}).json()
    column_form = http.post(PREDICT, json={"inputs": {"x": rows_json}}).json()
    assert np.array_equal(np.float32(row_form["predictions"]), rows)
    assert np.array_equal(np.float32(column_form["outputs"]), rows)
    for address in (server.address, server.tcp_address, server.http_address):
        with Client(address) as client:
            answer = client.predict("echo", rows)
            assert answer.dtype == np.float32
            assert np.array_equal(answer, rows)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/models/ecko:predict", {"instances": [[1]]}, 404, ["ecko", "echo"]),
        ("/v1/models/echo/versions/9:predict", {"instances": [[1]]}, 404, ["9", "1"]),
        (PREDICT, {"instances": [["a", "b"]]}, 400, ["float32"]),
        (PREDICT, {"instances": [1.0, 2.0]}, 400, ["[?, ?]", "[2]"]),
        (PREDICT, {"instances": [[1, 2, 3], [4, 5]]}, 400, []),
        (PREDICT, {"instances": [[[], [1.0, 2.0], 3.0]]}, 400, []),
        (PREDICT, {"inputs": {"z": [[1.0]]}}, 400, ["z", "x"]),
        (PREDICT, {"rows": [[1.0]]}, 400, ["inputs", "instances"]),
        (PREDICT, {"instances": [[1]], "signature_name": "nope"}, 404, ["nope", "fail"]),
    ],
    ids=[
        *("unknown-model", "unknown-version", "wrong-dtype", "wrong-rank", "ragged"),
        *("ragged-count-fits", "wrong-name", "no-inputs", "unknown-method"),
    ],
)
def test_bad_input_gets_a_status_and_an_error_that_says_what_was_expected(
    http: httpx.Client, path: str, body: object, status: int, words: list[str]
):
    """Nothing of it reaches a batch, and the connection lives on."""
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert all(word in error for word in words), error
    assert http.post(PREDICT, json={"instances": [[7.0]]}).json() == {"predictions": [[7.0]]}


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"instances": [[1.0]', 400), (b"", 400), (b"[" * 100_000, 400), (b"x" * 200_000, 413)],
    ids=["truncated", "empty", "deep", "oversize"],
)
def test_bodies_that_are_no_json_or_too_large(http: httpx.Client, content: bytes, status: int):
    """400 and 413, and the server goes on."""
    answer = http.post(PREDICT, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert http.get("/readyz").status_code == 200


def test_nan_and_infinity_pass_both_ways(http: httpx.Client):
    """As JSON tokens, in and out."""
    content = b'{"instances": [[NaN, Infinity, -Infinity, 1.0]]}'
    answer = http.post(PREDICT, content=content)
    (values,) = json.loads(answer.text)["predictions"]
    assert np.isnan(values[0]) and values[1:] == [np.inf, -np.inf, 1.0]


def test_a_deadline_that_passes_is_504_and_the_worker_goes_on(http: httpx.Client):
    """The gateway's timer answers; the late result reaches nobody."""
    body = {"instances": [[0.5]], "signature_name": "slow"}
    answer = http.post(PREDICT, json=body, headers={"X-Request-Timeout": "0.1"})
    assert answer.status_code == 504
    assert http.post(PREDICT, json={"instances": [[3.0]]}).json() == {"predictions": [[3.0]]}


def test_an_object_array_is_refused_before_anything_unpickles_it(http: httpx.Client):
    """No pickle on any socket."""
    import msgpack

    evil = {b"nd": True, b"type": "|O8", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n"}
    body = msgpack.packb({"inputs": {"x": evil}})
    answer = http.post(PREDICT, content=body, headers={"Content-Type": "application/x-msgpack"})
    assert answer.status_code == 400, answer.text


def test_errors_are_named_classes_in_the_client(server: ServedClient):
    """The same errors over ipc and HTTP."""
    for address in (server.address, server.http_address):
        with Client(address) as client:
            with pytest.raises(NotFound, match="echo"):
                client.predict("ecko", row(1))
            with pytest.raises(InvalidInput, match="float32"):
                client.predict("echo", [["a"]])
            with pytest.raises(ModelError, match="negative"):
                client.predict("echo", row(-1), method="fail")


def test_metrics_show_the_whole_server(http: httpx.Client):
    """Requests, rows, batches, workers and processes, in Prometheus' text."""
    http.post(PREDICT, json={"instances": [[1.0], [2.0]]})
    text = http.get("/metrics").text
    for name in (
        "tfrunner_requests_total",
        "tfrunner_rows_total",
        "tfrunner_batch_rows",
        "tfrunner_queue_seconds",
        "tfrunner_run_seconds",
        "tfrunner_workers",
        "tfrunner_process_resident_bytes",
    ):
        assert name in text, f"{name} is missing in\n{text[:2000]}"


def test_docs_describe_the_models_and_need_no_other_host(http: httpx.Client):
    """OpenAPI from the stored specs; assets shipped."""
    paths = http.get("/openapi.json").json()["paths"]
    assert PREDICT in paths
    page = http.get("/docs").text
    assert "<html" in page and "https://" not in page and "http://" not in page
