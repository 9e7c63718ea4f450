"""What each server is sent, and how its answer is read. Pure: bytes in, bytes out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgpack
import msgpack_numpy
import numpy as np

from benchmarks.peers.models import Model

JSON_TYPE = "application/json"
RAW_TYPE = "application/octet-stream"
LENGTH = "inference-header-content-length"

Headers = Mapping[str, str]


class Request(NamedTuple):
    """An HTTP request's body and headers."""

    body: bytes
    headers: dict[str, str]


class Form(NamedTuple):
    """A way to call a server.

    Args:
        name: What results call it.
        path: Of the route.
        write: Makes the request of one row.
        read: Returns the answer's row from its body and (lower-case) headers.
    """

    name: str
    path: str
    write: Callable[[Any], Request]
    read: Callable[[bytes, Headers], Any]


def forms(peer: str, body: str, model: Model) -> list[Form]:
    """Return the ways to send a form of body ("json", "binary") to a server, best first."""
    both = {
        "tfrunner": {"json": [_instances(model)], "binary": [_npy(model), _msgpack(model)]},
        "mosec": {"json": [_plain("/inference")], "binary": [_raw("/inference")]},
        "ray": {"json": [_plain("/predict")], "binary": [_raw("/predict")]},
        "litserve": {"json": [_plain("/predict")]},
        "bentoml": {"json": [_bentoml()]},
        "mlserver": {"json": [_open_inference(model)]},
        "triton": {"json": [_open_inference(model)], "binary": [_triton(model)]},
    }
    return both[peer].get(body, [])


def _numbers(value: Any) -> Any:
    """Return nested lists with as many digits as the rows were rounded to."""
    return np.asarray(value, "float64").round(6).tolist()


def _as_json(value: Any) -> Request:
    return Request(json.dumps(value).encode(), {"Content-Type": JSON_TYPE})


def _row(value: Any) -> Any:
    return np.asarray(value, "float32").ravel()


def _instances(model: Model) -> Form:
    return Form(
        "json",
        f"/v1/models/{model.name}:predict",
        lambda row: _as_json({"instances": [_numbers(row)]}),
        lambda body, _: _row(json.loads(body)["predictions"]),
    )


def _npy(model: Model) -> Form:
    def write(row: Any) -> Request:
        buffer = io.BytesIO()
        np.save(buffer, row[None], allow_pickle=False)
        return Request(buffer.getvalue(), {"Content-Type": "application/x-npy"})

    def read(body: bytes, _: Headers) -> Any:
        return _row(np.load(io.BytesIO(body), allow_pickle=False))

    return Form("npy", f"/v1/models/{model.name}:predict", write, read)


def _msgpack(model: Model) -> Form:
    def write(row: Any) -> Request:
        inputs = {"inputs": row[None]}
        packed = msgpack.packb({"inputs": inputs}, default=msgpack_numpy.encode)
        return Request(packed, {"Content-Type": "application/x-msgpack"})

    def read(body: bytes, _: Headers) -> Any:
        return _row(msgpack.unpackb(body, object_hook=msgpack_numpy.decode)["outputs"])

    return Form("msgpack", f"/v1/models/{model.name}:predict", write, read)


def _plain(path: str) -> Form:
    return Form(
        "json",
        path,
        lambda row: _as_json({"x": _numbers(row)}),
        lambda body, _: _row(json.loads(body)["y"]),
    )


def _raw(path: str) -> Form:
    return Form(
        "raw",
        path,
        lambda row: Request(row.tobytes(), {"Content-Type": RAW_TYPE}),
        lambda body, _: _row(np.frombuffer(body, "<f4")),
    )


def _bentoml() -> Form:
    return Form(
        "json",
        "/predict",
        lambda row: _as_json({"x": [_numbers(row)]}),
        lambda body, _: _row(json.loads(body)),
    )


def _open_inference(model: Model) -> Form:
    def write(row: Any) -> Request:
        tensor = {
            "name": "x",
            "shape": [1, *model.shape],
            "datatype": "FP32",
            "data": _numbers(row.ravel()),
        }
        return _as_json({"inputs": [tensor]})

    def read(body: bytes, _: Headers) -> Any:
        return _row(json.loads(body)["outputs"][0]["data"])

    return Form("json", "/v2/models/model/infer", write, read)


def _triton(model: Model) -> Form:
    """Return the binary extension of the Open Inference Protocol."""

    def write(row: Any) -> Request:
        raw = row.tobytes()
        tensor = {
            "name": "x",
            "shape": [1, *model.shape],
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(raw)},
        }
        outputs = [{"name": "y", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"Content-Type": RAW_TYPE, "Inference-Header-Content-Length": str(len(head))}
        return Request(head + raw, headers)

    def read(body: bytes, headers: Headers) -> Any:
        return _row(np.frombuffer(body[int(headers[LENGTH]) :], "<f4"))

    return Form("binary extension", "/v2/models/model/infer", write, read)
