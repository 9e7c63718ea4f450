"""Writes members into a fresh folder, as long as they are what `model.yaml` says.

Every name, size and hash is known before the first byte is written: what differs ends it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tfrunner.archives import CHUNK, OnProgress
from tfrunner.entry import INFO_FILE
from tfrunner.errors import InvalidInput, NotWritten
from tfrunner.hashes import FileInfo
from tfrunner.unpacking import Member

LONGEST_NAME = 1000
"""Characters of a file's path within its entry."""

LONGEST_PART = 255
"""Bytes of a file's or folder's name: Linux has no longer ones."""


def check_files(files: Mapping[str, FileInfo]) -> None:
    """Check that an entry can hold these files, and nothing outside of it.

    Raises:
        InvalidInput: A name leads out, or is that of a folder too.
    """
    every = {INFO_FILE, *files}
    for name, file in files.items():
        parts = name.split("/")
        is_long = len(name) > LONGEST_NAME or any(len(p.encode()) > LONGEST_PART for p in parts)
        above = {"/".join(parts[:length]) for length in range(1, len(parts))}
        if name in ("", INFO_FILE) or is_long or plain_name(name) != name or above & every:
            raise InvalidInput(f"{INFO_FILE} names a file {name[:99]!r}, which no entry can have.")
        if file.size < 0:
            raise InvalidInput(f"{INFO_FILE} says that {name!r} has {file.size} bytes.")


def plain_name(name: str) -> str:
    """Return a member's name without what means nothing: `./` before, `/` behind.

    Raises:
        InvalidInput: It leads out of the archive, or cannot be written.
    """
    if name.startswith("/"):
        raise InvalidInput(f"{name!r} is an absolute path.")
    plain = "/".join(part for part in name.split("/") if part not in ("", "."))
    if ".." in plain.split("/"):
        raise InvalidInput(f"{name!r} leads out of the archive.")
    if "\\" in plain or not plain.isprintable():
        raise InvalidInput(f"the name {name!r} is not allowed.")
    return plain


def extract(
    found: Iterable[Member], folder: Path, files: Mapping[str, FileInfo], on_progress: OnProgress
) -> None:
    """Write the files of an entry, all but `model.yaml`.

    Args:
        found: The members, each before the next.
        folder: Where to; empty.
        files: What there must be, no more and no less; checked by `check_files`.
        on_progress: Is told how far it is.

    Raises:
        InvalidInput: A member is not what it should be, or one is missing.
        NotWritten: The disk has no room for all.
    """
    total = sum(file.size for file in files.values())
    _check_room(folder, total)
    seen: set[str] = set()
    done = 0
    for member in found:
        name = plain_name(member.name)
        if member.is_folder:  # made where a file is in it
            continue
        if name in seen:
            raise InvalidInput(f"{name!r} is in it twice.")
        seen.add(name)
        if name == INFO_FILE:
            continue
        if name not in files:
            raise InvalidInput(f"{name!r} is in it, which {INFO_FILE} does not name.")
        for size in _write(member, folder / name, files[name]):
            on_progress(done + size, total)
        done += files[name].size
    if missing := sorted(set(files) - seen):
        raise InvalidInput(f"{missing[0]!r} is not in it, which {INFO_FILE} names.")


def _check_room(folder: Path, total: int) -> None:
    """Refuse at once what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if total > free:
        raise NotWritten(
            f"{folder.parent.parent} has {free} bytes left, and the model needs {total}. Make room "
            "first."
        )


def _write(member: Member, target: Path, expected: FileInfo) -> Iterator[int]:
    """Write one file, and yield how many bytes are written; they are hashed on the way."""
    if member.size != expected.size:
        raise InvalidInput(f"{member.name!r} has {member.size} bytes, not {expected.size}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        while data := member.read(CHUNK):
            size += len(data)
            if size > expected.size:
                break
            digest.update(data)
            file.write(data)
            yield size
    if FileInfo(size, digest.hexdigest()) != expected:
        raise InvalidInput(f"{member.name!r} is not the file that was saved: its hash differs.")
