"""Sizes and hashes of stored files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec


class FileInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a stored file."""

    size: int
    sha256: str


def hash_file(path: Path) -> FileInfo:
    """Return size and hash of one file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return FileInfo(path.stat().st_size, digest.hexdigest())


def hash_files(folder: Path) -> dict[str, FileInfo]:
    """Return size and hash of every file below a folder, by path relative to it."""
    return {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
