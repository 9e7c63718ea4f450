"""Several values in one body: a form, whose fields have descriptors of their own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tfrunner.errors import (
    ConfigError,
    InvalidInput,
    ModelError,
    TFRunnerError,
    UnsupportedForm,
    did_you_mean,
)
from tfrunner.io.array import NumpyNdarray
from tfrunner.io.body import (
    BINARY,
    Body,
    Descriptor,
    content_of,
    header_parameter,
    is_descriptor,
    is_slow,
    media_type,
)
from tfrunner.io.file import File
from tfrunner.io.form import NAME, Part, is_form, read_form, write_form
from tfrunner.io.frame import PandasDataFrame
from tfrunner.io.image import Image
from tfrunner.io.json_value import JSON
from tfrunner.io.packages import require
from tfrunner.io.text import Text


class Multipart:
    """Several values by name, each with a descriptor: a form (multipart/form-data).

    The endpoint's function takes them as arguments of these names; as an output the function
    returns a dict.

    Args:
        fields: The descriptor of each field.

    Raises:
        ConfigError: There is no field, one is no descriptor or has fields itself, or
            python-multipart is not installed.
    """

    def __init__(self, **fields: Descriptor) -> None:
        require("python_multipart", package="python-multipart", what="Multipart")
        if not fields:
            raise ConfigError("Multipart has no fields; give each as name=descriptor.")
        for name, descriptor in fields.items():
            _check_field(name, descriptor)
        self.descriptors = dict(fields)

    @classmethod
    def from_sample(cls, sample: Mapping[str, Any]) -> Multipart:
        """Return the descriptor of forms with values like these.

        Args:
            sample: By field a value, or a descriptor. Text gives Text, an array NumpyNdarray, a
                PIL image Image, a data frame PandasDataFrame, bytes, a path or an open file
                File, anything else JSON.

        Raises:
            ConfigError: It is no mapping, or a value has no descriptor.
        """
        if not isinstance(sample, Mapping):
            raise ConfigError(
                f"Multipart.from_sample: expected values by field, got a {type(sample).__name__}."
            )
        return cls(**{name: _descriptor_of(value) for name, value in sample.items()})

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in their order."""
        return tuple(self.descriptors)

    @property
    def is_slow(self) -> bool:
        """Whether one of the fields is."""
        return any(map(is_slow, self.descriptors.values()))

    def read(self, body: Body) -> dict[str, Any]:
        """Return the values of a form by field, in the order that was declared.

        Raises:
            UnsupportedForm: The body is no form, or a field of another type.
            InvalidInput: The form is broken or cut off; a field is missing, unknown, there
                twice, or wrong. The message names it.
            TooLarge: A field is larger than its descriptor allows.
        """
        if not is_form(body.content_type):
            raise UnsupportedForm(
                f"the body's Content-Type is {media_type(body.content_type)!r}; expected a form. "
                f"Send {NAME}, with the fields: {self._list()}."
            )
        bodies = self._by_field(read_form(body, most=len(self.descriptors) + 1))
        return {name: self._read_field(name, bodies[name]) for name in self.descriptors}

    def _by_field(self, parts: list[Part]) -> dict[str, Body]:
        bodies: dict[str, Body] = {}
        for part in parts:
            if part.name not in self.descriptors:
                raise InvalidInput(
                    f"the form has a field {part.name!r}, which is not known."
                    f"{did_you_mean(part.name, self.descriptors)}"
                )
            if part.name in bodies:
                raise InvalidInput(f"the form has the field {part.name!r} twice.")
            bodies[part.name] = part.body
        missing = [name for name in self.descriptors if name not in bodies]
        if missing:
            raise InvalidInput(
                f"the form lacks the field {missing[0]!r}. Its fields are: {self._list()}."
            )
        return bodies

    def _list(self) -> str:
        return ", ".join(self.descriptors)

    def _read_field(self, name: str, body: Body) -> Any:
        try:
            return self.descriptors[name].read(body)
        except TFRunnerError as exc:
            raise type(exc)(f"field {name!r}: {exc.message}") from exc

    def write(self, value: Any) -> Body:
        """Return the form of values by field.

        Raises:
            ModelError: It is no mapping with exactly these fields, or one cannot be written.
        """
        if not isinstance(value, Mapping) or value.keys() != self.descriptors.keys():
            got = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ModelError(
                f"the endpoint returned {got or 'nothing'}; expected a dict with: {self._list()}."
            )
        return write_form(self._part(name, value[name]) for name in self.descriptors)

    def _part(self, name: str, value: Any) -> Part:
        try:
            body = self.descriptors[name].write(value)
        except ModelError as exc:
            raise type(exc)(f"field {name!r}: {exc.message}") from exc
        disposition = body.headers.get("content-disposition", "")
        filename = header_parameter(disposition, "filename", most=None)
        is_file = isinstance(self.descriptors[name], (File, Image))
        return Part(name, body, filename or (name if is_file else None))

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`: an object with a property for each field."""
        return self._content({name: each.schema() for name, each in self.descriptors.items()})

    def written(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of what is written."""
        return self._content({name: content_of(each) for name, each in self.descriptors.items()})

    def _content(self, contents: dict[str, dict[str, Any]]) -> dict[str, Any]:
        schema = {
            "type": "object",
            "required": list(self.descriptors),
            "properties": {name: _property(content) for name, content in contents.items()},
        }
        encoding = {
            name: {"contentType": ", ".join(each for each in content if each != NAME)}
            for name, content in contents.items()
        }
        return {NAME: {"schema": schema, "encoding": encoding}}


def _check_field(name: str, descriptor: Any) -> None:
    if not name.isidentifier():
        raise ConfigError(f"Multipart: {name!r} cannot name a field: it is no identifier.")
    if hasattr(descriptor, "fields"):
        raise ConfigError(f"Multipart: the field {name!r} is a form itself; forms do not nest.")
    if not is_descriptor(descriptor):
        raise ConfigError(
            f"Multipart: the field {name!r} is {descriptor!r}; expected a descriptor, as JSON()."
        )


def _property(content: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field: that of its first type, and its example."""
    first = next(iter(content.values()), {"schema": BINARY})
    schema: dict[str, Any] = first["schema"]
    return {**schema, "examples": [first["example"]]} if "example" in first else schema


def _descriptor_of(value: Any) -> Descriptor:
    """Return the descriptor that fits a sample, or the sample if it is a descriptor."""
    if is_descriptor(value):
        found: Descriptor = value
        return found
    if isinstance(value, str):
        return Text.from_sample(value)
    if _is_a(value, "numpy", "ndarray") or _is_a(value, "numpy", "generic"):
        return NumpyNdarray.from_sample(value)
    if _is_a(value, "pandas", "DataFrame"):
        return PandasDataFrame.from_sample(value)
    if _is_a(value, "PIL.Image", "Image"):
        return Image.from_sample(value)
    if isinstance(value, (bytes, bytearray)) or hasattr(value, "read") or hasattr(value, "parent"):
        return File.from_sample(value)
    return JSON.from_sample(value)


def _is_a(value: Any, module: str, name: str) -> bool:
    """Return whether a value is of a class, without importing it: then it would be loaded."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))
