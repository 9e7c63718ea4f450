"""The saved models of this user: list, get, delete, prune, copy, export and import.

Reads YAML and bytes only, never TensorFlow; but to import what no `export_model` wrote.
"""

from __future__ import annotations

import builtins
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tfrunner import tensorflow
from tfrunner.archives import OnProgress, no_progress, parse_format
from tfrunner.bentoml_entry import read_told
from tfrunner.config import home
from tfrunner.entry import INFO_FILE, Model
from tfrunner.errors import InvalidInput, NotFound
from tfrunner.exporting import export
from tfrunner.importing import copy_entry, import_archive
from tfrunner.renamed import missing
from tfrunner.sources import KERAS_SUFFIXES, SAVED_MODEL_FILES
from tfrunner.store import Store
from tfrunner.tags import Tag, is_tag_part

__all__ = ["copy", "delete", "export_model", "get", "import_model", "list", "prune"]

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing(__name__, name)


def list(tag: str | Tag | None = None) -> builtins.list[Model]:
    """Return the saved models: all, those of a name, or one; by name, newest first.

    Raises:
        NotFound: No model has that name.
    """
    return Store(home()).list(tag)


def get(tag: str | Tag) -> Model:
    """Return one saved model.

    Args:
        tag: `name` for the newest, or `name:` and a version, the beginning of one, a serial
            number, or `latest`.

    Raises:
        NotFound: There is none; the message says what there is.
        InvalidInput: Several versions begin so, or the tag is malformed.
        CorruptModel: The entry cannot be read.
    """
    return Store(home()).get(tag)


def delete(tag: str | Tag) -> builtins.list[Tag]:
    """Delete one saved model, or with a bare name all its versions; return their tags.

    Raises:
        NotFound: There is no such model.
    """
    return Store(home()).delete(tag)


def prune(name: str | None = None, *, keep: int) -> builtins.list[Tag]:
    """Delete all but the newest versions, by creation time; return the tags of what was deleted.

    Entries that cannot be read are neither counted nor deleted.

    Args:
        name: Of which model; of each by default.
        keep: How many versions stay of each; at least 1.

    Raises:
        NotFound: No model has that name.
        InvalidInput: `keep` is below 1, or `name` has a version.
    """
    store = Store(home())
    gone = []
    for model in store.surplus(name, keep):
        with contextlib.suppress(NotFound):  # deleted meanwhile
            gone += store.delete(model.tag)
    return gone


def copy(tag: str | Tag, new_tag: str | Tag, *, on_progress: OnProgress = no_progress) -> Model:
    """Copy a saved model to another tag. It counts as saved now, so that it becomes the newest.

    Args:
        tag: Of the model, as for `get`.
        new_tag: Another name, which keeps the version, or name and version.
        on_progress: Is called with the bytes done and the bytes in all.

    Raises:
        NotFound: There is no such model.
        AlreadyExists: The new tag is taken.
        CorruptModel: A file of the model has changed or is missing.
        NotWritten: The disk is full, or may not be written to.
    """
    store = Store(home())
    return copy_entry(store, store.get(tag), new_tag, on_progress)


def export_model(
    tag: str | Tag,
    path: str | Path,
    format: str | None = None,
    *,
    on_progress: OnProgress = no_progress,
) -> Path:
    """Write a saved model as an archive, or as a folder; return its path.

    It appears under its name when it is whole and on the disk.

    Args:
        tag: Of the model, as for `get`.
        path: A file that does not exist yet, or a folder that does: then the archive is
            `<name>-<version>.tar.gz` in it.
        format: "tar.gz", "tar.xz", "tar", "zip" or "folder"; by default what the path's ending
            says.
        on_progress: Is called with the bytes done and the bytes in all.

    Raises:
        NotFound: There is no such model, or no folder for the archive.
        AlreadyExists: The path is taken.
        InvalidInput: Neither path nor format says which format it shall be.
        CorruptModel: A file of the model has changed or is missing.
        NotWritten: The disk is full, or may not be written to.
    """
    form = None if format is None else parse_format(format)
    return export(Store(home()).get(tag), Path(path), form, on_progress)


def import_model(
    path: str | Path,
    *,
    name: str | Tag | None = None,
    trust: bool = False,
    on_progress: OnProgress = no_progress,
) -> Model:
    """Take a model into the store: what `export_model` wrote, or what TensorFlow or Keras wrote.

    An archive keeps its tag, labels, metadata and creation time, and gets a new serial number.
    It is refused if anything in it differs from what its `model.yaml` says, or leads out of it.
    A SavedModel folder, a .keras or a .h5 file is saved with `tfrunner.tensorflow.save`, which
    imports TensorFlow; a version's folder of BentoML's store too, with what its `model.yaml` says.
    A model is a program: serve those whose author you trust.

    Args:
        path: An archive, a folder that `export_model` wrote, a SavedModel folder, a file of
            Keras, or a folder of BentoML's store.
        name: Another name, or `name:version`.
        trust: Whether you know who made the archive: its custom objects, which are code, may
            then be read, and it may unpack to more than 1000 times its size.
        on_progress: Is called with the bytes done and the bytes in all.

    Raises:
        NotFound: There is no such path.
        InvalidInput: It is no such archive or model, is damaged, or is hostile.
        AlreadyExists: The tag is taken.
        NotWritten: The disk is full, or may not be written to.
    """
    source = Path(path)
    told = read_told(source)
    if told is not None:
        tag = Tag.parse(name or told.tag or _name_of(source))
        if tag.version is None and told.tag:
            tag = Tag(tag.name, Tag.parse(told.tag).version)
        return tensorflow.save(source, tag, **told.options)
    if is_foreign(source):
        return tensorflow.save(source, name or _name_of(source))
    return import_archive(Store(home()), source, name, trust=trust, on_progress=on_progress)


def is_foreign(path: Path) -> bool:
    """Return whether a path holds what TensorFlow or Keras wrote, and not an archive of ours.

    Raises:
        InvalidInput: It holds another model of BentoML's.
    """
    if path.is_dir():
        return not (path / INFO_FILE).exists() or read_told(path) is not None
    return path.exists() and (
        path.suffix.lower() in KERAS_SUFFIXES or path.name in SAVED_MODEL_FILES
    )


def _name_of(path: Path) -> str:
    """Return the name that a model gets from its path.

    Raises:
        InvalidInput: It says none.
    """
    resolved = path.resolve()
    folder_or_file = resolved.parent if resolved.name in SAVED_MODEL_FILES else resolved
    suffix = folder_or_file.suffix.lower()
    name = folder_or_file.stem if suffix in KERAS_SUFFIXES else folder_or_file.name
    if not is_tag_part(name):
        raise InvalidInput(f"{name!r} is no name for a model: give one, of a-z 0-9 - . _ only.")
    return name
