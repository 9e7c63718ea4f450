"""Whatever callers send: a named error, the documented status, and neighbours unaffected."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

import tfrunner
from tfrunner.client import Client
from tfrunner.errors import InvalidInput, ModelError, TFRunnerError
from tfrunner.testing import ServedClient, serve

pytestmark = pytest.mark.tensorflow


class Bad(NamedTuple):
    """A body, and what it is answered with.

    Args:
        body: JSON; `{"inputs": ...}` of a method.
        status: HTTP's.
        says: Text of the error.
    """

    body: bytes
    status: int
    says: str


ADD = b'{"signature_name":"add","inputs":{"left":%s,"right":%s}}'
BAD = {
    "wrong name": Bad(b'{"inputs":{"y":[[1,2]]}}', 400, "no input 'y'"),
    "missing input": Bad(b'{"signature_name":"add","inputs":{"left":[[1,2]]}}', 400, "'right'"),
    "extra input": Bad(b'{"inputs":{"x":[[1,2]],"z":1}}', 400, "no input 'z'"),
    "ragged nest": Bad(b'{"instances":[[1,2],[3]]}', 400, "is ragged"),
    "mixed nest": Bad(b'{"instances":[[1,2],3]}', 400, "is ragged"),
    "deep JSON": Bad(b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "JSON Parse"),
    "overflow": Bad(ADD % (b"[[1,2]]", b"[[1,128]]"), 400, "int8 holds -128 to 127"),
    "fraction for an integer": Bad(ADD % (b"[[1,2]]", b"[[1,1.5]]"), 400, "expected int8"),
    "text for numbers": Bad(b'{"inputs":[["a","b"]]}', 400, "holds text"),
    "null for a number": Bad(b'{"inputs":[[1,null]]}', 400, "NoneType"),
    "rows disagree": Bad(ADD % (b"[[1,2],[3,4]]", b"[[1,2]]"), 400, "has 1 rows"),
    "wrong rank": Bad(b'{"inputs":[1,2]}', 400, "expected float32 [?, 2]"),
    "wrong width": Bad(b'{"inputs":[[1,2,3]]}', 400, "expected float32 [?, 2]"),
    "too large for float32": Bad(b'{"inputs":[[1e39,2]]}', 400, "too large"),
    "no such method": Bad(b'{"signature_name":"ad","inputs":[[1,2]]}', 404, "Did you mean"),
    "other rows out": Bad(b'{"inputs":[[-1,2]]}', 500, "expected 1 rows"),
    "the model's own error": Bad(
        b'{"signature_name":"look_up","inputs":[7]}', 500, "no such entry"
    ),
    "empty body": Bad(b"", 400, "empty"),
    "truncated body": Bad(b'{"inputs":[[1,2]', 400, "JSON Parse"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedClient]:
    """Return a server of one careless model."""
    from tests.matrix import models

    folder: Path = tmp_path_factory.mktemp("bad")
    model = tfrunner.tensorflow.save(
        models.CarelessModel(), "careless", signatures=models.CARELESS, home=folder
    )
    with serve(model) as client:
        yield client


class Neighbour:
    """Somebody who calls the same model, rightly, all the time."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failures: list[TFRunnerError] = []

    def _run(self) -> None:
        x = np.ones((1, 2), np.float32)
        while not self._stop.is_set():
            try:
                same = np.array_equal(self._client.predict("careless", x), x)
                index = self._client.predict("careless", [1], method="look_up").tolist()
                assert (same, index) == (True, [20])
                self.answered += 1
            except TFRunnerError as exc:
                self.failures.append(exc)

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._client.close()


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_bad_input_is_named_and_harms_nobody(served: ServedClient, bad: Bad) -> None:
    """Sent ten times among a neighbour's good requests, some in the same batch."""
    url = f"{served.http_address}/v1/models/careless:predict"
    with Neighbour(served.address) as neighbour, httpx.Client(timeout=60) as client:
        replies = [client.post(url, content=bad.body) for _ in range(10)]
    for reply in replies:
        document: dict[str, Any] = reply.json()
        assert (reply.status_code, bad.says in document["error"]) == (bad.status, True), document
        assert document["request_id"]
    assert neighbour.failures == []
    assert neighbour.answered > 0
    assert served.is_ready("careless")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.predict("careless", [[1, 2], [3]]), InvalidInput),
        (lambda c: c.predict("careless", [["a", "b"]]), InvalidInput),
        (lambda c: c.predict("careless", [[-1, 2]]), ModelError),
        (lambda c: c.predict("careless", [7], method="look_up"), ModelError),
    ],
    ids=["ragged", "text", "other rows out", "the model's own"],
)
def test_the_python_client_raises_the_same(
    served: ServedClient, call: Any, error: type[TFRunnerError]
) -> None:
    """Over both of its ways."""
    with Client(served.http_address) as http:
        for client in (served, http):
            with pytest.raises(error):
                call(client)
