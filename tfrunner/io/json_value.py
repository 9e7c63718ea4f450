"""JSON values in and out, plain or as pydantic's models."""

from __future__ import annotations

from typing import Any, Union

from tfrunner.api import json_text
from tfrunner.errors import ConfigError, InvalidInput, ModelError
from tfrunner.io.body import Body, check_type
from tfrunner.io.packages import require
from tfrunner.io.samples import plain, schema_of, with_example, without_references
from tfrunner.io.text import in_utf8

JSONSerializable = Union[str, int, float, bool, None, list[Any], dict[str, Any]]
"""What JSON can hold; for annotations."""

NAME = "application/json"
READ = (NAME, "*/json", "*/*+json", "text/*")


class JSON:
    """Any JSON value, or, with a model of pydantic's, an instance of that.

    Written are also arrays, NumPy's numbers, dataclasses, data frames and pydantic's models.

    Args:
        pydantic_model: A class (pydantic 2): bodies are validated by it, and the function gets
            an instance; what is written is validated by it too.

    Raises:
        ConfigError: It is no such class, or pydantic is not installed.
    """

    def __init__(self, *, pydantic_model: Any = None) -> None:
        if pydantic_model is not None:
            require("pydantic", package="pydantic", what="JSON(pydantic_model=...)")
            if not hasattr(pydantic_model, "model_validate_json"):
                raise ConfigError(
                    f"JSON(pydantic_model={pydantic_model!r}): expected a subclass of "
                    "pydantic.BaseModel (pydantic 2)."
                )
        self.pydantic_model = pydantic_model
        self._sample: Any = None

    @classmethod
    def from_sample(cls, sample: Any, *, pydantic_model: Any = None) -> JSON:
        """Return the descriptor of values like this one, which is shown as their example.

        The sample describes and restricts nothing; a model restricts. A sample that is an
        instance of a pydantic model brings its class along.

        Raises:
            ConfigError: JSON has no form for the sample, or the model refuses it.
        """
        if pydantic_model is None and hasattr(type(sample), "model_validate_json"):
            pydantic_model = type(sample)
        descriptor = cls(pydantic_model=pydantic_model)
        try:
            descriptor._sample = plain(sample)
            if pydantic_model is not None:
                descriptor._validate(json_text.write(descriptor._sample))
        except (TypeError, ValueError, InvalidInput) as exc:
            raise ConfigError(f"JSON.from_sample: the sample cannot be used: {exc}") from exc
        return descriptor

    def read(self, body: Body) -> Any:
        """Return the value of a body; NaN, Infinity and -Infinity are numbers.

        Raises:
            UnsupportedForm: Its Content-Type is that of something else, or names a charset that
                is not read.
            InvalidInput: It is no JSON, or the model refuses it; the message names the field.
        """
        check_type(body.content_type, READ, what="JSON")
        if self.pydantic_model is not None:
            return self._validate(in_utf8(body))
        value: JSONSerializable = json_text.parse(in_utf8(body))
        return value

    def _validate(self, data: bytes) -> Any:
        import pydantic

        try:
            return self.pydantic_model.model_validate_json(data)
        except pydantic.ValidationError as exc:
            raise InvalidInput(_explain(exc)) from None

    def write(self, value: Any) -> Body:
        """Return the body of a value.

        Raises:
            ModelError: JSON has no form for it, or the model refuses it.
        """
        if self.pydantic_model is not None:
            value = self._dump(value)
        try:
            return Body(json_text.write(value), NAME)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ModelError(f"the endpoint's result cannot be written as JSON: {exc}") from exc

    def _dump(self, value: Any) -> Any:
        """Return the plain form of an instance, or of what the model makes one of."""
        import pydantic

        try:
            if not isinstance(value, self.pydantic_model):
                value = self.pydantic_model.model_validate(value)
            return value.model_dump(mode="json")
        except pydantic.ValidationError as exc:
            raise ModelError(f"the endpoint's result: {_explain(exc)}") from exc
        except ValueError as exc:  # a field of a type that pydantic cannot write
            raise ModelError(f"the endpoint's result cannot be written as JSON: {exc}") from exc

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`: the model's schema, else the sample's, else anything."""
        if self.pydantic_model is not None:
            schema = without_references(self.pydantic_model.model_json_schema())
        else:
            schema = schema_of(self._sample)
        return {NAME: with_example(schema, self._sample)}


def _explain(exc: Any) -> str:
    """Return one line for what a model refuses: the first field, and how many more."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"JSON Parse error: {first['msg'].removeprefix('Invalid JSON: ')}"
    place = ".".join(map(str, first["loc"]))
    text = f"field {place!r}: {first['msg']}" if place else first["msg"]
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(text.split()) + more + "."
