"""Values on their way to a Service's endpoint and back, for the client: which form each takes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfrunner.errors import NotFound, ProtocolError, did_you_mean

JSON = "application/json"
NPY = "application/x-npy"
BYTES = "application/octet-stream"


class Sent(NamedTuple):
    """A body and its Content-Type."""

    data: bytes
    content_type: str


def write_value(value: Any, accepted: Iterable[str]) -> Sent:
    """Return the body that carries a value to an endpoint.

    Args:
        value: Bytes go as they are, text and arrays in their own form where the endpoint takes
            it, anything else as JSON.
        accepted: Content-Types that the endpoint names.

    Raises:
        TypeError: JSON has no form for it.
    """
    accepted = list(accepted)
    if isinstance(value, (bytes, bytearray, memoryview)):
        known = [each for each in accepted if "*" not in each]
        return Sent(bytes(value), BYTES if BYTES in known or not known else known[0])
    texts = [each for each in accepted if each.startswith("text/")]
    if isinstance(value, str) and texts and JSON not in accepted:
        return Sent(value.encode(), "text/plain" if "*" in texts[0] else texts[0])
    if isinstance(value, np.ndarray) and NPY in accepted:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return Sent(file.getvalue(), NPY)
    return Sent(json.dumps(value, default=_plain).encode(), JSON)


def read_value(data: bytes, content_type: str) -> Any:
    """Return the value of an answer: of JSON, text or .npy; else its bytes.

    Raises:
        ProtocolError: The body is not what its Content-Type says.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == JSON:
            return json.loads(data)
        if kind == NPY:
            return np.load(io.BytesIO(data), allow_pickle=False)
        return data.decode() if kind.startswith("text/") else data
    except (ValueError, EOFError) as exc:
        raise ProtocolError(f"the server's answer is no {kind}: {exc}") from exc


def accepted_types(document: Mapping[str, Any], path: str) -> list[str]:
    """Return the Content-Types that an endpoint takes, as the server's document names them.

    Raises:
        NotFound: There is no such endpoint; the message names the nearest.
    """
    paths = document.get("paths", {})
    operation = paths.get(path, {}).get("post")
    if operation is None:
        known = [each for each, verbs in paths.items() if "post" in verbs and ":" not in each]
        raise NotFound(f"the server has no endpoint {path!r}.{did_you_mean(path, known)}")
    return list(operation.get("requestBody", {}).get("content", {}))


def _plain(value: Any) -> Any:
    """Return an array or one of NumPy's numbers as JSON has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"JSON has no form for a {type(value).__name__}")
