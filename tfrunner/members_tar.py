"""The members of a tar archive, in one pass and bounded memory.

tarfile reads extended headers of any length into memory, follows maps of sparse files, and
has safe filters only in some of the Pythons that we run on. Our archives need little of it:
plain files and folders, and the long names and large sizes of POSIX and of GNU tar.

Format: POSIX.1-2008, pax, "ustar Interchange Format" and "pax Header Block".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from tfrunner.errors import InvalidInput
from tfrunner.unpacking import Bounded, Member, damage_named, drain

BLOCK = 512
LONGEST_HEADER = 2**16
"""Bytes of an extended header; a name has at most 4096."""

KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.GNUTYPE_LONGLINK: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
PAX_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


def in_tar(archive: Bounded) -> Iterator[Member]:
    """Yield the members of a tar archive.

    Raises:
        InvalidInput: It is damaged, or has what is neither a file nor a folder.
    """
    extended: dict[str, str] = {}
    while (block := _exactly(archive, BLOCK)) != bytes(BLOCK):
        header = _header(block)
        if header.type in PAX_HEADERS:
            extended |= _records(_extension(archive, header))
        elif header.type == tarfile.XGLTYPE:
            _extension(archive, header)  # remarks about all members; none changes what they are
        elif header.type == tarfile.GNUTYPE_LONGNAME:
            name = _extension(archive, header).rstrip(b"\0")
            extended["path"] = name.decode("utf-8", "surrogateescape")
        else:
            yield from _member(archive, header, extended)
            extended = {}
    drain(archive.read)  # to the check sum at the end


def _header(block: bytes) -> tarfile.TarInfo:
    """Return what a header block says; its check sum is right."""
    with damage_named():
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _member(
    archive: Bounded, header: tarfile.TarInfo, extended: dict[str, str]
) -> Iterator[Member]:
    """Yield a file or folder; what its reader leaves is skipped."""
    name, size = extended.get("path", header.name), _size(header, extended)
    is_folder = header.type == tarfile.DIRTYPE
    if not is_folder and header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise InvalidInput(f"{name!r} is {KINDS.get(header.type, 'no plain file')}.")
    if size < 0 or (is_folder and size):
        raise InvalidInput(f"{name!r} cannot have {size} bytes.")
    part = _Part(archive, size)
    yield Member(name, size, part.read, is_folder)
    drain(archive.read, part.left + -size % BLOCK)


def _size(header: tarfile.TarInfo, extended: dict[str, str]) -> int:
    """Return the bytes of a member."""
    text = extended.get("size")
    if text is None:
        return header.size
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise InvalidInput(f"it is damaged: a size of {text[:40]!r}.")
    return int(text)


class _Part:
    """The bytes of one member within the archive."""

    def __init__(self, archive: Bounded, size: int) -> None:
        self._archive = archive
        self.left = size

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, none at the end of the member."""
        wanted = min(size, self.left)
        data = self._archive.read(wanted)
        if len(data) < wanted:
            raise InvalidInput("it is damaged or cut off: it ends within a member.")
        self.left -= len(data)
        return data


def _extension(archive: Bounded, header: tarfile.TarInfo) -> bytes:
    """Return the bytes of an extended header."""
    if not 0 <= header.size <= LONGEST_HEADER:
        raise InvalidInput(
            f"a header of {header.size} bytes; at most {LONGEST_HEADER} are allowed."
        )
    data = _exactly(archive, header.size + -header.size % BLOCK)
    return data[: header.size]


def _records(data: bytes) -> dict[str, str]:
    """Return path and size from a pax header: lines of `<length> <key>=<value>`."""
    found = {}
    while data:
        digits = data[:6].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if not (equals and record.endswith(b"\n") and length <= len(data)):
            raise InvalidInput("it is damaged: a header cannot be read.")
        if key.startswith(b"GNU.sparse"):
            raise InvalidInput("it has a sparse file; pack the files as they are.")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _exactly(archive: Bounded, size: int) -> bytes:
    """Return exactly so many bytes."""
    data = archive.read(size)
    if len(data) < size:
        raise InvalidInput("it is damaged or cut off: its end is missing.")
    return data
