"""JSON bodies of TensorFlow Serving's two forms, as calls of a method.

Row form: `{"instances": [...]}`, one element for each row. Columnar form: `{"inputs": ...}`,
whole tensors. Either may name a method: `"signature_name"`. The short way for the common
body is json_fast.py; what reads it in general, and says what is wrong with it, is here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfrunner.api.json_fast import FastReader
from tfrunner.api.json_text import parse
from tfrunner.casting import Call, call, cast
from tfrunner.errors import InvalidInput
from tfrunner.specs import DictSpec, ListSpec, MethodSpec, Node, NothingSpec, TensorSpec, TupleSpec
from tfrunner.tensors import STRING

FindMethod = Callable[["str | None"], MethodSpec]
"""Gives the method of that name; the model's default one for None."""

DEFAULT_SIGNATURE = "serving_default"


class JsonCall(NamedTuple):
    """What a body asks for.

    Args:
        method: What is called.
        call: With what.
        by_rows: Whether it was given in row form, and is answered so.
    """

    method: MethodSpec
    call: Call
    by_rows: bool


def read_json(body: bytes, *, find_method: FindMethod, fast: FastReader | None = None) -> JsonCall:
    """Return what a body asks for.

    Args:
        body: The body of the HTTP request.
        find_method: Raises NotFound where the model has no such method.
        fast: The short way for the default method, where it has one.

    Raises:
        InvalidInput: It is no JSON, has neither form, or does not fit the method.
    """
    if fast is not None:
        found = fast.read(body)
        if found is not None:
            key, array = found
            return JsonCall(fast.method, call(fast.method, [array]), key == "instances")
    try:
        document = parse(body)
        method = find_method(_signature_name(document))
        args, kwargs = _arguments(method, document, decode=b"b64" in body)
        return JsonCall(method, cast(method, args, kwargs), "instances" in document)
    except RecursionError:
        raise InvalidInput("JSON Parse error: the document is nested too deeply") from None


def _signature_name(document: Any) -> str | None:
    """Check the document's outermost keys; return the method it names, None for the default."""
    if not isinstance(document, dict) or not ("instances" in document or "inputs" in document):
        raise InvalidInput("Missing 'inputs' or 'instances' key")
    if "instances" in document and "inputs" in document:
        raise InvalidInput("Not formatted correctly: expected 'inputs' or 'instances', not both")
    name = document.get("signature_name")
    if name is None or name in ("", DEFAULT_SIGNATURE):
        return None
    if not isinstance(name, str):
        raise InvalidInput(f"'signature_name' is {name!r}; expected the name of a method")
    return name


def _arguments(
    method: MethodSpec, document: dict[str, Any], *, decode: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named values for casting; `decode`: {"b64": ...} may occur."""
    if "instances" in document:
        args, kwargs = _from_rows(method, document["instances"])
    else:
        args, kwargs = _from_columns(method, document["inputs"])
    if decode:
        specs = [argument.spec for argument in method.arguments]
        args = tuple(_decode(value, spec) for value, spec in zip(args, specs, strict=False))
        kwargs = {key: _decode(value, _spec_of(method, key)) for key, value in kwargs.items()}
    return args, kwargs


def _from_columns(method: MethodSpec, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(value, dict) and not _is_base64(value):
        return (), value
    if not _takes_one(method):
        raise InvalidInput(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            f"required as per tensorinfo_map: {_names(method)}"
        )
    return (value,), {}


def _takes_one(method: MethodSpec) -> bool:
    """Return whether one value is enough: every argument after the first has a default."""
    arguments = method.arguments
    return bool(arguments) and all(each.default is not None for each in arguments[1:])


def _from_rows(method: MethodSpec, rows: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(rows, list) or not rows:
        raise InvalidInput("'instances' must be a list with at least one element: a row each")
    if method.batchable and method.batch_dim != (0, 0):
        raise InvalidInput(
            f"{method.name} counts rows on axes {method.batch_dim}; 'instances' is for axis 0. "
            "Send whole tensors: 'inputs'."
        )
    objects = sum(isinstance(row, dict) and not _is_base64(row) for row in rows)
    if objects == 0:
        if not _takes_one(method):
            raise InvalidInput(
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors required as per tensorinfo_map: {_names(method)}"
            )
        return (_column(rows, method.arguments[0].spec, method.arguments[0].name),), {}
    if objects != len(rows):
        raise InvalidInput("the elements of 'instances' must be all objects or all values")
    keys = rows[0].keys()
    for index, row in enumerate(rows):
        if row.keys() != keys:
            raise InvalidInput(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"keys must be equal to: {','.join(keys)}; got: {','.join(row)}"
            )
    return (), {
        key: _column([row[key] for row in rows], _spec_of(method, key), key) for key in keys
    }


def _column(values: list[Any], spec: Node | None, at: str) -> Any:
    """Return one argument's value from its value in each row.

    Lists of rows go down to the tensors. A tensor of rank 0 is no column: it is one value for
    the whole request, which every row must repeat.
    """
    match spec:
        case TensorSpec(shape=()):
            if any(value != values[0] for value in values):
                raise InvalidInput(
                    f"input {at!r} is one value for the whole request; the rows differ in it. "
                    "Send one request for each value."
                )
            return values[0]
        case DictSpec(items=mapping):
            if all(isinstance(value, dict) and value.keys() == mapping.keys() for value in values):
                return {
                    key: _column([value[key] for value in values], child, key)
                    for key, child in mapping.items()
                }
            return values[0]  # casting says what is missing
        case ListSpec(items=items) | TupleSpec(items=items):
            if all(isinstance(value, list) and len(value) == len(items) for value in values):
                return [
                    _column([value[index] for value in values], child, f"{at}[{index}]")
                    for index, child in enumerate(items)
                ]
            return values[0]
        case NothingSpec():
            return None
    return values


def _spec_of(method: MethodSpec, name: str) -> Node | None:
    """Return the spec of an argument, or of a part of the only argument; None if unknown."""
    for argument in method.arguments:
        if argument.name == name:
            return argument.spec
    if len(method.arguments) == 1:
        match method.arguments[0].spec:
            case DictSpec(items=mapping):
                return mapping.get(name)
            case ListSpec(items=items) | TupleSpec(items=items):
                tensors = (child for child in items if isinstance(child, TensorSpec))
                return next((child for child in tensors if child.name == name), None)
    return None


def _names(method: MethodSpec) -> str:
    return ",".join(argument.name for argument in method.arguments)


def _is_base64(value: dict[str, Any]) -> bool:
    return len(value) == 1 and "b64" in value


def _decode(value: Any, spec: Node | None) -> Any:
    """Return the value with every {"b64": text} of a string tensor as bytes."""
    match spec:
        case TensorSpec(dtype=dtype) if dtype == STRING:
            return _decode_strings(value)
        case DictSpec(items=mapping) if isinstance(value, dict):
            return {key: _decode(inner, mapping.get(key)) for key, inner in value.items()}
        case ListSpec(items=items) | TupleSpec(items=items) if isinstance(value, list):
            return [_decode(inner, child) for inner, child in _pair(value, items)]
    return value


def _pair(values: list[Any], specs: Sequence[Node]) -> list[tuple[Any, Node | None]]:
    padded = [*specs, *[None] * len(values)]
    return list(zip(values, padded, strict=False))


def _decode_strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_strings(item) for item in value]
    if not (isinstance(value, dict) and _is_base64(value)):
        return value
    text = value["b64"]
    if not isinstance(text, str):
        raise InvalidInput("JSON Value: not formatted correctly for base64 data")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInput(f"Unable to base64 decode: {exc}") from None
