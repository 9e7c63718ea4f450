"""Save TensorFlow and Keras models, and get them back.

TensorFlow is imported by `save` and `load_model` only; `get`, `list` and `delete` read YAML.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrunner.config import home as default_home
from tfrunner.entry import SAVED_MODEL, Model
from tfrunner.filing import Request, file_model, one_of
from tfrunner.framework import import_tensorflow
from tfrunner.options import ModelOptions
from tfrunner.renamed import missing
from tfrunner.store import Store
from tfrunner.tags import Tag

__all__ = ["ModelOptions", "delete", "get", "list", "load_model", "save", "save_model"]

MODULE = "tensorflow"
"""What `model.yaml` calls this module."""

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing(__name__, name)


def save(
    model: Any,
    name: str | Tag,
    *,
    signatures: Mapping[str, Any] | None = None,
    tf_signature: Any = None,
    tf_signatures: Any = None,
    tf_save_options: Any = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    external_modules: Any = None,
    example: Any = None,
    home: Path | None = None,
) -> Model:
    """Save a model as the newest version of a name.

    What was written is loaded again and, where that is cheap, run once, so that a model that
    was saved can be served.

    Args:
        model: A tf.Module, a Keras model, or any trackable object; or the path of a SavedModel
            folder (stored as it is, whichever version of TensorFlow wrote it), of a .keras
            file or of a .h5 file. A subclassed Keras model must have been called, or needs
            `example` or `tf_signature`.
        name: Its name, or `name:version`; a version is made up where none is given. Model
            and name may be given in either order.
        signatures: For each method to serve: {"batchable": bool, "batch_dim": axis or
            (input axis, output axis)}. By default every tf.function, not batchable.
            Inputs of variable length, filled up so that requests can be merged: "padding":
            {input: {"axis": 1, "value": 0, "buckets": [16, 32]}}; outputs cut back to the
            length that an input had: "cut": {output: {"axis": 1, "like": input}}.
        tf_signature: What `tf.saved_model.save` takes as `signatures`, or a dict of
            tf.TensorSpecs by argument name for a `__call__` that has no signature, or for a
            Keras model.
        tf_signatures: The same.
        tf_save_options: What `tf.saved_model.save` takes as `options`.
        labels: Text by name.
        metadata: Anything that YAML holds; NumPy values are converted.
        custom_objects: Objects by name, pickled beside the model: `model.custom_objects`. Also
            what a .keras or .h5 file needs to be loaded. Serving never reads them.
        external_modules: Modules whose code is stored with the custom objects.
        example: Inputs to warm up with: one value, a tuple (by position), a dict by argument
            name, or a dict of these by method.
        home: Folder of the store; by default `$TFRUNNER_HOME`, where models are looked up.

    Returns:
        The saved model.

    Raises:
        InvalidInput: An argument is wrong, or the model cannot be saved or run.
        NotFound: A method named in `signatures` does not exist.
        AlreadyExists: The version is taken.
    """
    request = Request(
        module=MODULE,
        signatures=signatures,
        tf_signatures=one_of(tf_signature, tf_signatures),
        tf_save_options=tf_save_options,
        labels=labels,
        metadata=metadata,
        example=example,
        custom_objects=custom_objects,
        external_modules=external_modules,
    )
    return file_model(model, name, request, home=home)


def save_model(name: str | Tag, model: Any, **options: Any) -> Model:
    """Save a model: `save` with the name first."""
    return save(model, name, **options)


def get(tag: str | Tag) -> Model:
    """Return a saved model; never imports TensorFlow. See `tfrunner.models.get`."""
    return Store(default_home()).get(tag)


def list(tag: str | Tag | None = None) -> builtins.list[Model]:
    """Return the saved models; never imports TensorFlow. See `tfrunner.models.list`."""
    return Store(default_home()).list(tag)


def delete(tag: str | Tag) -> builtins.list[Tag]:
    """Delete a saved model, or all versions of a name. See `tfrunner.models.delete`."""
    return Store(default_home()).delete(tag)


def load_model(tag: str | Tag | Model, device_name: str = "/device:CPU:0") -> Any:
    """Return the restored TensorFlow object of a saved model.

    Args:
        tag: The model, or its tag.
        device_name: Where its variables go, as TensorFlow names devices.

    Raises:
        NotFound: There is no such model.
        CorruptModel: It cannot be loaded.
    """
    tf = import_tensorflow()
    model = tag if isinstance(tag, Model) else get(tag)
    if "GPU" in device_name.upper():
        _grow_memory(tf)
    from tfrunner_workers.savedmodel import restore

    return restore(Path(model.path) / SAVED_MODEL, device=device_name)


def _grow_memory(tf: Any) -> None:
    """Let TensorFlow take GPU memory as it needs it, unless it has started already."""
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            return
