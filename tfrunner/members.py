"""The members of an archive that may be hostile, one after the other, in bounded memory.

Nothing is written here, and names are not judged here: `importing` does both. What is no
plain file or folder is refused, and so is what unpacks to far more than it is.
"""

from __future__ import annotations

import gzip
import lzma
import os
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from tfrunner.archives import Format
from tfrunner.members_tar import in_tar
from tfrunner.members_zip import in_zip
from tfrunner.unpacking import RATIO, SMALL, Bounded, Member, check_kind, damage_named

XZ_MEMORY = 2**28
"""Bytes that unpacking xz may take; `xz -9` makes it take a quarter of it."""


def members(path: Path, form: Format, *, is_trusted: bool = False) -> Generator[Member, None, None]:
    """Yield the members of an archive or folder.

    Args:
        path: Of the archive.
        form: What it is.
        is_trusted: Whether it may unpack to any size.

    Raises:
        InvalidInput: It is damaged, has what is neither a file nor a folder, or is a bomb.
    """
    if form is Format.FOLDER:
        yield from _in_folder(path)
        return
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        limit = None if is_trusted else max(SMALL, RATIO * size)
        if form is Format.ZIP:
            yield from in_zip(file, limit)
        else:
            yield from in_tar(Bounded(_unpacking(file, form), limit))


def _unpacking(file: BinaryIO, form: Format) -> Callable[[int], bytes]:
    """Return what gives the bytes of a tar archive."""
    if form is Format.TAR_GZ:
        return gzip.GzipFile(fileobj=file).read
    if form is Format.TAR_XZ:
        return _Xz(file).read
    return file.read


class _Xz:
    """Unpacks xz in bounded memory, which `lzma.LZMAFile` does not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def read(self, size: int) -> bytes:
        """Return `size` bytes, less at the end."""
        parts = []
        while size and not self._unpacker.eof:
            packed = self._file.read(2**16) if self._unpacker.needs_input else b""
            if self._unpacker.needs_input and not packed:
                raise EOFError("the end is missing")
            part = self._unpacker.decompress(packed, size)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)


def _in_folder(path: Path) -> Iterator[Member]:
    """Yield what is in a folder; links are never followed."""
    top = path.resolve()
    for root, folders, files, descriptor in os.fwalk(top):
        inside = Path(root).relative_to(top)
        for name in sorted(folders):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            check_kind(str(inside / name), stat.S_IFMT(status.st_mode))
        folders.sort()
        for name in sorted(files):
            yield from _one_file(str(inside / name), name, descriptor)


def _one_file(shown: str, name: str, descriptor: int) -> Iterator[Member]:
    """Yield a file of a folder that is open."""
    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    check_kind(shown, stat.S_IFMT(status.st_mode))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with damage_named():
        opened = os.open(name, flags, dir_fd=descriptor)
    with open(opened, "rb", buffering=0) as file:
        yield Member(shown, os.fstat(opened).st_size, Bounded(file.read, None).read)
