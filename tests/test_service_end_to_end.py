"""A Service of every kind of endpoint in a real server: four api processes, two models."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas
import psutil
import pytest
from PIL import Image

from tests.waiting import LIMIT, wait_for
from tfrunner import AsyncClient, Client
from tfrunner.errors import InvalidInput, NotFound, StateError, TFRunnerError
from tfrunner.service_module import load_service
from tfrunner.testing import ServedClient, serve

API_WORKERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the Services are served from."""
    folder = tmp_path_factory.mktemp("services")
    shutil.copy(Path(__file__).parent / "endpoints_service.py", folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServedClient]:
    """Return the server; its hooks are looked at when it has ended."""
    with serve(f"{folder}/endpoints_service.py:svc", api_workers=API_WORKERS) as client:
        children = psutil.Process(client.pid).children(recursive=True)
        yield client
    assert not [each for each in children if each.is_running()]
    started = [each.read_text() for each in folder.glob("started-*")]
    assert started == ["closed"] * API_WORKERS


@pytest.fixture(scope="module")
def http(server: ServedClient) -> Iterator[httpx.Client]:
    """Return a client of its HTTP."""
    with httpx.Client(base_url=server.http_address, timeout=LIMIT, trust_env=False) as http:
        yield http


def bitmap(*, width: int = 4, form: str = "BMP") -> bytes:
    """Return an image, two pixels high."""
    file = io.BytesIO()
    Image.new("RGB", (width, 2), (10, 20, 30)).save(file, form)
    return file.getvalue()


def test_hooks_run_once_for_each_process(server: ServedClient, folder: Path) -> None:
    """And the one before all others once; a server is ready with its first api process."""
    assert (folder / "deployed").read_text() == "once\n"
    wait_for(lambda: len(list(folder.glob("started-*"))) == API_WORKERS)
    assert {each.read_text() for each in folder.glob("started-*")} == {""}


def test_an_array_of_a_fixed_shape(http: httpx.Client) -> None:
    """Doubled by a model; another shape is refused."""
    assert http.post("/double", json=[[1, 2], [3, 4]]).json() == [[2, 4], [6, 8]]
    assert http.post("/double", json=[1, 2, 3, 4]).status_code == 400


def test_an_array_of_a_fixed_dtype(http: httpx.Client) -> None:
    """What is no small integer is refused."""
    assert http.post("/small", json=[1, 2]).json() == [1, 2]
    for wrong in (["2f"], [300], [1.5]):
        assert http.post("/small", json=wrong).status_code == 400


def test_several_outputs(http: httpx.Client) -> None:
    """Arrive as a tuple."""
    assert http.post("/total", json=[1, 2]).json() == [11, 22]


@pytest.mark.parametrize("path", ["/echo", "/echo_sync", "/same"])
@pytest.mark.parametrize("value", [1, 2.2, "hi", "str", [1, "two"], {"a": {"b": None}}], ids=str)
def test_any_value_comes_back(http: httpx.Client, path: str, value: Any) -> None:
    """Through a batch, in the event loop and in a thread; and alone."""
    assert http.post(path, json=value).json() == value


def test_json_with_a_model_of_pydantic(http: httpx.Client) -> None:
    """An object of the class, or 400."""
    reply = http.post("/greet", json={"name": "Ann", "age": "41"})
    assert reply.json() == {"greeting": "hello Ann", "next_year": 42}
    wrong = http.post("/greet", json={"name": "Ann", "age": "old"})
    assert wrong.status_code == 400
    assert "age" in wrong.json()["error"]


