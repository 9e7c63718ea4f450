"""The members of a zip archive, read by zipfile, which is kept from reading too much at once."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from tfrunner.errors import InvalidInput
from tfrunner.unpacking import Bounded, Member, check_kind, damage_named

LONGEST_READ = 4 * 2**20
"""Bytes that zipfile may ask for at once: it reads the whole list of members so."""


class _ShortReads(io.BufferedReader):
    """A file of which no one can read much at once: a list of members has a limit."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes."""
        wanted = LONGEST_READ + 1 if size is None or size < 0 else size
        if wanted > LONGEST_READ + 1:
            raise ValueError("it has too many members")
        return super().read(wanted)


def in_zip(file: BinaryIO, limit: int | None) -> Iterator[Member]:
    """Yield the members of a zip archive.

    Args:
        file: The archive, open.
        limit: The most bytes in all that they may unpack to; None for any number.

    Raises:
        InvalidInput: It is damaged, has links or devices, or is packed in a rare way.
    """
    with damage_named():
        raw = io.FileIO(file.fileno(), closefd=False)
        archive = zipfile.ZipFile(_ShortReads(raw))
    with archive:
        unpacked = 0
        for info in archive.infolist():
            _check_zip_member(info)
            if info.is_dir():
                yield Member(info.filename, 0, _no_bytes, is_folder=True)
                continue
            with damage_named():
                opened = archive.open(info)
            with opened:
                bounded = Bounded(opened.read, None if limit is None else limit - unpacked)
                yield Member(info.filename, info.file_size, bounded.read)
                unpacked += bounded.total


def _check_zip_member(info: zipfile.ZipInfo) -> None:
    """Refuse what is no plain file or folder, or packed in a way that we do not unpack."""
    if info.filename != info.orig_filename:
        raise InvalidInput(f"the name {info.orig_filename!r} is not allowed.")
    kind = stat.S_IFMT(info.external_attr >> 16)
    check_kind(info.filename, kind or stat.S_IFREG)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput(f"{info.filename!r} is packed otherwise than stored or deflated.")


def _no_bytes(size: int) -> bytes:
    return b""
