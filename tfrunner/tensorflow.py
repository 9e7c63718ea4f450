"""Save TensorFlow and Keras models, and get them back.

TensorFlow is imported by `save` and `load_model` only; `get`, `list` and `delete` read YAML.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tfrunner.config import home as default_home
from tfrunner.entry import SAVED_MODEL, Model, ModelInfo
from tfrunner.errors import InvalidInput
from tfrunner.framework import import_tensorflow, versions
from tfrunner.saving import check_labels, check_signatures, plain
from tfrunner.store import Store
from tfrunner.tags import LATEST, Tag, new_version

__all__ = ["delete", "get", "list", "load_model", "save", "save_model"]


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
    example: Any = None,
    home: Path | None = None,
) -> Model:
    """Save a model as the newest version of a name.

    What was written is loaded again and, where that is cheap, run once, so that a model that
    was saved can be served.

    Args:
        model: A tf.Module, a Keras Sequential or functional model, or any trackable object.
        name: Its name, or `name:version`; a version is made up where none is given. Model
            and name may be given in either order.
        signatures: For each method to serve: {"batchable": bool, "batch_dim": axis or
            (input axis, output axis)}. By default every tf.function, not batchable.
        tf_signature: What `tf.saved_model.save` takes as `signatures`, or a dict of
            tf.TensorSpecs by argument name for a `__call__` that has no signature.
        tf_signatures: The same.
        tf_save_options: What `tf.saved_model.save` takes as `options`.
        labels: Text by name.
        metadata: Anything that YAML holds; NumPy values are converted.
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
    model, tag = _in_order(model, name)
    if tf_signature is not None and tf_signatures is not None:
        raise InvalidInput("tf_signature and tf_signatures are the same; give one of them.")
    options = check_signatures(signatures)
    checked_labels, checked_metadata = check_labels(labels), plain(dict(metadata or {}))
    store = Store(home or default_home())
    tag = Tag(tag.name, tag.version or new_version())
    store.check_free(tag)
    import_tensorflow()
    from tfrunner.writing import write_saved_model

    with store.new() as folder:
        methods = write_saved_model(
            model,
            folder,
            options=options,
            tf_signatures=tf_signatures if tf_signature is None else tf_signature,
            tf_save_options=tf_save_options,
            example=example,
        )
        info = ModelInfo(
            name=tag.name,
            version=str(tag.version),
            creation_time=datetime.now(timezone.utc).isoformat(),
            methods=methods,
            labels=checked_labels,
            metadata=checked_metadata,
            framework=versions(),
        )
        return store.commit(folder, info)


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


def _in_order(model: Any, name: Any) -> tuple[Any, Tag]:
    """Return model and tag, in whichever order they were given."""
    if isinstance(model, (str, Tag)):
        model, name = name, model
    if isinstance(model, (str, Tag)) or not isinstance(name, (str, Tag)):
        raise InvalidInput(
            "save takes a model and a name: save(model, 'my_model'); got "
            f"{type(model).__name__} and {type(name).__name__}."
        )
    tag = Tag.parse(name)
    if tag.version == LATEST:
        raise InvalidInput(f"{LATEST!r} always means the newest version; choose another.")
    return model, tag
