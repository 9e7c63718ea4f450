"""Entries and archives for tests, good ones and made-up ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.test_store import info
from tfrunner.entry import Model, ModelInfo, dump_info
from tfrunner.hashes import FileInfo
from tfrunner.store import Store

FILES = {
    "saved_model/saved_model.pb": b"a graph",
    "saved_model/variables/variables.data-00000-of-00001": b"numbers" * 300,
}


def put_files(store: Store, tag: str, files: Mapping[str, bytes], **more: Any) -> Model:
    """Save an entry with these files."""
    with store.new() as folder:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return store.commit(folder, info(tag, **more))


def described(files: Mapping[str, bytes], **changes: Any) -> dict[str, FileInfo]:
    """Return what `model.yaml` says about files, with some said otherwise."""
    hashes = {
        name: FileInfo(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    return {**hashes, **changes}


def info_of(holds: Mapping[str, bytes] = FILES, /, **changes: Any) -> ModelInfo:
    """Return what the `model.yaml` of an archive with these files holds."""
    return msgspec.structs.replace(info("m:v1", files=described(holds)), **changes)


def yaml_of(holds: Mapping[str, bytes] = FILES, /, **changes: Any) -> bytes:
    """Return the text of such a `model.yaml`."""
    return dump_info(info_of(holds, **changes)).encode()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return one member of a tar archive; `fields` are those of a TarInfo."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    for field, value in fields.items():
        setattr(header, field, value)
    return header, data


def tar(*members: tuple[tarfile.TarInfo, bytes], text: bytes | None = None) -> bytes:
    """Return a tar archive of FILES and more, written block by block.

    Args:
        members: Are in it besides.
        text: Its `model.yaml`; by default the right one.
    """
    ours = [member("model.yaml", yaml_of() if text is None else text)]
    ours += [member(name, data) for name, data in FILES.items()]
    return blocks([*ours, *members])


def blocks(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return exactly these members as a tar archive, whatever they are."""
    file = io.BytesIO()
    for header, data in members:
        file.write(header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        file.write(data + bytes(-len(data) % 512))
    file.write(bytes(1024))
    return file.getvalue()


def gz(data: bytes) -> bytes:
    """Return packed data; always the same."""
    return gzip.compress(data, mtime=0)


def left_in(store: Store) -> list[Path]:
    """Return what is in the store but locks and empty folders."""
    return [
        path
        for path in store.root.rglob("*")
        if ".locks" not in path.parts and not (path.is_dir() and path.name in ("models", ".new"))
    ]
