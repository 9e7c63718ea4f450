"""The api process over HTTP: predict requests, the server's pages, and every refusal."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api_world import BOTH_WAYS, ECHO, LIMIT, FakeGateway, Serve, Y, answer, serving
from tfrunner import packing
from tfrunner.api.health import readiness
from tfrunner.errors import Unavailable

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
BODY_LIMIT = 100_000


@pytest.fixture(scope="module")
def gateway() -> FakeGateway:
    """Return the gateway of the module's server."""
    return FakeGateway()


@pytest.fixture(scope="module", **BOTH_WAYS)  # type: ignore[call-overload]
def client(gateway: FakeGateway, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Return a client of a served application, with and without something around it."""
    with (
        serving(gateway, body_limit=BODY_LIMIT, direct=request.param) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client


@pytest.fixture(**BOTH_WAYS)  # type: ignore[call-overload]
def serve(request: pytest.FixtureRequest) -> Serve:
    """Return `serving`, one of its two ways."""
    return functools.partial(serving, direct=request.param)


def calling(name: str) -> dict[str, Any]:
    """Return a body that calls a method."""
    return {**BODY, "signature_name": name}


def raw_post(body: bytes) -> bytes:
    """Return a predict request as it is on the wire."""
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# --- answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/v1/models/m:predict", "/v1/models/m/versions/v1:predict", "/v1/models/m/versions/1:predict",
     "/v1/models/m/versions/latest:predict", "/v1/models/m:v0:predict", "/v1/models/%6d:predict"],
)  # fmt: skip
def test_a_prediction_in_both_forms(client: httpx.Client, path: str) -> None:
    """By rows and whole, at every path that means a version, twice (the path is then known)."""
    rows = BODY["instances"]
    for _ in range(2):
        assert client.post(path, json=BODY).json() == {"predictions": rows}
        assert client.post(path, json={"inputs": rows}).json() == {"outputs": rows}


def test_bodies_without_a_content_type_are_json(client: httpx.Client) -> None:
    """As `curl -d` sends them."""
    reply = client.post(PREDICT, content=json.dumps(BODY))
    assert reply.json() == {"predictions": BODY["instances"]}
    assert reply.headers["content-type"] == "application/json"


def test_several_outputs_and_text(client: httpx.Client) -> None:
    """Objects by row; words as text."""
    body = {"instances": [{"a": [1, 2], "b": "x"}], "signature_name": "pair"}
    assert client.post(PREDICT, json=body).json() == {
        "predictions": [{"out0": [1.0, 2.0], "out1": "x"}]
    }


def test_nan_goes_in_and_comes_out(client: httpx.Client) -> None:
    """As tokens."""
    reply = client.post(PREDICT, content=b'{"instances": [[NaN, -Infinity]]}')
    assert reply.content == b'{"predictions":[[NaN,-Infinity]]}'
    assert math.isnan(reply.json()["predictions"][0][0])


def test_msgpack_in_and_out(client: httpx.Client, gateway: FakeGateway) -> None:
    """Arrays both ways, dtypes kept; its timeout goes before the header's."""
    rows = np.array(BODY["instances"], "float32")
    reply = client.post(
        PREDICT,
        content=packing.pack({"inputs": {"x": rows}, "timeout": 7.5}),
        headers={"content-type": packing.CONTENT_TYPE, "x-request-timeout": "3"},
    )
    assert reply.headers["content-type"] == packing.CONTENT_TYPE
    array = packing.unpack(reply.content)["outputs"]
    assert array.dtype == np.float32
    assert np.array_equal(array, rows)
    assert gateway.timeouts[-1] == 7.5


def test_the_timeout_is_the_callers_or_the_default(
    client: httpx.Client, gateway: FakeGateway
) -> None:
    """X-Request-Timeout in seconds."""
    client.post(PREDICT, json=BODY)
    assert gateway.timeouts[-1] == 60.0
    client.post(PREDICT, json=BODY, headers={"X-Request-Timeout": "0.25"})
    assert gateway.timeouts[-1] == 0.25


@pytest.mark.parametrize("path", [PREDICT, "/livez", "/v1/models/none:predict", "/none"])
def test_every_reply_has_a_request_id(client: httpx.Client, path: str) -> None:
    """The caller's if it can be echoed, else one of ours, which differs each time."""
    given = client.post(path, json=BODY, headers={"X-Request-Id": "abc-1"})
    assert given.headers.get_list("x-request-id") == ["abc-1"]
    made = [client.post(path, json=BODY).headers["x-request-id"] for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]
    for bad in ("a b", "x" * 200, "\xe4".encode("latin-1")):
        replaced = client.post(path, json=BODY, headers={"X-Request-Id": bad})
        assert replaced.headers["x-request-id"].isascii()
        assert " " not in replaced.headers["x-request-id"]
        assert len(replaced.headers["x-request-id"]) < 100


def test_models_that_change_are_noticed(serve: Serve) -> None:
    """A path stands for what the gateway's models are now."""
    gateway = FakeGateway()
    with serve(gateway) as address:
        assert httpx.post(f"{address}{PREDICT}", json=BODY, trust_env=False).status_code == 200
        gateway.models = {}
        reply = httpx.post(f"{address}{PREDICT}", json=BODY, trust_env=False)
    assert reply.status_code == 404


# --- refusals --------------------------------------------------------------------------------

REFUSED = {
    "unknown model": ("/v1/models/n:predict", BODY, 404, "not_found", "m"),
    "unknown version": ("/v1/models/m/versions/9:predict", BODY, 404, "not_found", "v1"),
    "unknown method": (PREDICT, calling("nothing"), 404, "not_found", "__call__"),
    "wrong dtype": (PREDICT, {"instances": [["a", "b"]]}, 400, "invalid_input", "float32 [?, 2]"),
    "wrong rank": (PREDICT, {"instances": [1, 2]}, 400, "invalid_input", "float32 [?, 2]"),
    "wrong shape": (PREDICT, {"instances": [[1, 2, 3]]}, 400, "invalid_input", "[1, 3]"),
    "wrong name": (PREDICT, {"inputs": {"z": [[1, 2]]}}, 400, "invalid_input", "'x'"),
    "ragged": (PREDICT, {"instances": [[1, 2, 3], [4]]}, 400, "invalid_input", "ragged"),
    "no JSON": (PREDICT, b"{nonsense", 400, "invalid_input", "JSON Parse error"),
    "too deep": (PREDICT, b"[" * 50_000, 400, "invalid_input", "JSON Parse error"),
    "model raises": (PREDICT, calling("fail"), 500, "model_error", "the model raised"),
    "queue full": (PREDICT, calling("full"), 503, "overloaded", "full"),
    "deadline": (PREDICT, calling("late"), 504, "deadline_exceeded", "in time"),
    "our own mistake": (PREDICT, calling("broken"), 500, "internal", "its log"),
    "malformed": ("/v1/models/a/b:predict", BODY, 400, "invalid_input", "Malformed request"),
    "unknown below v1": ("/v1/nothing", BODY, 400, "invalid_input", "Malformed request: POST"),
    "unknown": ("/nothing", BODY, 404, "not_found", "/docs"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_answered_gets_a_status_and_a_reason(
    client: httpx.Client, gateway: FakeGateway, name: str
) -> None:
    """The status, the code, what was expected, the request's id; and no more of ours."""
    path, body, status, code, text = REFUSED[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    gateway.counted.clear()
    reply = client.post(path, content=content, headers={"X-Request-Id": "id-1"})
    assert reply.status_code == status, reply.text
    document = reply.json()
    assert set(document) == {"error", "code", "request_id"}
    assert (document["code"], document["request_id"]) == (code, "id-1")
    assert text in document["error"]
    assert "secret" not in reply.text
    counted = {("http_refused", code): 1} if status < 500 or code == "internal" else {}
    assert gateway.counted == counted


def test_a_refusal_says_when_to_try_again(client: httpx.Client) -> None:
    """Retry-After in whole seconds, rounded up; absent where it is not known."""
    assert client.post(PREDICT, json=calling("full")).headers["retry-after"] == "3"
    assert "retry-after" not in client.post(PREDICT, json=calling("late")).headers


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_timeout_that_is_none_is_refused(client: httpx.Client, value: str) -> None:
    """Not a positive, finite number of seconds: 400."""
    reply = client.post(PREDICT, json=BODY, headers={"X-Request-Timeout": value})
    assert reply.status_code == 400
    assert "imeout" in reply.json()["error"]


def test_a_pickle_is_refused(client: httpx.Client) -> None:
    """Kind O never reaches msgpack-numpy."""
    bomb = {b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n."}
    reply = client.post(
        PREDICT,
        content=packing.pack({"inputs": {"x": bomb}}),
        headers={"content-type": packing.CONTENT_TYPE},
    )
    assert (reply.status_code, reply.json()["code"]) == (400, "protocol_error")


def test_methods_that_a_path_does_not_have(client: httpx.Client) -> None:
    """405 says what is allowed, in one order, and not that there is no such model."""
    reply = client.put("/livez")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")
    for path in (PREDICT, "/v1/models/m/versions/1:predict", "/v1/models/none:predict"):
        for verb in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
            reply = client.request(verb, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
            assert reply.json()["code"] == "method_not_allowed"
            assert f"{verb} {path} is not allowed; POST it" in reply.json()["error"]
        reply = client.head(path)
        assert (reply.status_code, reply.headers["allow"], reply.text) == (405, "POST", "")


def test_an_oversize_body_is_refused_at_once_and_the_connection_lives(
    client: httpx.Client, gateway: FakeGateway
) -> None:
    """By its Content-Length, before it is sent."""
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, LIMIT)
    with contextlib.closing(connection):
        connection.putrequest("POST", PREDICT)
        connection.putheader("Content-Length", str(10 * BODY_LIMIT))
        connection.endheaders()
        reply = connection.getresponse()  # nothing of the body was sent
        assert reply.status == 413
        assert json.loads(reply.read())["code"] == "too_large"
    whole = client.post(PREDICT, content=b" " * (10 * BODY_LIMIT))
    assert whole.status_code == 413
    assert str(BODY_LIMIT) in whole.json()["error"]
    assert client.post(PREDICT, json=BODY).status_code == 200


def test_an_oversize_body_in_chunks_is_refused_without_its_end(client: httpx.Client) -> None:
    """The limit holds while it arrives: the reply comes though the body never ends."""
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, LIMIT) as connection:
        connection.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b" " * 1000
        for _ in range(BODY_LIMIT // 1000 + 1):
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_in_chunks_is_read_whole(client: httpx.Client) -> None:
    """Also one of many pieces."""
    data = json.dumps(BODY).encode() + b" " * (BODY_LIMIT // 2)
    pieces = [data[at : at + 999] for at in range(0, len(data), 999)]
    assert client.post(PREDICT, content=iter(pieces)).json() == {"predictions": BODY["instances"]}


def test_pipelined_requests_are_answered_in_order(client: httpx.Client) -> None:
    """Three requests in one packet."""
    bodies = [json.dumps({"instances": [[n, n]]}).encode() for n in range(3)]
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address, LIMIT) as connection:
        connection.sendall(b"".join(raw_post(body) for body in bodies))
        received = b""
        while received.count(b"}") < 3:
            received += connection.recv(10_000)
    found = [line for line in received.split(b"\r\n") if line.startswith(b"{")]
    expected = [b'{"predictions":[[%d.0,%d.0]]}' % (n, n) for n in range(3)]
    assert [line[: line.index(b"}") + 1] for line in found] == expected


def test_a_caller_that_goes_away_cancels_its_request(serve: Serve) -> None:
    """The gateway's future is cancelled though no answer comes."""
    gateway = FakeGateway()
    body = json.dumps(calling("hang")).encode()
    with serve(gateway) as address:
        url = httpx.URL(address)
        with socket.create_connection((url.host, url.port), LIMIT) as connection:
            connection.sendall(raw_post(body))
            assert gateway.hanging.wait(LIMIT)
        assert gateway.cancelled.wait(LIMIT)


def test_an_answer_that_json_cannot_hold_is_refused(serve: Serve) -> None:
    """Complex numbers: 400 that names the binary form."""
    gateway = FakeGateway(answering=answer([np.zeros(2, "complex64")], Y))
    with serve(gateway) as address:
        reply = httpx.post(f"{address}{PREDICT}", json=BODY, trust_env=False)
    assert reply.status_code == 400
    assert "x-msgpack" in reply.json()["error"]


# --- the server's pages --------------------------------------------------------------------

STATE: dict[str, Any] = {
    "uptime": 1.0,
    "models": {
        "m:v1": {
            "state": "available",
            "workers": 1,
            "reason": "",
            "methods": {"__call__": {"batchable": False, "repeatable": True, "note": "unsafe"}},
        },
        "m:v0": {"state": "unavailable", "workers": 0, "reason": "the file is corrupt"},
    },
}


@pytest.fixture
def told(gateway: FakeGateway) -> Iterator[FakeGateway]:
    """Return the gateway, whose dispatcher tells STATE."""
    gateway.state = STATE
    yield gateway
    gateway.state, gateway.state_error = {"models": {}}, None


def with_states(**states: str) -> dict[str, Any]:
    """Return a snapshot of models in these states."""
    return {"models": {name: {"state": state, "reason": ""} for name, state in states.items()}}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (with_states(a="available"), True),
        (with_states(a="available", b="unavailable"), True),
        (with_states(a="available", b="loading"), False),
        (with_states(a="loading"), False),
        (with_states(a="unavailable"), False),
        ({**with_states(a="available"), "draining": True}, False),
        (with_states(), True),
    ],
    ids=str,
)
def test_ready_is_every_model_settled_and_one_served(state: Any, expected: bool) -> None:
    """The rule of readiness, and both lists in the body."""
    is_ready, body = readiness(state)
    assert is_ready == expected
    assert body["models"] == {tag: m["state"] == "available" for tag, m in state["models"].items()}


def test_health_pages(client: httpx.Client, told: FakeGateway) -> None:
    """Alive without the dispatcher; ready only with it."""
    reply = client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["served"] == ["m:v1"]
    assert reply.json()["unavailable"] == {"m:v0": "the file is corrupt"}
    assert client.get("/v1/models/m/versions/v1/ready").status_code == 200
    assert client.get("/v1/models/m/versions/v0/ready").status_code == 503
    assert client.get("/v1/models/m/ready").status_code == 200
    told.state_error = Unavailable("no dispatcher", retry_after=1.0)
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/metrics").status_code == 503


def test_model_pages(client: httpx.Client, told: FakeGateway) -> None:
    """The list, TensorFlow Serving's status, and the stored specification."""
    listed = client.get("/v1/models").json()["models"]
    assert [(m["name"], m["version"], m["serial"], m["state"]) for m in listed] == [
        ("m", "v0", 0, "UNAVAILABLE"),
        ("m", "v1", 1, "AVAILABLE"),
    ]
    assert listed[0]["reason"] == "the file is corrupt"
    assert listed[1]["methods"]["__call__"]["note"] == "unsafe"
    assert listed[1]["methods"]["__call__"]["batchable"] is False
    fine = {"error_code": "OK", "error_message": ""}
    status = client.get("/v1/models/m/versions/v1").json()
    assert status == {
        "model_version_status": [{"version": "v1", "state": "AVAILABLE", "status": fine}]
    }
    assert len(client.get("/v1/models/m").json()["model_version_status"]) == 2
    assert client.get("/v1/models/none").status_code == 404
    assert client.get("/v1/models/m/versions/9").status_code == 404
    metadata = client.get("/v1/models/m/metadata").json()
    assert metadata["methods"].keys() == ECHO.methods.keys()
    assert metadata["methods"]["__call__"]["arguments"][0]["spec"]["shape"] == [None, 2]
    assert client.get("/v1/status").json() == STATE


def test_metrics_page(client: httpx.Client, told: FakeGateway) -> None:
    """Prometheus' text."""
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert 'tfrunner_workers_up{model="m:v1"} 1.0' in reply.text


def test_openapi_describes_what_is_served(client: httpx.Client) -> None:
    """Every model has a path; its first example is answered by the server itself."""
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert "/v1/models/m/versions/v0:predict" in document["paths"]
    operation = document["paths"][PREDICT]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["examples"]["__call__ instances"]["value"] == {"instances": [[0.0, 0.0]]}
    assert len(content["examples"]) > 8
    for name, example in content["examples"].items():
        if name.split()[0] not in ("fail", "full", "late", "hang", "broken"):
            reply = client.post(PREDICT, json=example["value"])
            assert reply.status_code == 200, (name, reply.text)


def test_the_documentation_has_no_foreign_assets(client: httpx.Client) -> None:
    """Page, style and script come from here, and name no other host."""
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/docs", "/docs/docs.css", "/docs/docs.js"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert "://" not in reply.text and '"//' not in reply.text
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'") and "http" not in policy
    assert "docs/docs.css" in page.text
    assert "docs/docs.js" in page.text
    assert client.get("/docs/other.js").status_code == 404
    assert client.get("/docs/..%2fapp.py").status_code == 404
