"""The saved models of this user: list, get, delete. Reads YAML only, never TensorFlow."""

from __future__ import annotations

import builtins

from tfrunner.config import home
from tfrunner.entry import Model
from tfrunner.store import Store
from tfrunner.tags import Tag

__all__ = ["delete", "get", "list"]


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