def test_a_data_frame_in_three_forms(http: httpx.Client) -> None:
    """JSON, Parquet and CSV; the answer is JSON."""
    table = pandas.DataFrame({"a": [1, 2], "b": [3, 4]})
    parquet = io.BytesIO()
    table.to_parquet(parquet)
    for content, kind in [
        (table.to_json(orient="records").encode(), "application/json"),
        (parquet.getvalue(), "application/vnd.apache.parquet"),
        (table.to_csv(index=False).encode(), "text/csv"),
    ]:
        reply = http.post("/frame", content=content, headers={"Content-Type": kind})
        assert reply.json() == [{"a": 1, "b": 3, "total": 4}, {"a": 2, "b": 4, "total": 6}], kind


def test_a_file(http: httpx.Client) -> None:
    """As it is, or as the one part of a form."""
    raw = http.post("/file", content=b"\x00\x01", headers={"Content-Type": "application/pdf"})
    assert raw.content == b"\x00\x01"
    form = http.post("/file", files={"file": ("a.pdf", b"\x00\x01", "application/pdf")})
    assert form.content == b"\x00\x01"


def test_an_image(http: httpx.Client) -> None:
    """Comes back pixel for pixel; of another type it is refused."""
    reply = http.post("/image", content=bitmap(), headers={"Content-Type": "image/bmp"})
    assert reply.headers["content-type"] == "image/bmp"
    sent, got = (Image.open(io.BytesIO(each)) for each in (bitmap(), reply.content))
    assert np.array_equal(np.asarray(sent), np.asarray(got))
    for kind in ("image/png", "text/plain"):
        wrong = http.post("/image", content=bitmap(form="PNG"), headers={"Content-Type": kind})
        assert wrong.status_code in (400, 415)


def test_two_images_in_any_order(http: httpx.Client) -> None:
    """Parameters are found by name; the answer is a form too."""
    parts = {
        "original": ("o.bmp", bitmap(width=6), "image/bmp"),
        "compared": ("c.bmp", bitmap(width=4), "image/bmp"),
    }
    for files in (parts, dict(reversed(parts.items()))):
        reply = http.post("/two_images", files=files)
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b"image/bmp" in reply.content
        assert b"\r\n\r\n2\r\n" in reply.content
    missing = http.post("/two_images", files={"original": parts["original"]})
    assert missing.status_code == 400


def test_a_stream_of_text(http: httpx.Client) -> None:
    """In pieces."""
    with http.stream("POST", "/stream", content="one two three") as reply:
        assert reply.headers["transfer-encoding"] == "chunked"
        assert "".join(reply.iter_text()) == "one\ntwo\nthree\n"


def test_the_context(http: httpx.Client) -> None:
    """Query, status, cookies, and what a start-up hook has put into the state."""
    error = http.post("/context?error=yes", content="")
    assert (error.status_code, error.text) == (400, "yes")
    fine = http.post("/context", content="")
    assert (fine.status_code, fine.text, fine.cookies["greeted"]) == (200, "hello", "yes")


@pytest.mark.parametrize("path", ["/several", "/several_sync"])
def test_several_models_are_called_at_once(http: httpx.Client, path: str) -> None:
    """From one endpoint, by `gather` or in threads, and by many callers."""
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda each: http.post(path, json=each).json(), range(40)))
    assert replies == [[2 * each, 0.01] for each in range(40)]


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/livez", "/healthz", "/ping", "/hello", "/openapi.json", "/docs.json",
     "/metrics", "/readyz"],
)  # fmt: skip
def test_pages_that_there_are(http: httpx.Client, path: str) -> None:
    """The server's, those that middleware makes, those that are mounted."""
    assert http.get(path).status_code == 200


def test_a_route_that_there_is_not(http: httpx.Client) -> None:
    """404, of any method."""
    assert http.get("/nothing").status_code == http.post("/nothing", json=1).status_code == 404


def test_web_pages_of_allowed_origins(http: httpx.Client) -> None:
    """By middleware of Starlette's, on endpoints and predict routes."""
    for path in ("/echo", "/v1/models/ways:predict"):
        for origin, allowed in [("http://allowed.example", True), ("http://other.example", False)]:
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            asked = http.options(path, headers=headers)
            assert (asked.status_code == 200) == allowed
            reply = http.post(path, json=1, headers={"Origin": origin})
            assert ("access-control-allow-origin" in reply.headers) == allowed


