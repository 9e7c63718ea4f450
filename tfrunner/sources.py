"""What `save` is given: a model, or the file or folder that holds one. Never TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from tfrunner.errors import InvalidInput
from tfrunner.tags import LATEST, Tag

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


class SavedModelFolder(NamedTuple):
    """A folder that TensorFlow wrote; it is stored byte for byte."""

    path: Path


class KerasFile(NamedTuple):
    """A model that Keras wrote, in its own format or in HDF5."""

    path: Path


def in_order(model: Any, name: Any) -> tuple[Any, Tag]:
    """Return model and tag, in whichever order they were given.

    Args:
        model: A model, a SavedModelFolder's or KerasFile's path (text that names an existing
            one, or a Path), or the name.
        name: The name, or the model.

    Returns:
        The model itself, a SavedModelFolder, or a KerasFile; and the tag.

    Raises:
        InvalidInput: They are not a model and a name, or the path holds no model.
    """
    if _is_first_the_name(model, name):
        model, name = name, model
    if not isinstance(name, (str, Tag)) or isinstance(model, Tag):
        raise InvalidInput(
            "save takes a model and a name: save(model, 'my_model'); got "
            f"{type(model).__name__} and {type(name).__name__}."
        )
    source = open_source(Path(model)) if isinstance(model, (str, Path)) else model
    tag = Tag.parse(name)
    if tag.version == LATEST:
        raise InvalidInput(f"{LATEST!r} always means the newest version; choose another.")
    return source, tag


def _is_first_the_name(model: Any, name: Any) -> bool:
    """Return whether the first of two arguments is the name; a path is never one.

    Of two texts the model is the first that names something on disk that holds one, else the
    first that can only be a path.
    """
    if not isinstance(model, (str, Tag)):
        return False
    if isinstance(model, Tag) or not isinstance(name, (str, Tag)):
        return True
    if isinstance(name, Tag):
        return False
    for is_model in (_holds_model, _looks_like_path):
        if is_model(model) or is_model(name):
            return not is_model(model)
    raise InvalidInput(
        "save takes a model and a name: save(model, 'my_model'); got str and str, and neither "
        f"{model!r} nor {name!r} is a SavedModel folder, a .keras file or a .h5 file."
    )


def open_source(path: Path) -> SavedModelFolder | KerasFile:
    """Return what a path holds.

    Raises:
        InvalidInput: It does not exist, or is neither a SavedModel nor a file of Keras.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in SAVED_MODEL_FILES):
            return SavedModelFolder(path)
        inside = sorted(child for child in path.iterdir() if _holds_model(str(child)))
        near = f" Did you mean {str(inside[-1])!r}?" if inside else ""
        raise InvalidInput(f"{path} is no SavedModel: it has no {SAVED_MODEL_FILES[0]}.{near}")
    if not path.exists():
        raise InvalidInput(
            f"{path} does not exist; expected a SavedModel folder, a .keras file or a .h5 file."
        )
    if path.suffix.lower() in KERAS_SUFFIXES:
        return KerasFile(path)
    if path.name in SAVED_MODEL_FILES:
        return SavedModelFolder(path.parent)
    raise InvalidInput(
        f"{path} is no file that can be saved from; expected a SavedModel folder, a .keras file "
        "or a .h5 file."
    )


def _holds_model(text: str) -> bool:
    path = Path(text)
    if path.is_dir():
        return any((path / name).is_file() for name in SAVED_MODEL_FILES)
    return path.is_file() and (
        path.suffix.lower() in KERAS_SUFFIXES or path.name in SAVED_MODEL_FILES
    )


def _looks_like_path(text: str) -> bool:
    return os.sep in text or Path(text).suffix.lower() in KERAS_SUFFIXES
