"""What every reader of archives uses: a member, bytes that are counted, one error for damage."""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tfrunner.archives import CHUNK
from tfrunner.errors import InvalidInput

RATIO = 1000
"""Bytes that one byte of an archive may become; weights have 1.1, text rarely 20."""

SMALL = 10_000_000
"""Bytes that any archive may become, whatever its ratio."""

DAMAGES = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError),
    *(zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, struct.error),
)
"""What the readers of Python raise about archives that are cut, changed or made up."""

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}


class Member(NamedTuple):
    """One member.

    Args:
        name: As the archive has it.
        size: In bytes, as the archive says.
        read: Gives up to so many bytes; works until the next member is asked for.
        is_folder: Whether it is a folder; it has no bytes.
    """

    name: str
    size: int
    read: Callable[[int], bytes]
    is_folder: bool = False


class Bounded:
    """Bytes that are unpacked, and counted.

    Args:
        read: Gives up to so many unpacked bytes.
        limit: The most in all; None for any number.
    """

    def __init__(self, read: Callable[[int], bytes], limit: int | None) -> None:
        self._read = read
        self._limit = limit
        self.total = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes.

        Raises:
            InvalidInput: They are more than the limit, or the archive is damaged.
        """
        with damage_named():
            data = self._read(size)
        self.total += len(data)
        if self._limit is not None and self.total > self._limit:
            raise InvalidInput(
                f"it unpacks to more than {RATIO} times its size. If you know who made it, import "
                "it with trust."
            )
        return data


@contextmanager
def damage_named() -> Iterator[None]:
    """Turn what Python's readers raise into one error of ours.

    Raises:
        InvalidInput: The archive is damaged.
    """
    try:
        yield
    except DAMAGES as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise InvalidInput(f"it is damaged or cut off: {reason}.") from exc


def check_kind(name: str, kind: int) -> None:
    """Refuse what is neither a file nor a folder.

    Args:
        name: Of the member.
        kind: As `stat.S_IFMT` gives it.

    Raises:
        InvalidInput: It is a link, a device, a pipe or a socket.
    """
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise InvalidInput(f"{name!r} is {KINDS.get(kind, 'no plain file')}.")


def drain(read: Callable[[int], bytes], size: int | None = None) -> None:
    """Read and forget so many bytes, or all.

    Raises:
        InvalidInput: They are fewer.
    """
    while size is None or size:
        data = read(CHUNK if size is None else min(size, CHUNK))
        if not data:
            if size is None:
                return
            raise InvalidInput("it is damaged or cut off: it ends within a member.")
        size = None if size is None else size - len(data)
