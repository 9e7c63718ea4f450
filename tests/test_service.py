"""Services: how they are declared, found, described and served."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api_world import LIMIT, FakeGateway, serving
from tfrunner import Service
from tfrunner.errors import ConfigError, InvalidInput, ModelError, Overloaded
from tfrunner.io import JSON, Body, JSONSerializable, NumpyNdarray
from tfrunner.service import load_service

SERVICE = """
import numpy as np
from tfrunner import Service
from tfrunner.io import JSON, JSONSerializable

print("users print things")
svc = Service(name="test_service")

@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    return np.asarray([json_obj])[0]

@svc.api(input=JSON(), output=JSON(), route="/deep/path")
def other(value):
    return value
"""


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


def test_openapi_has_the_endpoints(client: httpx.Client) -> None:
    """Each with its docstring."""
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert operation["summary"] == "Return the first of the batch."
    assert operation["description"] == "A longer text."
    assert operation["tags"] == ["svc"]


def test_two_services_with_one_route_cannot_be_served() -> None:
    """The second would never be reached."""
    with (
        pytest.raises(ConfigError, match="two Services have the route '/predict'"),
        serving(FakeGateway(), services=[make(), make()]),
    ):
        pass


# --- declared -----------------------------------------------------------------------------


def one(value: Any) -> Any:
    """Take one argument."""
    return value


def none() -> None:
    """Take none."""


def two(first: Any, second: Any) -> None:
    """Take two."""


@pytest.mark.parametrize(
    ("function", "options"),
    [
        *((one, {"name": name}) for name in ("docs", "metrics", "livez", "v1", "not-a-name", "")),
        *(
            (one, {"route": r})
            for r in ("", "/", "//a", "a?b", "a#b", "a:b", "{a}", "/v1/x", "docs")
        ),
        (none, {}),
        (two, {}),
    ],
    ids=str,
)
def test_what_cannot_be_an_endpoint(function: Callable[..., Any], options: Any) -> None:
    """Names and routes of the server's, no identifiers, other than one argument."""
    with pytest.raises(ConfigError):
        Service("s").api(JSON(), JSON(), **options)(function)


def test_names_and_routes_are_unique() -> None:
    """Within a Service; two runners of one name are refused too."""
    svc = Service("s")
    assert svc.api(JSON(), JSON())(one) is one
    with pytest.raises(ConfigError, match="two endpoints called 'one'"):
        svc.api(JSON(), JSON())(one)
    with pytest.raises(ConfigError, match="route '/one'"):
        svc.api(JSON(), JSON(), name="other", route="one")(one)
    assert repr(svc) == "<Service s [one]>"

    class Named:
        name = "twin"

    with pytest.raises(ConfigError, match="two runners called 'twin'"):
        Service("s", runners=[Named(), Named()])  # type: ignore[list-item]


def test_descriptors_refuse_what_they_cannot_read_or_write() -> None:
    """As errors of ours."""
    with pytest.raises(InvalidInput):
        JSON().read(Body(b"", ""))
    with pytest.raises(ModelError):
        JSON().write({1, object()})
    with pytest.raises(InvalidInput):
        NumpyNdarray().read(Body(b"[1, [2]]", ""))
    with pytest.raises(InvalidInput):
        NumpyNdarray().read(Body(b"[null]", ""))
    assert NumpyNdarray().read(Body(b"[1, 2]", "")).dtype == np.int64


# --- found --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_service", "my_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my_service.py").write_text(SERVICE)
    return tmp_path


@pytest.mark.parametrize(
    "target", ["my_service:svc", "my_service", "my_service.py:svc", "./my_service.py"]
)
def test_targets_that_name_a_service(folder: Path, target: str) -> None:
    """A module or a file in the working folder; the attribute may be left out."""
    found = load_service(target)
    assert found.name == "test_service"
    assert list(found.endpoints) == ["predict", "other"]
    sys.modules.pop("my_service")


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ("my_broken:svc", None, "there is no module 'my_broken'"),
        ("my_broken.py:svc", None, "there is no file 'my_broken.py'"),
        ("my_broken:svc", "import nothing_of_that_name", "line 1"),
        ("my_broken:svc", "x = 1\nsvc = 1 / 0", "ZeroDivisionError: division by zero .*line 2"),
        ("my_broken:svc", "def broken(:", "SyntaxError"),
        ("my_broken:svc", "raise SystemExit(3)", "SystemExit"),
        ("my_broken:svc", "svc = 5", "is no Service"),
        ("my_broken:scv", SERVICE, "Did you mean 'svc'"),
        ("my_broken", "x = 5", "0 Services"),
        ("my_broken", SERVICE + "\nsvc2 = Service('b')", "2 Services"),
    ],
    ids=str,
)
def test_targets_that_name_none(folder: Path, target: str, text: str | None, expected: str) -> None:
    """One line that says what is wrong, and where in the user's code."""
    if text is not None:
        (folder / "my_broken.py").write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_service(target)
    assert "\n" not in caught.value.message
    sys.modules.pop("my_broken", None)


def describe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m tfrunner.api.describe`."""
    return subprocess.run(
        [sys.executable, "-m", "tfrunner.api.describe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_describe_prints_json_only(folder: Path) -> None:
    """What the module prints goes to stderr; a wrong target is one line and status 2."""
    done = describe(folder, "my_service:svc")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "name": "test_service",
        "runners": [],
        "routes": ["/predict", "/deep/path"],
    }
    assert "users print things" in done.stderr
    wrong = describe(folder, "my_service:nothing")
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 2  # the print, and the error
    assert wrong.stdout == ""
    assert describe(folder).returncode == 2
