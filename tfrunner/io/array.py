"""Arrays in and out: nested JSON lists, .npy files, or a tensor's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfrunner.api import json_text
from tfrunner.api.answers import array_bytes
from tfrunner.api.npy_body import NAME as NPY
from tfrunner.api.npy_body import npy_pieces, parse_npy
from tfrunner.api.raw_body import NAME as RAW
from tfrunner.api.raw_body import parse_raw
from tfrunner.errors import ConfigError, InvalidInput, ModelError, NotAcceptable
from tfrunner.io.body import BINARY, Body, check_type, media_type
from tfrunner.io.fitting import cast, check_shape, is_shape
from tfrunner.io.json_value import NAME as JSON
from tfrunner.io.json_value import READ as JSON_TYPES
from tfrunner.io.samples import array_schema, plain, with_example
from tfrunner.io.text import in_utf8
from tfrunner.tensors import DTYPES, STRING, Array, dtype_name

FORMS = {"json": JSON, "npy": NPY, "raw": RAW}


class NumpyNdarray:
    """One array: nested JSON lists, a .npy file, or a tensor's bytes with two headers.

    Numbers are cast as those of predict requests are: what would change a value is refused.
    Text is an array of str.

    Args:
        dtype: What it is cast to; None: as it came (JSON: int64, float64, bool or text).
        enforce_dtype: Cast an array that has a dtype (.npy, raw) within its kind only, as
            float64 to float32 (NumPy's `same_kind`).
        shape: What it must have, -1 or None where any size goes. An array of another shape with
            as many values is reshaped.
        enforce_shape: Reshape nothing.
        default_format: What is written: `json`, `npy` or `raw`.

    Raises:
        ConfigError: There is no such dtype, shape or format, or nothing to enforce.
    """

    def __init__(
        self,
        dtype: Any = None,
        *,
        enforce_dtype: bool = False,
        shape: Sequence[int | None] | None = None,
        enforce_shape: bool = False,
        default_format: str = "json",
    ) -> None:
        if (enforce_dtype and dtype is None) or (enforce_shape and shape is None):
            what = "dtype" if enforce_dtype and dtype is None else "shape"
            raise ConfigError(f"NumpyNdarray(enforce_{what}=True) needs a {what}.")
        if default_format not in FORMS:
            raise ConfigError(
                f"NumpyNdarray(default_format={default_format!r}): expected {', '.join(FORMS)}."
            )
        self.dtype = None if dtype is None else _check_dtype(dtype)
        self.enforce_dtype = enforce_dtype
        self.shape = None if shape is None else check_shape(shape, what="NumpyNdarray")
        self.enforce_shape = enforce_shape
        self.default_format = default_format
        self._example: Any = None

    @classmethod
    def from_sample(cls, sample: Any, **options: Any) -> NumpyNdarray:
        """Return the descriptor of arrays like this one, which is shown as their example.

        Args:
            sample: An array, or nested lists. Its dtype and shape are taken; the first axis is
                left open, as it counts rows.
            options: As above; they go before what the sample says.

        Raises:
            ConfigError: It is no array.
        """
        try:
            array = np.asarray(sample)
            found = {"dtype": dtype_name(array), "shape": (-1, *array.shape[1:])[: array.ndim]}
            descriptor = cls(**{**found, **options})
            descriptor._example = plain(array)
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"NumpyNdarray.from_sample: the sample is no array: {exc}") from exc
        return descriptor

    def read(self, body: Body) -> Array:
        """Return the array of a body; it may be written to.

        Raises:
            UnsupportedForm: It is neither JSON nor .npy nor raw, or in a charset that is not read.
            InvalidInput: It is broken or cut off, or does not fit dtype and shape.
        """
        name = media_type(body.content_type)
        if name in (NPY, RAW):
            array = _parse_binary(name, body)
            self._check_kind(array)
            array = self._cast(array, self.dtype or dtype_name(array))
        else:
            check_type(name, (*JSON_TYPES, NPY, RAW), what="an array")
            array = self._parse_json(in_utf8(body))
        array = self._fit(array)
        return array if array.flags.writeable else array.copy()

    def _parse_json(self, data: bytes) -> Array:
        value = json_text.parse(data)
        if isinstance(value, dict):
            raise InvalidInput("the body is an object; expected nested lists of numbers or text.")
        # NumPy gives every element the room of the longest text: it must not see any.
        has_text = b'"' in data
        dtype = self.dtype or (STRING if has_text else _found_dtype(value))
        if has_text and dtype != STRING:
            raise InvalidInput(f"the array holds text; expected {dtype}.")
        return self._cast(value, dtype)

    def _cast(self, value: Any, dtype: str) -> Array:
        """Return a value as an array of a dtype, text as str."""
        array = cast(value, dtype, "array")
        return array if dtype != STRING else _decode(array)

    def _check_kind(self, array: Array) -> None:
        """Refuse what would change its kind where the dtype is enforced."""
        if not self.enforce_dtype or self.dtype is None or dtype_name(array) == self.dtype:
            return
        target = DTYPES[self.dtype]
        if self.dtype == STRING or not np.can_cast(array.dtype, target, "same_kind"):
            raise InvalidInput(f"the array has dtype {array.dtype.name}; expected {self.dtype}.")

    def _fit(self, array: Array) -> Array:
        """Return the array in the shape that is asked for."""
        if self.shape is None or is_shape(array.shape, self.shape):
            return array
        if not self.enforce_shape:
            try:
                return array.reshape(self.shape)
            except ValueError:  # another number of values, or more than one -1
                pass
        raise InvalidInput(
            f"the array has shape {list(array.shape)}; expected {list(self.shape)}"
            f"{', -1 for any size' if -1 in self.shape else ''}."
        )

    def write(self, value: Any) -> Body:
        """Return the body of an array, cast and shaped as on the way in.

        Raises:
            ModelError: It is no array, does not fit, or the format cannot hold its dtype.
        """
        try:
            array = self._to_write(value)
            if self.default_format == "json":
                return Body(json_text.write(array), JSON)
            if array.dtype.kind in "OSU":
                raise TypeError(f"{FORMS[self.default_format]} holds numbers, not text")
            if self.default_format == "npy":
                return Body(b"".join(npy_pieces(array)), NPY)
            return Body(bytes(array_bytes(array)), RAW, _raw_headers(array))
        except (TypeError, ValueError, InvalidInput, NotAcceptable) as exc:
            raise ModelError(f"the endpoint's result is no such array: {exc}") from exc

    def _to_write(self, value: Any) -> Array:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.ndim == 0 and array.dtype.kind in "OSU" and not hasattr(value, "dtype"):
            raise TypeError(f"it is a {type(value).__name__}; expected an array, or nested lists")
        if self.dtype is not None:
            self._check_kind(array)
            array = self._cast(array, self.dtype)
        return self._fit(array)

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`, what is written first."""
        forms = {
            JSON: with_example(array_schema(self.dtype, self.shape), self._example),
            NPY: {"schema": {**BINARY, "description": "as numpy.save writes it"}},
            RAW: {
                "schema": {
                    **BINARY,
                    "description": "little-endian, in C order; the headers X-Tensor-Dtype and "
                    "X-Tensor-Shape say what it is",
                }
            },
        }
        first = FORMS[self.default_format]
        return {first: forms.pop(first), **forms}

    def written(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of what is written."""
        return dict([next(iter(self.schema().items()))])


def _check_dtype(dtype: Any) -> str:
    """Return our name of a dtype that is given as NumPy takes it."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    try:
        found = np.dtype(dtype)
    except TypeError as exc:
        raise ConfigError(f"NumpyNdarray(dtype={dtype!r}): there is no such dtype.") from exc
    name = STRING if found.kind in "SUO" else found.name
    if name not in DTYPES:
        raise ConfigError(
            f"NumpyNdarray(dtype={dtype!r}): arrays hold one of: {', '.join(DTYPES)}."
        )
    return name


def _parse_binary(name: str, body: Body) -> Array:
    if name == NPY:
        return parse_npy(body.data)
    dtype, shape = (body.headers.get(f"x-tensor-{each}") for each in ("dtype", "shape"))
    return parse_raw(
        body.data,
        dtype=None if dtype is None else dtype.encode("latin-1", "replace"),
        shape=None if shape is None else shape.encode("latin-1", "replace"),
    )


def _found_dtype(value: Any) -> str:
    """Return the dtype of nested lists without text."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise InvalidInput("the array is ragged: its lists differ in length.") from None
    if array.dtype.name not in DTYPES or array.dtype.hasobject:
        raise InvalidInput("the array holds null, or numbers that are too large; expected numbers.")
    return str(array.dtype.name)


def _decode(strings: Array) -> Array:
    """Return an array of UTF-8 bytes as one of str."""
    flat = [item.decode("utf-8", "replace") for item in strings.reshape(-1).tolist()]
    texts: Array = np.empty(len(flat), dtype=object)
    texts[:] = flat
    return texts.reshape(strings.shape)


def _raw_headers(array: Array) -> dict[str, str]:
    return {
        "x-tensor-dtype": array.dtype.name,
        "x-tensor-shape": ",".join(map(str, array.shape)),
    }
