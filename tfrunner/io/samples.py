"""OpenAPI schemas and examples: from sample values, from NumPy's dtypes, from pydantic's models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tfrunner.api import json_text

Schema = dict[str, Any]

LONGEST_EXAMPLE = 4096
"""Characters of JSON; a longer sample gives a schema, but is not shown."""

REFERENCES = "#/$defs/"
"""Where pydantic's schemas keep those of the models inside."""


def plain(sample: Any) -> Any:
    """Return a sample as JSON holds it: None for numbers that are not finite.

    Raises:
        TypeError: JSON has no form for it.
    """
    return _finite(json_text.parse(json_text.write(sample)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_example(schema: Schema, example: Any) -> Schema:
    """Return OpenAPI's media type: the schema, and the example unless it is too long to read."""
    if example is None or len(json_text.write(example)) > LONGEST_EXAMPLE:
        return {"schema": schema}
    return {"schema": schema, "example": example}


def schema_of(value: Any) -> Schema:
    """Return the schema of values like this one, which is as `plain` returns it."""
    match value:
        case None:
            return {}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": _schema_of_items(value)}
        case _:
            properties = {key: schema_of(inner) for key, inner in value.items()}
            return {"type": "object", "properties": properties}


def _schema_of_items(items: Sequence[Any]) -> Schema:
    schemas: list[Schema] = []
    for item in items:
        schema = schema_of(item)
        if schema not in schemas:
            schemas.append(schema)
    kinds = [schema.get("type") for schema in schemas]
    if kinds and set(kinds) <= {"integer", "number"}:
        return {"type": "number"} if "number" in kinds else {"type": "integer"}
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas} if schemas else {}


def array_schema(dtype: str | None, shape: Sequence[int] | None) -> Schema:
    """Return the schema of an array as nested lists.

    Args:
        dtype: Its name, None for any.
        shape: Sizes, -1 where any goes; None for any rank.
    """
    item = {} if dtype is None else {"type": json_type(dtype)}
    if shape is None:
        return {"description": f"nested lists of {dtype}"} if dtype else {}
    schema: Schema = item
    for size in reversed(shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema


def json_type(dtype: str) -> str:
    """Return JSON's type of the values of a dtype, by its name."""
    if dtype == "bool":
        return "boolean"
    if "int" in dtype:
        return "integer"
    return "number" if "float" in dtype or "complex" in dtype else "string"


def without_references(schema: Schema) -> Schema:
    """Return a pydantic schema in which every `$ref` is replaced by what it names.

    Those would be looked up from the root of the OpenAPI document, where nothing is. A model
    inside itself is an object of any kind.
    """
    resolved: Schema = _resolve(schema, schema.get("$defs", {}), ())
    return resolved


def _resolve(node: Any, models: Schema, inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_resolve(each, models, inside) for each in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _resolve(each, models, inside) for key, each in node.items() if key != "$defs"}
    reference = rest.get("$ref")
    if not (isinstance(reference, str) and reference.startswith(REFERENCES)):
        return rest
    del rest["$ref"]
    name = reference.removeprefix(REFERENCES)
    found = (
        {"type": "object", "title": name}
        if name in inside or name not in models
        else _resolve(models[name], models, (*inside, name))
    )
    return {**found, **rest}
