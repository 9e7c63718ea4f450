"""What is the same in the OpenAPI document of every server: forms, headers, errors, own pages."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

ERRORS = {
    "400": "The input does not fit the model",
    "404": "No such model, version or method",
    "406": "The answer has no form that Accept names",
    "413": "The body is too large",
    "415": "The body has a form that is not understood, or that the method cannot have",
    "500": "The model's own code failed",
    "503": "The server is full or not ready; Retry-After says when to try again",
    "504": "No answer came within the request's timeout",
}
ENDPOINT_ERRORS = {
    "400": "The body is broken, or does not fit what the endpoint takes",
    "413": "The body is too large, or unpacks to too much",
    "415": "The body's Content-Type is not understood",
    "500": "The endpoint's own code failed, or its result cannot be written",
    "503": ERRORS["503"],
    "504": ERRORS["504"],
}
TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds that the request may take",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
SHARES = [
    {
        "name": "X-Client",
        "in": "header",
        "description": "Whose request it is: the workers' time is shared between clients",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Priority",
        "in": "header",
        "description": "Each step doubles the share against others",
        "schema": {"type": "integer", "minimum": -8, "maximum": 8, "default": 0},
    },
    {
        "name": "X-Server-Timing",
        "in": "header",
        "description": "If given, the answer's Server-Timing says where the time went",
        "schema": {"type": "string"},
    },
]
METHOD = {
    "name": "X-Method",
    "in": "header",
    "description": "The model's method, for bodies that are neither JSON nor MessagePack",
    "schema": {"type": "string"},
}
TENSOR_HEADERS = {
    "X-Tensor-Dtype": {
        "description": "The dtype of application/octet-stream, as float32",
        "schema": {"type": "string"},
    },
    "X-Tensor-Shape": {
        "description": "Its shape, as 2,5; empty for a single value",
        "schema": {"type": "string"},
    },
}
BINARY_FORMS = {
    "application/x-msgpack": "A map with inputs or outputs, arrays as msgpack-numpy writes them",
    "application/x-npy": "One tensor, as numpy.save writes it",
    "application/octet-stream": "One tensor's bytes, little-endian and in C order",
    "application/x-npz": "Tensors by name, as numpy.savez writes them",
}


def tensor_parameters() -> list[Schema]:
    """Return the headers of raw tensors as parameters of a request."""
    return [{"name": name, "in": "header", **each} for name, each in TENSOR_HEADERS.items()]


def binary_forms() -> Schema:
    """Return the contents of every form but JSON."""
    return {
        name: {"schema": {"type": "string", "format": "binary", "description": text}}
        for name, text in BINARY_FORMS.items()
    }


def json_outputs() -> Schema:
    """Return the content of an answer as JSON."""
    properties = {"predictions": {"type": "array"}, "outputs": {}}
    return {"schema": {"type": "object", "properties": properties}}


def error_responses() -> Schema:
    """Return the responses that every predict operation may have beside its own."""
    return _described(ERRORS)


def endpoint_errors() -> Schema:
    """Return the responses that every endpoint may have beside its own."""
    return _described(ENDPOINT_ERRORS)


def _described(errors: dict[str, str]) -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {code: {"description": text, "content": content} for code, text in errors.items()}


def error_schema() -> Schema:
    """Return the schema of the body of an error."""
    names = ("error", "code", "request_id")
    return {
        "type": "object",
        "required": list(names),
        "properties": {name: {"type": "string"} for name in names},
    }


def own_pages() -> dict[str, Schema]:
    """Return the paths of the server's own pages."""
    pages = {
        "/livez": "Whether the process lives",
        "/readyz": "Whether the server is ready, and which models it serves",
        "/metrics": "The server's numbers, for Prometheus",
        "/v1/models": "Every model that is served, and its state",
    }
    return {
        path: {
            "get": {
                "tags": ["server"],
                "operationId": path.strip("/").replace("/", "."),
                "summary": text,
                "responses": {"200": {"description": text}},
            }
        }
        for path, text in pages.items()
    }
