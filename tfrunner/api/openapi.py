"""The OpenAPI 3.1 document of a server, from the specs of its models and its Services. Pure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

from tfrunner.api.openapi_parts import (
    METHOD,
    SHARES,
    TENSOR_HEADERS,
    TIMEOUT,
    Schema,
    binary_forms,
    endpoint_errors,
    error_responses,
    error_schema,
    json_outputs,
    own_pages,
    tensor_parameters,
)
from tfrunner.endpoint import Endpoint
from tfrunner.io.body import content_of
from tfrunner.service import Service
from tfrunner.specs import (
    DictSpec,
    ListSpec,
    MethodSpec,
    ModelSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
    shape_text,
)
from tfrunner.tensors import STRING

EXAMPLE_LIMIT = 1000
"""Most numbers that an example shows."""


def document(models: Iterable[ModelSpec], services: Iterable[Service], *, version: str) -> Schema:
    """Return the document.

    Args:
        models: What is served.
        services: Whose endpoints are served.
        version: The server's version.
    """
    paths: dict[str, Schema] = {}
    for service in services:
        for endpoint in service.endpoints.values():
            paths[endpoint.route] = {"post": _endpoint(service, endpoint)}
    for model in sorted(models, key=lambda each: (each.name, -each.serial)):
        path = f"/v1/models/{model.name}:predict"
        if path in paths:  # an older version
            path = f"/v1/models/{model.name}/versions/{model.version}:predict"
        paths[path] = {"post": _predict(model)}
    paths |= own_pages()
    return {
        "openapi": "3.1.0",
        "info": {"title": "tfrunner", "version": version},
        "paths": paths,
        "components": {"schemas": {"Error": error_schema()}},
    }


def _endpoint(service: Service, endpoint: Endpoint) -> Schema:
    summary, _, rest = endpoint.doc.partition("\n")
    return {
        "tags": [service.name],
        "operationId": f"{service.name}.{endpoint.name}",
        "summary": summary or endpoint.name,
        "description": rest.strip(),
        "parameters": [TIMEOUT],
        "requestBody": {"required": True, "content": endpoint.input.schema()},
        "responses": {
            "200": {"description": _result(endpoint), "content": content_of(endpoint.output)},
            **endpoint_errors(),
        },
    }


def _result(endpoint: Endpoint) -> str:
    function = endpoint.function
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "The result, piece by piece"
    return "The result"


def _predict(model: ModelSpec) -> Schema:
    forms, examples = [], {}
    for method in model.methods.values():
        named = {} if method.name == model.default_method() else {"signature_name": method.name}
        for key in ("instances", "inputs"):
            form = _form(method, key, named)
            if form is None:
                continue
            schema, example = form
            forms.append(schema)
            if example is not None:
                examples[f"{method.name} {key}"] = {"value": example}
    content: Schema = {"schema": {"anyOf": forms}}
    if examples:
        content["examples"] = examples
    return {
        "tags": [model.tag],
        "operationId": f"predict.{model.tag}",
        "summary": f"Predict with {model.name}, version {model.version}",
        "description": "\n".join(_describe(method) for method in model.methods.values()),
        "parameters": [TIMEOUT, *SHARES, METHOD, *tensor_parameters()],
        "requestBody": {
            "required": True,
            "content": {"application/json": content, **binary_forms()},
        },
        "responses": {
            "200": {
                "description": "The outputs, in the form of the request unless Accept says another",
                "headers": TENSOR_HEADERS,
                "content": {"application/json": json_outputs(), **binary_forms()},
            },
            **error_responses(),
        },
    }


def _describe(method: MethodSpec) -> str:
    inputs = ", ".join(f"{a.name}: {_describe_node(a.spec)}" for a in method.arguments)
    output = "not known" if method.output is None else _describe_node(method.output)
    return f"{method.name}({inputs}) -> {output}"


def _describe_node(node: Node) -> str:
    match node:
        case TensorSpec(dtype=dtype, shape=shape):
            return f"{dtype} {shape_text(shape)}"
        case DictSpec(items=mapping):
            inner = ", ".join(f"{key}: {_describe_node(child)}" for key, child in mapping.items())
            return "{" + inner + "}"
        case ListSpec(items=items) | TupleSpec(items=items):
            return "[" + ", ".join(_describe_item(child) for child in items) + "]"
        case NothingSpec():
            return "null"


def _describe_item(node: Node) -> str:
    """Describe an element of a list; tensors have names, by which they may be given."""
    name = f"{node.name}: " if isinstance(node, TensorSpec) else ""
    return name + _describe_node(node)


def _form(method: MethodSpec, key: str, named: Schema) -> tuple[Schema, Any] | None:
    """Return schema and example of a body in row form (instances) or columnar form (inputs).

    None where the method has no rows; the example is None where it would be too large.
    """
    by_rows = key == "instances"
    specs = {argument.name: argument.spec for argument in method.arguments}
    if by_rows and (not specs or not all(_has_rows(spec) for spec in specs.values())):
        return None
    alone = next(iter(specs.values())) if len(specs) == 1 else None
    spec = DictSpec(specs) if alone is None else alone
    schema, example = node_schema(spec, skip=by_rows), node_example(spec, skip=by_rows)
    if by_rows:
        schema = {"type": "array", "minItems": 1, "items": schema}
        first = next((leaf.shape for leaf in leaves(spec) if leaf.shape), (1,))
        example = None if example is None else [example] * (first[0] or 1)
    body: Schema = {
        "type": "object",
        "title": f"{method.name}, {'by rows' if by_rows else 'whole tensors'}",
        "required": [*named, key],
        "properties": {key: schema},
    }
    for name, value in named.items():
        body["properties"][name] = {"const": value}
    return body, None if example is None else {**named, key: example}


def _has_rows(node: Node) -> bool:
    match node:
        case TensorSpec(shape=shape):
            return bool(shape)
        case DictSpec(items=mapping):
            return all(_has_rows(child) for child in mapping.values())
        case ListSpec(items=items) | TupleSpec(items=items):
            return all(_has_rows(child) for child in items)
        case NothingSpec():
            return True


def node_schema(node: Node, *, skip: bool = False) -> Schema:
    """Return the JSON schema of a structure; `skip`: of one row of it."""
    match node:
        case TensorSpec():
            return _tensor_schema(node, skip)
        case DictSpec(items=mapping):
            inner = {key: node_schema(child, skip=skip) for key, child in mapping.items()}
            return {"type": "object", "required": list(inner), "properties": inner}
        case ListSpec(items=items) | TupleSpec(items=items):
            each = [node_schema(child, skip=skip) for child in items]
            return {"type": "array", "prefixItems": each, "minItems": len(each)}
        case NothingSpec():
            return {"type": "null"}


def _tensor_schema(spec: TensorSpec, skip: bool) -> Schema:
    text = f"{spec.dtype} {shape_text(spec.shape)}"
    if spec.shape is None:
        return {"description": text}
    schema: Schema = {"type": _json_type(spec.dtype)}
    for size in reversed(spec.shape[1:] if skip else spec.shape):
        schema = {"type": "array", "items": schema}
        if size is not None:
            schema |= {"minItems": size, "maxItems": size}
    return {**schema, "description": text}


def _json_type(dtype: str) -> str:
    if dtype == STRING:
        return "string"
    if dtype == "bool":
        return "boolean"
    return "integer" if "int" in dtype else "number"


def node_example(node: Node, *, skip: bool = False) -> Any:
    """Return zeros for a structure, one where any size goes; None where they are too many."""
    match node:
        case TensorSpec(dtype=dtype, shape=shape) if shape is not None:
            return _zeros(dtype, shape[1:] if skip else shape)
        case DictSpec(items=mapping):
            inner = {key: node_example(child, skip=skip) for key, child in mapping.items()}
            return None if None in inner.values() else inner
        case ListSpec(items=items) | TupleSpec(items=items):
            each = [node_example(child, skip=skip) for child in items]
            return None if None in each else each
    return None


def _zeros(dtype: str, shape: tuple[int | None, ...]) -> Any:
    sizes = [1 if size is None else size for size in shape]
    if math.prod(sizes) > EXAMPLE_LIMIT:
        return None
    value: Any = {"string": "", "boolean": False, "integer": 0}.get(_json_type(dtype), 0.0)
    for size in reversed(sizes):
        value = [value] * size
    return value
