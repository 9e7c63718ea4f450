"""`application/x-msgpack` bodies: `{"inputs": {...}, "method": ..., "timeout": ...}`.

Arrays are as msgpack-numpy writes them; packing.py refuses whatever it would unpickle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tfrunner import packing
from tfrunner.answer import Answer
from tfrunner.api.json_body import FindMethod
from tfrunner.casting import Call, cast
from tfrunner.errors import InvalidInput
from tfrunner.specs import MethodSpec, TensorSpec, tuple_paths

KEYS = ("inputs", "method", "timeout")


class MsgpackCall(NamedTuple):
    """What a body asks for; `timeout` is None where it says nothing about it."""

    method: MethodSpec
    call: Call
    timeout: float | None


def read_msgpack(body: bytes, *, find_method: FindMethod) -> MsgpackCall:
    """Return what a body asks for.

    Args:
        body: The body of the HTTP request.
        find_method: Raises NotFound where the model has no such method.

    Raises:
        InvalidInput: It has another form, or does not fit the method.
        ProtocolError: It is no MessagePack, or holds what could carry a pickle.
    """
    document = packing.unpack(body)
    if not isinstance(document, dict) or "inputs" not in document:
        raise InvalidInput('expected a map {"inputs": {argument name: array or structure}}')
    unknown = [key for key in document if key not in KEYS]
    if unknown:
        raise InvalidInput(f"the body has the key {unknown[0]!r}; expected: {', '.join(KEYS)}")
    name = document.get("method")
    if name is not None and not isinstance(name, str):
        raise InvalidInput(f"'method' is a {type(name).__name__}; expected a name")
    method = find_method(name)
    args, kwargs = _arguments(document["inputs"])
    return MsgpackCall(method, cast(method, args, kwargs), _timeout(document.get("timeout")))


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named values; anything but a map is the only argument."""
    if isinstance(inputs, dict) and all(isinstance(key, str) for key in inputs):
        return (), inputs
    return (inputs,), {}


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInput(f"'timeout' is {value!r}; expected a number of seconds")
    return check_timeout(float(value))


def check_timeout(seconds: float) -> float:
    """Return a caller's timeout in seconds.

    Raises:
        InvalidInput: It is not positive, or no number of seconds that a clock can add.
    """
    if not 0 < seconds <= 1e6:
        raise InvalidInput(f"the timeout is {seconds} s; expected more than 0, at most 1000000")
    return seconds


def write_msgpack(answer: Answer) -> bytes:
    """Return the body of an answer; tuples come as lists, and `tuples` says where they stood."""
    document = {"outputs": answer.value()}
    if not isinstance(answer.structure, TensorSpec):
        paths = [list(path) for path in tuple_paths(answer.structure)]
        if paths:
            document["tuples"] = paths
    return packing.pack(document)
