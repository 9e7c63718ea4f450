"""Text in and out, whole or piece by piece."""

from __future__ import annotations

import codecs
import re
from typing import Any

from tfrunner.errors import ConfigError, InvalidInput, ModelError, UnsupportedForm
from tfrunner.io.body import Body, check_type, header_parameter, media_type
from tfrunner.io.samples import with_example

READ = ("text/*",)
CHARSETS = re.compile(
    r"utf-(8|16|32)(-[bl]e|-sig)?|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_(jp|kr)"
    r"|gb(k|2312|18030)|big5"
)
"""Those that are read, as Python names them; others of Python's take quadratic time."""


class Text:
    """Text. A function that returns an iterator, or async iterator, of str is streamed.

    Args:
        content_type: What is written: `text/plain`, or another text type. Events
            (`text/event-stream`) are written as the function yields them, `data: ...` and the
            empty line included.

    Raises:
        ConfigError: It is no text type.
    """

    def __init__(self, content_type: str = "text/plain") -> None:
        if not media_type(content_type).startswith("text/"):
            raise ConfigError(
                f"Text(content_type={content_type!r}): expected a text type, as 'text/plain' or "
                "'text/event-stream'. Use File for other bytes."
            )
        self.content_type = content_type
        self._example: str | None = None

    @classmethod
    def from_sample(cls, sample: str, *, content_type: str = "text/plain") -> Text:
        """Return the descriptor of text as this one, which is shown as its example.

        Raises:
            ConfigError: It is no text.
        """
        if not isinstance(sample, str):
            raise ConfigError(f"Text.from_sample: expected text, got a {type(sample).__name__}.")
        text = cls(content_type)
        text._example = sample
        return text

    def read(self, body: Body) -> str:
        """Return the text of a body: UTF-8, or as `charset` in its Content-Type says.

        Raises:
            UnsupportedForm: It is no text, or in an encoding that is not read.
            InvalidInput: It is not in the encoding that it says.
        """
        check_type(body.content_type, READ, what="text")
        return _decode(body, _charset(body.content_type))

    def write(self, value: Any) -> Body:
        """Return the body of text.

        Raises:
            ModelError: It is none, or holds what UTF-8 cannot.
        """
        return Body(self.piece(value), self.content_type)

    def piece(self, value: Any) -> bytes:
        """Return the bytes of one piece of streamed text.

        Raises:
            ModelError: It is none, or holds what UTF-8 cannot.
        """
        if not isinstance(value, str):
            raise ModelError(
                f"the endpoint returned a {type(value).__name__}; expected text (str), or an "
                "iterator of it."
            )
        try:
            return value.encode()
        except UnicodeEncodeError as exc:
            raise ModelError(f"the endpoint's text cannot be written as UTF-8: {exc}") from exc

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        return {media_type(self.content_type): with_example({"type": "string"}, self._example)}


def in_utf8(body: Body) -> bytes:
    """Return the bytes of a body in UTF-8, whatever charset its Content-Type names.

    Those that say UTF-8 are not looked at.

    Raises:
        UnsupportedForm: It is in an encoding that is not read.
        InvalidInput: It is not in the encoding that it says.
    """
    charset = _charset(body.content_type)
    return body.data if charset == "utf-8" else _decode(body, charset).encode()


def _decode(body: Body, charset: str) -> str:
    try:
        return body.data.decode(charset)
    except UnicodeError as exc:
        raise InvalidInput(f"the body is no text in {charset}: {exc}. Send UTF-8.") from None


def _charset(content_type: str) -> str:
    given = header_parameter(content_type, "charset") or "utf-8"
    try:
        name = codecs.lookup(given).name
    except (LookupError, ValueError):  # ValueError: a zero byte
        name = ""
    if not CHARSETS.fullmatch(name):
        raise UnsupportedForm(f"text in the charset {given!r} is not read. Send UTF-8.")
    return name
