"""multipart/form-data (RFC 7578), read by python-multipart and written here."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from tfrunner.errors import InvalidInput, UnsupportedForm
from tfrunner.io.body import Body, header_parameter, media_type

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

NAME = "multipart/form-data"
MOST_HEADERS = 8192
"""Bytes of the headers of one part."""


class Part(NamedTuple):
    """One part of a form.

    Args:
        name: The field's.
        body: Its bytes, with their own Content-Type and headers.
        filename: None where it is no file.
    """

    name: str
    body: Body
    filename: str | None = None


def is_form(content_type: str) -> bool:
    """Return whether a body is a form."""
    return media_type(content_type) == NAME


def read_form(body: Body, *, most: int) -> list[Part]:
    """Return the parts of a form, in their order.

    Args:
        body: The form.
        most: Most parts that are read.

    Raises:
        InvalidInput: It is broken, cut off, has more parts, or one without a name.
        UnsupportedForm: python-multipart is not installed.
    """
    try:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser
    except ImportError:
        raise UnsupportedForm(
            "this server reads no forms: it lacks python-multipart. Send the file itself as the "
            "body, or install tfrunner[io] where it runs."
        ) from None
    boundary = header_parameter(body.content_type, "boundary")
    if not boundary:
        raise InvalidInput(f"the Content-Type {NAME} has no boundary; leave it to your client.")
    reader = _Reader(most)
    try:
        MultipartParser(boundary.encode("latin-1", "replace"), reader.callbacks()).write(body.data)
    except FormParserError as exc:
        raise InvalidInput(f"the form is broken: {exc}.") from None
    if not reader.is_whole:
        raise InvalidInput("the form is cut off: its last boundary is missing.")
    return reader.parts


class _Reader:
    """What the parser tells, put together to parts."""

    def __init__(self, most: int) -> None:
        self.parts: list[Part] = []
        self.is_whole = False
        self._most = most
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._name = bytearray()
        self._value = bytearray()
        self._data: list[bytes] = []

    def callbacks(self) -> MultipartCallbacks:
        """Return the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._most:
            raise InvalidInput(f"the form has more than {self._most} parts.")
        self._headers, self._header_bytes, self._data = {}, 0, []

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MOST_HEADERS:
            raise InvalidInput(f"a part of the form has more than {MOST_HEADERS} bytes of headers.")

    def _end_header(self) -> None:
        name = self._name.decode("latin-1").lower()
        self._headers[name] = self._value.decode("utf-8", "replace").strip()
        self._name.clear()
        self._value.clear()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        disposition = self._headers.get("content-disposition", "")
        name = header_parameter(disposition, "name")
        if media_type(disposition) != "form-data" or not name:
            raise InvalidInput(
                f"part {len(self.parts) + 1} of the form names no field: its Content-Disposition "
                f'is {disposition[:100]!r}; expected form-data; name="...".'
            )
        content_type = self._headers.get("content-type", "")
        data = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        body = Body(data, content_type, self._headers)
        self.parts.append(Part(name, body, header_parameter(disposition, "filename")))

    def _finish(self) -> None:
        self.is_whole = True


def only_part(body: Body) -> Part:
    """Return the one part of a form that holds one file.

    Raises:
        InvalidInput: It is broken, or has none or several.
        UnsupportedForm: python-multipart is not installed.
    """
    parts = read_form(body, most=2)
    if len(parts) != 1:
        count = "no part" if not parts else "several parts"
        raise InvalidInput(f"the form has {count}; expected one, with the file.")
    return parts[0]


def write_form(parts: Iterable[Part]) -> Body:
    """Return the form of these parts."""
    parts = tuple(parts)
    boundary = secrets.token_hex(16)
    while any(boundary.encode() in part.body.data for part in parts):
        boundary = secrets.token_hex(16)
    pieces = []
    for part in parts:
        pieces += [f"--{boundary}\r\n{_head(part)}\r\n\r\n".encode(), part.body.data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return Body(b"".join(pieces), f"{NAME}; boundary={boundary}")


def _head(part: Part) -> str:
    disposition = f'form-data; name="{_quoted(part.name)}"'
    if part.filename is not None:
        disposition += f'; filename="{_quoted(part.filename)}"'
    return "\r\n".join(
        [
            f"content-disposition: {disposition}",
            f"content-type: {part.body.content_type}",
            *(f"{name}: {text}" for name, text in _further(part.body.headers).items()),
        ]
    )


def _further(headers: Mapping[str, str]) -> dict[str, str]:
    named = ("content-disposition", "content-type")
    return {name: text for name, text in headers.items() if name not in named}


def _quoted(text: str) -> str:
    """Return a name as browsers write it (HTML, section 4.10.21.8): raw UTF-8, three signs %XX."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
