"""Tags: how models are named, `name:version`."""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass

from tfrunner.errors import InvalidInput
from tfrunner.remarks import remark

LATEST = "latest"
LONGEST = 63


@dataclass(frozen=True)
class Tag:
    """A model's name and, where one is meant, its version.

    Name and version have 1 to 63 characters: a-z, 0-9, and inside also `-`, `.` and `_`.
    Upper case is lower-cased with a warning.

    Raises:
        InvalidInput: A part breaks these rules; the message lists every broken one.
    """

    name: str
    version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _checked(self.name, "name"))
        if self.version is not None:
            object.__setattr__(self, "version", _checked(self.version, "version"))

    @classmethod
    def parse(cls, text: str | Tag) -> Tag:
        """Return the tag that `name` or `name:version` stands for; a tag is returned as it is.

        Raises:
            InvalidInput: The text is no tag.
        """
        if isinstance(text, Tag):
            return text
        if not isinstance(text, str):
            raise InvalidInput(f"a {type(text).__name__} is no tag; expected 'name:version'.")
        name, colon, version = text.partition(":")
        if colon and not version:
            raise InvalidInput(f"tag {text!r} ends in ':'. Use {name!r} or '{name}:{LATEST}'.")
        return cls(name, version or None)

    from_str = parse
    from_taglike = parse

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"

    def __lt__(self, other: Tag) -> bool:
        if not isinstance(other, Tag):
            return NotImplemented
        return (self.name, self.version or "") < (other.name, other.version or "")


def _checked(text: str, part: str) -> str:
    """Return a name or version in lower case, if it follows the rules."""
    if not isinstance(text, str):
        raise InvalidInput(f"the {part} of a tag is a {type(text).__name__}; expected text.")
    lowered = text.lower()
    broken = []
    if not lowered:
        broken.append("it is empty")
    if len(lowered) > LONGEST:
        broken.append(f"it has {len(lowered)} characters, at most {LONGEST} are allowed")
    wrong = sorted(set(re.findall(r"[^a-z0-9._-]", lowered)))
    if wrong:
        shown = " ".join(repr(character) for character in wrong)
        broken.append(f"it has {shown}, only a-z 0-9 - . _ are allowed")
    ends = lowered[:1] + lowered[-1:]
    if lowered and any(end in "-._" for end in ends):
        broken.append("it must begin and end with a letter or digit")
    if broken:
        raise InvalidInput(f"{part} {text!r} is not allowed: {'; '.join(broken)}.")
    if lowered != text:
        remark(f"{part} {text!r} was changed to {lowered!r}")
    return lowered


def is_tag_part(text: str) -> bool:
    """Return whether a text follows the rules for names and versions as it stands."""
    return re.fullmatch(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", text) is not None


def new_version() -> str:
    """Return a version of 16 characters (80 random bits) that nobody chose before."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()
