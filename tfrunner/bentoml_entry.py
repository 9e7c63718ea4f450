"""Reads the `model.yaml` that BentoML 1.0 and 1.1 wrote beside a model's SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tfrunner.entry import INFO_FILE
from tfrunner.errors import InvalidInput
from tfrunner.importing import LOADER, LONGEST_INFO, check_yaml, is_bentoml
from tfrunner.sources import SAVED_MODEL_FILES

TENSORFLOW = "bentoml.tensorflow"
"""What BentoML calls the module whose methods are those of the SavedModel."""


class Told(NamedTuple):
    """What BentoML wrote about a model.

    Args:
        tag: Name and version, "" where it does not say them.
        options: Arguments of `tfrunner.tensorflow.save` beside model and name.
    """

    tag: str
    options: dict[str, Any]


def read_told(folder: Path) -> Told | None:
    """Return what BentoML wrote about the model in a folder, None if it is not BentoML's.

    Raises:
        InvalidInput: It is, but has no SavedModel.
    """
    try:
        with (folder / INFO_FILE).open("rb") as file:
            text = file.read(LONGEST_INFO)
        check_yaml(text)
        info = yaml.load(text, Loader=LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # whoever reads it as one of ours says what is wrong
    if not is_bentoml(info):
        return None
    if not any((folder / name).is_file() for name in SAVED_MODEL_FILES):
        raise InvalidInput(
            f"{folder} was not imported: it is a model that BentoML saved with {info.get('module')}"
            f", and has no {SAVED_MODEL_FILES[0]}. Load it with BentoML, and save it here: "
            "`tfrunner.tensorflow.save(model, name)`."
        )
    name, version = info.get("name"), info.get("version")
    return Told(f"{name}:{version}" if name and version else "", _options(info))


def _options(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `save` is told: labels, metadata, and the methods where they have the names.

    BentoML's Keras module calls what the SavedModel has as `__call__` `predict`: its methods are
    found anew, and none is batchable.
    """
    signatures = {
        method: {"batchable": True, "batch_dim": told.get("batch_dim", 0)}
        if told.get("batchable")
        else {"batchable": False}
        for method, told in (info.get("signatures") or {}).items()
        if isinstance(told, Mapping)
    }
    return {
        "labels": info.get("labels") or None,
        "metadata": info.get("metadata") or None,
        "signatures": (signatures or None) if info.get("module") == TENSORFLOW else None,
    }
