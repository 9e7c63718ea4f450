"""What Services take and give: how a body becomes a value, and a value a body."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Union

import numpy as np

from tfrunner.api import json_text
from tfrunner.casting import bind
from tfrunner.errors import InvalidInput, ModelError
from tfrunner.specs import Argument, MethodSpec, TensorSpec
from tfrunner.tensors import DTYPES, Array, dtype_name

JSONSerializable = Union[str, int, float, bool, None, list[Any], dict[str, Any]]
"""What JSON can hold; for annotations."""

NPY = "application/x-npy"


class Body(NamedTuple):
    """A body and its Content-Type."""

    data: bytes
    content_type: str


class Descriptor(Protocol):
    """How the values of an endpoint travel."""

    def read(self, body: Body) -> Any:
        """Return the value of a body; raise InvalidInput where it has none."""

    def write(self, value: Any) -> Body:
        """Return the body of a value; raise ModelError where it cannot be written."""

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of such a body."""


class JSON:
    """Any JSON value; on the way out also arrays, NumPy's numbers, dataclasses, data frames."""

    def read(self, body: Body) -> JSONSerializable:
        """Return the value of a body; NaN, Infinity and -Infinity are numbers.

        Raises:
            InvalidInput: It is no JSON.
        """
        value: JSONSerializable = json_text.parse(body.data)
        return value

    def write(self, value: Any) -> Body:
        """Return the body of a value.

        Raises:
            ModelError: JSON has no form for it.
        """
        try:
            return Body(json_text.write(value), "application/json")
        except (TypeError, ValueError) as exc:
            raise ModelError(f"the endpoint's result cannot be written as JSON: {exc}") from exc

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`: anything."""
        return {"application/json": {"schema": {}}}


class NumpyNdarray:
    """One array: as nested JSON lists, or as the bytes of a .npy file (application/x-npy).

    Args:
        dtype: What it is cast to, where given.
        shape: What it must have, -1 where any size goes.
    """

    def __init__(self, dtype: str | None = None, *, shape: Sequence[int] | None = None) -> None:
        self.dtype = dtype
        self.shape = shape

    def read(self, body: Body) -> Array:
        """Return the array of a body.

        Raises:
            InvalidInput: It has another form, or does not fit dtype and shape.
        """
        binary = body.content_type.startswith(NPY)
        value = self._read_npy(body.data) if binary else json_text.parse(body.data)
        try:
            dtype = self.dtype or dtype_name(np.asarray(value))
        except ValueError:
            raise InvalidInput("the array is ragged: its lists differ in length") from None
        if dtype not in DTYPES:
            raise InvalidInput(f"the array has dtype {dtype}; expected numbers or text")
        shape = None if self.shape is None else tuple(n if n >= 0 else None for n in self.shape)
        spec = MethodSpec("array", (Argument("array", TensorSpec("array", dtype, shape)),))
        return bind(spec, (value,), {})[0]

    def _read_npy(self, data: bytes) -> Array:
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as exc:
            raise InvalidInput(f"the body is no readable .npy file: {exc}") from None
        if not isinstance(array, np.ndarray):
            raise InvalidInput("the body is an archive of arrays; expected one .npy file")
        return array

    def write(self, value: Any) -> Body:
        """Return the body of an array: nested JSON lists.

        Raises:
            ModelError: It is no array, or JSON has no form for its dtype.
        """
        return JSON().write(np.asarray(value))

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        binary = {"schema": {"type": "string", "format": "binary"}}
        return {"application/json": {"schema": {"type": "array", "items": {}}}, NPY: binary}