def test_endpoints_are_called_from_python(server: ServedClient) -> None:
    """Each value in a form that its endpoint takes; errors are those of models' calls."""
    with Client(server.http_address) as client:
        assert client.call("echo", {"a": [1, None]}) == {"a": [1, None]}
        assert client.call("echo", np.array([1.5, np.inf])) == [1.5, np.inf]
        assert client.call("/deep/count", 0) == 0
        assert client.call("stream", "one two") == "one\ntwo\n"
        assert client.call("file", b"\x00\x01") == b"\x00\x01"
        assert client.call("double", np.ones((2, 2), "float32")) == [[2, 2], [2, 2]]
        with pytest.raises(NotFound, match=r"no endpoint '/ehco'. Did you mean '/echo'"):
            client.call("ehco", 1)
        with pytest.raises(InvalidInput, match="age"):
            client.call("greet", {"name": "Ann", "age": "old"})
        with pytest.raises(TFRunnerError, match="the endpoint 'fail' failed") as caught:
            client.call("fail", 1)
        assert caught.value.request_id
        with pytest.raises(TypeError, match="no form for a set"):
            client.call("echo", {1, 2})
    assert server.call("echo", 5) == 5
    with pytest.raises(StateError, match="over HTTP"), Client(server.address) as client:
        client.call("echo", 5)

    async def call() -> Any:
        async with AsyncClient(server.http_address) as client:
            return await asyncio.gather(*(client.call("echo", each) for each in range(5)))

    assert asyncio.run(call()) == list(range(5))


def test_the_models_are_there_too(http: httpx.Client, server: ServedClient) -> None:
    """For HTTP, through the middleware, and for Python."""
    body = {"inputs": {"rows": [1, 2]}, "signature_name": "double"}
    assert http.post("/v1/models/ways:predict", json=body).json() == {"outputs": [2, 4]}
    assert server.predict("ways", [1, 2], method="double").tolist() == [2, 4]


def test_a_counter_of_ones_own(http: httpx.Client) -> None:
    """Over all api processes: each call comes over a connection of its own."""
    for _ in range(5):
        http.post("/deep/count", json="mine", headers={"Connection": "close"})
    shown = 'endpoints_called_total{value="mine"} 5.0'
    wait_for(lambda: shown in http.get("/metrics").text)


def test_a_crash_is_in_the_log(http: httpx.Client, server: ServedClient) -> None:
    """Its caller learns the id only."""
    reply = http.post("/fail", json=1, headers={"X-Request-Id": "the-crash"})
    assert (reply.status_code, reply.json()["request_id"]) == (500, "the-crash")
    assert "secret" not in reply.text
    wait_for(lambda: "a secret of the user" in server.log.read_text())
    assert "request the-crash failed: /fail" in server.log.read_text()


def test_the_document_has_every_endpoint(http: httpx.Client, folder: Path) -> None:
    """The server's has what the Service says of itself."""
    paths = http.get("/openapi.json").json()["paths"]
    own = load_service(f"{folder}/endpoints_service.py:svc").openapi_spec["paths"]
    for endpoint in load_service(f"{folder}/endpoints_service.py:svc").apis.values():
        operation = paths[endpoint.route]["post"]
        assert operation == own[endpoint.route]["post"]
        assert operation["requestBody"]["content"]
        assert operation["summary"] == endpoint.doc.splitlines()[0]


def test_a_service_is_loaded_again_and_again(folder: Path) -> None:
    """Each time anew."""
    loaded = [load_service(f"{folder}/endpoints_service.py:svc") for _ in range(20)]
    assert len({id(each) for each in loaded}) == 20
    assert {tuple(each.apis) for each in loaded} == {tuple(loaded[0].apis)}
