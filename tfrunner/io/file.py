"""Files in and out: bytes of any type, alone or as the one part of a form."""

from __future__ import annotations

import io
import mimetypes
import os
from typing import Any
from urllib.parse import quote

from tfrunner.errors import ConfigError, ModelError
from tfrunner.io.body import (
    BINARY,
    NO_HEADERS,
    UNTOLD,
    Body,
    check_size,
    check_type,
    header_parameter,
    is_one_of,
)
from tfrunner.io.form import NAME as FORM
from tfrunner.io.form import is_form, only_part

ANY = "application/octet-stream"


class FileLike(io.BytesIO):
    """The bytes of a file, its name and type.

    Args:
        data: The bytes.
        name: As the sender called it, without folders; "" where it has none.
        content_type: Its Content-Type; "" where it has none.
    """

    def __init__(self, data: bytes = b"", *, name: str = "", content_type: str = "") -> None:
        super().__init__(data)
        self.name = name
        self.content_type = content_type

    def __repr__(self) -> str:
        return f"<FileLike {self.name!r} [{self.getbuffer().nbytes} bytes, {self.content_type}]>"


class File:
    """A file: the body itself, or the one part of a form; the value is a `FileLike`.

    Args:
        mime_type: The type that it must have, `audio/*` for any of a kind; None: any. Written
            with it, else with the type that the value or its name says.
        max_bytes: Most bytes; None: as many as the server takes.

    Raises:
        ConfigError: That is no type.
    """

    def __init__(self, *, mime_type: str | None = None, max_bytes: int | None = None) -> None:
        if mime_type is not None and mime_type.count("/") != 1:
            raise ConfigError(
                f"File(mime_type={mime_type!r}): expected a type such as 'audio/wav' or 'audio/*'."
            )
        self.mime_type = mime_type
        self.max_bytes = max_bytes

    @classmethod
    def from_sample(cls, sample: Any, *, max_bytes: int | None = None) -> File:
        """Return the descriptor of files of the same type as this one.

        Args:
            sample: A path, an open file, or a `FileLike`; bytes have no type and fix none.
            max_bytes: As above.

        Raises:
            ConfigError: It is none of these.
        """
        name, content_type = _describe(sample)
        if not name and not content_type and not isinstance(sample, (bytes, bytearray, memoryview)):
            raise ConfigError(
                f"File.from_sample: a {type(sample).__name__} without a name; expected a path, an "
                "open file or bytes."
            )
        return cls(mime_type=content_type or mimetypes.guess_type(name)[0], max_bytes=max_bytes)

    def read(self, body: Body) -> FileLike:
        """Return the file of a body.

        Raises:
            UnsupportedForm: It is of another type.
            InvalidInput: The form is broken, or has not one part.
            TooLarge: It is larger than `max_bytes`.
        """
        if is_form(body.content_type) and self.mime_type != FORM:
            body = only_part(body).body
        if self.mime_type is not None:
            check_type(body.content_type, (self.mime_type,), what="a file of that type")
        check_size(body.data, self.max_bytes)
        disposition = body.headers.get("content-disposition", "")
        content_type = "" if body.content_type in UNTOLD else body.content_type
        return FileLike(body.data, name=_plain_name(disposition), content_type=content_type)

    def write(self, value: Any) -> Body:
        """Return the body of a file: bytes, a path, or what has `read()`.

        Of a BytesIO everything is taken, of other open files what is left to be read.

        Raises:
            ModelError: It is none of these, or cannot be read.
        """
        name, content_type = _describe(value)
        if self.mime_type is not None and "*" not in self.mime_type:
            content_type = self.mime_type
        elif not content_type or not is_one_of(content_type, ("*/*",)):
            content_type = mimetypes.guess_type(name)[0] or ANY
        headers = {"content-disposition": _attachment(name)} if name else NO_HEADERS
        return Body(_bytes_of(value), content_type, headers)

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        form = {"type": "object", "properties": {"file": BINARY}}
        return {self.mime_type or ANY: {"schema": BINARY}, FORM: {"schema": form}}

    def written(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of what is written."""
        return dict([next(iter(self.schema().items()))])


def _plain_name(disposition: str) -> str:
    """Return the file's name of a Content-Disposition, without folders (RFC 7578, 4.2)."""
    name = header_parameter(disposition, "filename") or ""
    return name.replace("\\", "/").rpartition("/")[2]


def _describe(value: Any) -> tuple[str, str]:
    """Return a file's name and type, "" for what it does not have."""
    if isinstance(value, (str, os.PathLike)):
        name: Any = os.fspath(value)
    else:
        name = getattr(value, "name", "")  # of an open file: its path, or a number
    content_type = getattr(value, "content_type", "")
    return (
        os.path.basename(name) if isinstance(name, str) else "",
        content_type if isinstance(content_type, str) else "",
    )


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, io.BytesIO):
        return value.getvalue()
    try:
        if isinstance(value, os.PathLike):
            with open(value, "rb") as file:
                return file.read()
        data = value.read() if hasattr(value, "read") else value
    except (OSError, ValueError) as exc:  # ValueError: closed
        raise ModelError(f"the file that the endpoint returned cannot be read: {exc}") from exc
    if not isinstance(data, (bytes, bytearray)):
        raise ModelError(
            f"the endpoint returned {'a text file' if data is not value else 'a'} "
            f"{type(data).__name__}; expected bytes, a pathlib.Path or a file opened as 'rb'."
        )
    return bytes(data)


def _attachment(name: str) -> str:
    """Return a Content-Disposition (RFC 6266) that tells the name in ASCII."""
    if name.isascii() and name.isprintable() and not set(name) & set('"\\%'):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
