"""Writes a model of the store as an archive or folder: there whole or not at all.

The files are checked against their hashes on the way, and have the time at which the model was
saved: the same model gives the same archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from tfrunner.archives import CHUNK, Format, OnProgress, by_suffix, disk_errors_named
from tfrunner.entry import INFO_FILE, Model
from tfrunner.errors import AlreadyExists, CorruptModel, NotFound
from tfrunner.hashes import FileInfo
from tfrunner.importing import stored_members

OLDEST_ZIP = datetime(1980, 1, 1)
"""The first moment that a zip archive can name."""


class Source(NamedTuple):
    """One file that goes into an archive.

    Args:
        name: Its path within the entry.
        size: In bytes.
        file: Gives them.
    """

    name: str
    size: int
    file: IO[bytes]


def export(model: Model, path: Path, form: Format | None, on_progress: OnProgress) -> Path:
    """Write a model as an archive or folder.

    Args:
        model: What is written.
        path: Where to. In a folder that exists the archive is called `<name>-<version>`.
        form: Its format; by default what the path's ending says, tar.gz in a folder.
        on_progress: Is told how many bytes are read, and of how many.

    Returns:
        The path of what was written.

    Raises:
        AlreadyExists: There is something.
        NotFound: The folder that it shall be in does not exist.
        InvalidInput: The ending says nothing.
        CorruptModel: A file of the model has changed or is missing.
        NotWritten: The disk is full, or may not be written to.
    """
    target, form = _target(model, path, form)
    if os.path.lexists(target):
        raise AlreadyExists(
            f"{target} exists; nothing is overwritten. Remove it, or choose another."
        )
    if not target.parent.is_dir():
        raise NotFound(f"There is no folder {target.parent}; make it, or choose another.")
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    with disk_errors_named(target):
        try:
            _write(model, temporary, form, on_progress)
            temporary.rename(target)
            _flush(target.parent)
        finally:
            _remove(temporary)
    return target


def _target(model: Model, path: Path, form: Format | None) -> tuple[Path, Format]:
    """Return where exactly what is written."""
    if not path.is_dir():
        return path, form or by_suffix(path)
    form = form or Format.TAR_GZ
    ending = "" if form is Format.FOLDER else f".{form.value}"
    return path / f"{model.tag.name}-{model.tag.version}{ending}", form


def _write(model: Model, target: Path, form: Format, on_progress: OnProgress) -> None:
    """Write the files, and wait until they are on the disk."""
    with closing(_sources(model, on_progress)) as sources:
        if form is Format.FOLDER:
            _write_folder(target, sources)
            return
        with target.open("xb") as file:
            if form is Format.ZIP:
                _write_zip(file, sources, model.creation_time)
            else:
                with _packing(file, form) as packed:
                    _write_tar(packed, sources, model.creation_time)
            file.flush()
            os.fsync(file.fileno())


def _sources(model: Model, on_progress: OnProgress) -> Generator[Source, None, None]:
    """Yield the files of a model; `model.yaml` first, as it is read before the others."""
    try:
        info = (model.path / INFO_FILE).read_bytes()
    except OSError as exc:
        raise CorruptModel(f"{model.path / INFO_FILE} cannot be read: {exc.strerror}.") from exc
    yield Source(INFO_FILE, len(info), io.BytesIO(info))
    done = 0
    with closing(stored_members(model)) as found:
        for member in found:
            file = _Hashed(member.read, partial(_tell, on_progress, done, model.size))
            yield Source(member.name, member.size, cast("IO[bytes]", file))
            if file.info != model.info.files[member.name]:
                raise CorruptModel(
                    f"{model.path / member.name} is not the file that was saved: its hash differs. "
                    "Nothing was exported."
                )
            done += member.size


def _tell(on_progress: OnProgress, before: int, total: int, size: int) -> None:
    """Say how far it is, `size` bytes into a file."""
    on_progress(before + size, total)


class _Hashed(io.RawIOBase):
    """A file that hashes what is read from it."""

    def __init__(self, read: Callable[[int], bytes], on_read: Callable[[int], None]) -> None:
        self._read = read
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def info(self) -> FileInfo:
        """Size and hash of what was read."""
        return FileInfo(self._size, self._digest.hexdigest())

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        data = self._read(CHUNK if size < 0 else size)
        self._digest.update(data)
        self._size += len(data)
        self._on_read(self._size)
        return data


@contextmanager
def _packing(file: IO[bytes], form: Format) -> Iterator[IO[bytes]]:
    """Give what packs the bytes of a tar archive."""
    if form is Format.TAR:
        yield file
    elif form is Format.TAR_XZ:
        with lzma.LZMAFile(file, "wb") as packed:
            yield cast("IO[bytes]", packed)
    else:
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            yield cast("IO[bytes]", packed)


def _write_tar(file: IO[bytes], sources: Iterator[Source], saved: datetime) -> None:
    with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for source in sources:
            member = tarfile.TarInfo(source.name)
            member.size = source.size
            member.mtime = int(saved.timestamp())
            archive.addfile(member, source.file)


def _write_zip(file: IO[bytes], sources: Iterator[Source], saved: datetime) -> None:
    moment = max(saved.replace(tzinfo=None), OLDEST_ZIP).timetuple()[:6]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sources:
            member = zipfile.ZipInfo(source.name, moment)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            member.file_size = source.size
            with archive.open(member, "w") as target:
                shutil.copyfileobj(source.file, target, CHUNK)


def _write_folder(folder: Path, sources: Iterator[Source]) -> None:
    folder.mkdir()
    for source in sources:
        path = folder / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            shutil.copyfileobj(source.file, target, CHUNK)
            target.flush()
            os.fsync(target.fileno())
    for root, *_ in os.walk(folder):
        _flush(Path(root))


def _flush(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    """Remove what was not finished, if there is anything."""
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        temporary.unlink()
