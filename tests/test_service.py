"""Services: how they are served and described."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api_world import LIMIT, FakeGateway, serving
from tfrunner import Service
from tfrunner.api.endpoints import READ_IN_LOOP
from tfrunner.errors import ConfigError, Overloaded
from tfrunner.io import JSON, Body, JSONSerializable, NumpyNdarray


def make() -> Service:
    """Return a Service with an endpoint of each kind."""
    svc = Service(name="svc")

    @svc.api(input=JSON(), output=JSON())
    async def predict(json_obj: JSONSerializable) -> JSONSerializable:
        """Return the first of the batch.

        A longer text.
        """
        return np.asarray([json_obj], dtype="float64")[0]  # type: ignore[return-value]

    @svc.api(input=JSON(), output=JSON(), name="thread", route="threads/which")
    def which_thread(value: Any) -> Any:
        return threading.current_thread().name

    @svc.api(JSON(), JSON())
    async def refuse(value: Any) -> Any:
        raise Overloaded("no room", retry_after=2)

    @svc.api(JSON(), JSON())
    def crash(value: Any) -> Any:
        raise ValueError("a secret of the user")

    @svc.api(JSON(), JSON())
    def strange(value: Any) -> Any:
        return object()

    @svc.api(JSON(), JSON())
    def odd(value: Any) -> Any:
        return {"nan": math.nan, "array": np.array([1.5, np.inf], "float32"), "none": None}

    @svc.api(NumpyNdarray(dtype="float32", shape=(-1, 2)), NumpyNdarray())
    def double(array: Any) -> Any:
        assert array.dtype == np.float32
        return array * 2

    return svc


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Return a client of a server with the Service."""
    with (
        serving(FakeGateway(), services=[make()], body_limit=10_000) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client


# --- served -----------------------------------------------------------------------------------


def test_an_async_endpoint_answers_with_an_array(client: httpx.Client) -> None:
    """As on the seed page: the first row of what a runner returned."""
    assert client.post("/predict", json=[1, 2, 3]).json() == [1.0, 2.0, 3.0]


def test_a_sync_endpoint_runs_in_a_thread(client: httpx.Client) -> None:
    """Not in the event loop's, at the route that was asked for."""
    assert "worker" in client.post("/threads/which", json=1).json().lower()
    assert client.post("/thread", json=1).status_code == 404
    assert client.get("/predict").status_code == 405


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/predict", b"{nonsense", 400, "invalid_input"),
        ("/predict", b" " * 20_000, 413, "too_large"),
        ("/refuse", b"1", 503, "overloaded"),
        ("/crash", b"1", 500, "internal"),
        ("/strange", b"1", 500, "model_error"),
        ("/double", b"[[1, 2], [3]]", 400, "invalid_input"),
        ("/double", b"[[1, 2, 3]]", 400, "invalid_input"),
        ("/double", b'[["2f", "x"]]', 400, "invalid_input"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_an_endpoint_cannot_answer(
    client: httpx.Client, path: str, content: bytes, status: int, code: str
) -> None:
    """Errors of ours keep their status; any other is 500 and says nothing of itself."""
    reply = client.post(path, content=content, headers={"X-Request-Id": "id-1"})
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "id-1"
    assert "secret" not in reply.text


def test_a_crash_is_in_the_log(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback and the request's id."""
    client.post("/crash", json=1, headers={"X-Request-Id": "id-2"})
    assert "a secret of the user" in caplog.text
    assert "id-2" in caplog.text


def test_results_that_are_not_finite(client: httpx.Client) -> None:
    """Tokens, also inside arrays; None stays null."""
    text = client.post("/odd", json=1).text
    assert text == '{"nan":NaN,"array":[1.5,Infinity],"none":null}'


def test_arrays_as_json_and_as_npy(client: httpx.Client) -> None:
    """Cast to the descriptor's dtype; a pickled array is refused."""
    assert client.post("/double", json=[[1, 2]]).json() == [[2.0, 4.0]]
    npy = io.BytesIO()
    np.save(npy, np.array([[1.5, 2.5]]))
    headers = {"content-type": "application/x-npy"}
    assert client.post("/double", content=npy.getvalue(), headers=headers).json() == [[3.0, 5.0]]
    npy = io.BytesIO()
    np.save(npy, np.array([[{}, 1]], dtype=object))
    assert client.post("/double", content=npy.getvalue(), headers=headers).status_code == 400


class Noting:
    """Notes the threads in which it writes."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def read(self, body: Body) -> Any:
        """Return how much there is to be given back."""
        return int(body.data)

    def write(self, value: Any) -> Body:
        """Note the thread."""
        self.written.append(threading.current_thread().name)
        return Body(b"ok", "text/plain")

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        return {}


def test_what_is_large_is_written_in_a_thread() -> None:
    """Results of large requests, and large arrays: the event loop serves others meanwhile."""
    svc, noting = Service("writing"), Noting()

    @svc.api(noting, noting)
    async def give(size: Any) -> Any:
        return np.zeros(size, "uint8")

    with (
        serving(FakeGateway(), services=[svc], timeout=LIMIT) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        for content in ("1", f"{READ_IN_LOOP + 1}", "1".rjust(READ_IN_LOOP + 1)):
            assert client.post("/give", content=content).text == "ok"
    small, large_result, large_body = (name.startswith("worker-writing") for name in noting.written)
    assert (small, large_result, large_body) == (False, True, True)


def test_openapi_has_the_endpoints(client: httpx.Client) -> None:
    """Each with its docstring."""
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert operation["summary"] == "Return the first of the batch."
    assert operation["description"] == "A longer text."
    assert operation["tags"] == ["svc"]


def test_two_services_with_one_route_cannot_be_served() -> None:
    """The second would never be reached."""
    with (
        pytest.raises(ConfigError, match="two Services are called 'svc'"),
        serving(FakeGateway(), services=[make(), make()]),
    ):
        pass
