"""What every descriptor speaks of: bodies, their types, and what a descriptor is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.message import Message
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from tfrunner.errors import InvalidInput, TooLarge, UnsupportedForm

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
UNTOLD = ("", "application/x-www-form-urlencoded")
"""Types of bodies whose sender has not said what they are: the second is curl's -d for all."""

BINARY = {"type": "string", "format": "binary"}
"""The schema of bytes."""

MOST_HEADER = 2048
"""Characters of a header whose parameters are read: the time it takes grows with their square."""


class Body(NamedTuple):
    """A body, its Content-Type, and further headers.

    Args:
        data: The bytes.
        content_type: The header Content-Type; "" where there is none.
        headers: Read: those of the request, or of the part of a form. Written: those that
            belong to the body, as X-Tensor-Shape. Names are in lower case.
    """

    data: bytes
    content_type: str
    headers: Mapping[str, str] = NO_HEADERS


class Descriptor(Protocol):
    """How the values of an endpoint travel.

    Further names are optional. `fields: tuple[str, ...]`: the value is a dict with these
    keys, and the endpoint's function takes them as arguments by name. `piece(value) -> bytes`:
    what the function yields can be sent piece by piece, as `content_type: str`. `is_slow: bool`:
    also small bodies are read and written in a thread, not in the event loop. `written()`:
    OpenAPI's `content` of what is written, where that is less than what is read.
    """

    def read(self, body: Body) -> Any:
        """Return the value of a body.

        Raises:
            InvalidInput: It has none.
            UnsupportedForm: It is of a type that is not understood.
            TooLarge: It is larger than the descriptor allows.
        """

    def write(self, value: Any) -> Body:
        """Return the body of a value; raise ModelError where it cannot be written."""

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of such a body."""


def is_descriptor(value: Any) -> bool:
    """Return whether a value is a descriptor; the class of one is none."""
    return not isinstance(value, type) and all(
        callable(getattr(value, each, None)) for each in ("read", "write", "schema")
    )


def is_slow(descriptor: Descriptor) -> bool:
    """Return whether few bytes may take a descriptor long."""
    return bool(getattr(descriptor, "is_slow", False))


def content_of(descriptor: Descriptor) -> dict[str, Any]:
    """Return OpenAPI's `content` of the bodies that a descriptor writes."""
    written: dict[str, Any] = getattr(descriptor, "written", descriptor.schema)()
    return written


def media_type(content_type: str) -> str:
    """Return the type that a Content-Type names, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def header_parameter(header: str, name: str, *, most: int | None = MOST_HEADER) -> str | None:
    """Return a parameter of a header, as `charset` of Content-Type; None where it has none.

    Quoted ones (RFC 9110, section 5.6.6) and encoded ones (RFC 8187) are understood; those that
    contradict themselves are none.

    Args:
        header: Its value.
        name: The parameter's.
        most: Most characters of the header; None: any, for headers of our own.

    Raises:
        InvalidInput: It is longer.
    """
    if ";" not in header:
        return None
    if most is not None and len(header) > most:
        raise InvalidInput(
            f"the header {header[:40]!r}... has {len(header)} characters; at most {most} are read."
        )
    message = Message()
    message["x"] = "".join(sign for sign in header if sign.isprintable())
    try:
        found = message.get_param(name, header="x")
    except (TypeError, ValueError):  # parts with and without a number, or a number without end
        return None
    if isinstance(found, tuple):
        charset, _, text = found
        return text.encode("latin-1", "replace").decode(
            "utf-8" if charset else "latin-1", "replace"
        )
    return found if isinstance(found, str) else None


def is_one_of(content_type: str, accepted: Iterable[str]) -> bool:
    """Return whether a Content-Type names one of these types; `image/*` is any image."""
    name = media_type(content_type)
    return any(fnmatchcase(name, each) for each in accepted)


def check_type(content_type: str, accepted: Iterable[str], *, what: str) -> None:
    """Refuse a body of another type; one whose sender has not said a type is let through.

    Args:
        content_type: The body's.
        accepted: Types, `*` for any part of one.
        what: What was expected, for the message.

    Raises:
        UnsupportedForm: It is of none of them.
    """
    if media_type(content_type) in UNTOLD or is_one_of(content_type, accepted):
        return
    named = ", ".join(each for each in accepted if not each.startswith("*"))
    raise UnsupportedForm(
        f"the body's Content-Type is {media_type(content_type)!r}; expected {what}. Send: {named}."
    )


def check_size(data: bytes, most: int | None) -> None:
    """Refuse a body that is larger than a descriptor allows; None: any.

    Raises:
        TooLarge: It is.
    """
    if most is not None and len(data) > most:
        raise TooLarge(f"the body has {len(data)} bytes; at most {most} are taken here.")
