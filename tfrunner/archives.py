"""Archives of models: their formats, how each is known, and what goes wrong with a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tfrunner.errors import InvalidInput, NotWritten, did_you_mean

CHUNK = 2**20
"""Bytes that are read and written at once."""

OnProgress: TypeAlias = Callable[[int, int], None]
"""Told how many bytes are done, and of how many, every megabyte."""


class Format(Enum):
    """How the files of an entry are put together."""

    TAR_GZ = "tar.gz"
    TAR_XZ = "tar.xz"
    TAR = "tar"
    ZIP = "zip"
    FOLDER = "folder"


SUFFIXES = {
    ".tar.gz": Format.TAR_GZ,
    ".tgz": Format.TAR_GZ,
    ".tar.xz": Format.TAR_XZ,
    ".txz": Format.TAR_XZ,
    ".tar": Format.TAR,
    ".zip": Format.ZIP,
}


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


def parse_format(text: str) -> Format:
    """Return the format of that name.

    Raises:
        InvalidInput: There is none.
    """
    known = [each.value for each in Format]
    if text not in known:
        raise InvalidInput(f"No format {text!r} for models.{did_you_mean(text, known)}")
    return Format(text)


def by_suffix(path: Path) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        InvalidInput: Its ending is not known.
    """
    for suffix, found in SUFFIXES.items():
        if path.name.lower().endswith(suffix):
            return found
    raise InvalidInput(
        f"{str(path)!r} does not say which format it shall have. End it in one of "
        f"{', '.join(SUFFIXES)}, name a folder that exists, or give the format: "
        f"{', '.join(each.value for each in Format)}."
    )


def by_content(file: BinaryIO) -> Format:
    """Return the format of a file, whatever its name is; leaves it at its start.

    Raises:
        InvalidInput: It is none of ours.
    """
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return Format.TAR_GZ
    if start.startswith(b"\xfd7zXZ\x00"):
        return Format.TAR_XZ
    if start.startswith(b"PK\x03\x04"):
        return Format.ZIP
    if start[257:262] == b"ustar":
        return Format.TAR
    raise InvalidInput("it is no tar.gz, tar.xz, tar or zip archive.")


@contextmanager
def disk_errors_named(place: Path) -> Iterator[None]:
    """Turn what the operating system says about writing into an error of ours.

    Raises:
        NotWritten: The disk is full, may not be written to, or fails.
    """
    try:
        yield
    except OSError as exc:
        raise NotWritten(
            f"{place} cannot be written: {exc.strerror or exc}. Nothing is left of it; make room, "
            "or choose another place."
        ) from exc
