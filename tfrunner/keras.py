"""Save Keras models and get them back, with the casting and the names that Keras has.

The default method is `predict`; inputs are cast as Keras casts them; `load_model` gives the
Keras model back. What is served is the same function as `tfrunner.tensorflow` serves: the
model called with `training=False`, never `keras.Model.predict`. TensorFlow and Keras are
imported by `save` and `load_model` only.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfrunner.config import home as default_home
from tfrunner.entry import Model
from tfrunner.errors import CorruptModel, InvalidInput, NotFound
from tfrunner.filing import Request, file_model, one_of
from tfrunner.framework import import_tensorflow
from tfrunner.keras_models import KERAS_MODEL, load_keras_file
from tfrunner.options import ModelOptions
from tfrunner.renamed import missing
from tfrunner.store import Store
from tfrunner.tags import Tag

__all__ = ["ModelOptions", "delete", "get", "list", "load_model", "save", "save_model"]

MODULE = "keras"
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
    """Save a Keras model as the newest version of a name.

    It is stored twice: as a SavedModel, which is served, and as Keras writes it, which
    `load_model` reads. Both are loaded again before this returns; where Keras cannot load
    what it wrote, the log says so, and only the SavedModel is kept.

    Args:
        model: A Keras model, or the path of a .keras or .h5 file.
        name: Its name, or `name:version`. Model and name may be given in either order.
        signatures: As for `tfrunner.tensorflow.save`; by default
            {"predict": {"batchable": False}}.
        tf_signature: tf.TensorSpecs by argument name, where the model does not say what it
            takes; or what `tf.saved_model.save` takes as `signatures`.
        tf_signatures: The same.
        tf_save_options: What `tf.saved_model.save` takes as `options`.
        labels: Text by name.
        metadata: Anything that YAML holds; NumPy values are converted.
        custom_objects: Classes and functions that Keras needs to load the model, by name.
            They are pickled beside it.
        external_modules: Modules whose code is stored with the custom objects.
        example: Inputs to warm up with, as for `tfrunner.tensorflow.save`.
        home: Folder of the store; by default `$TFRUNNER_HOME`, where models are looked up.

    Returns:
        The saved model.

    Raises:
        InvalidInput: It is no Keras model, an argument is wrong, or it cannot be saved or run.
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


def save_model(
    name: str | Tag, model: Any, *, include_optimizer: bool = True, **options: Any
) -> Model:
    """Save a Keras model: `save` with the name first.

    Raises:
        InvalidInput: As for `save`; or `include_optimizer` is False: a compiled model is stored
            as it is.
    """
    if not include_optimizer:
        raise InvalidInput(
            "include_optimizer=False is not built: `load_model` gives the model back compiled, as "
            "it was. Leave it out; what is served never has an optimizer."
        )
    return save(model, name, **options)


def get(tag: str | Tag) -> Model:
    """Return a model that this module saved; never imports TensorFlow.

    Raises:
        NotFound: There is none, or `tfrunner.tensorflow` saved it.
    """
    return _ours(Store(default_home()).get(tag))


def list(tag: str | Tag | None = None) -> builtins.list[Model]:
    """Return the models that this module saved; never imports TensorFlow."""
    found = Store(default_home()).list(tag)
    return [model for model in found if model.info.module == MODULE]


def delete(tag: str | Tag) -> builtins.list[Tag]:
    """Delete a saved model, or all versions of a name. See `tfrunner.models.delete`."""
    return Store(default_home()).delete(tag)


def load_model(tag: str | Tag | Model, device_name: str = "/device:CPU:0") -> Any:
    """Return the Keras model, compiled as it was.

    Its custom objects are read from the store, but those of an imported model only once
    `model.load_custom_objects(trust=True)` was called.

    Args:
        tag: The model, or its tag.
        device_name: Where its variables go, as TensorFlow names devices.

    Raises:
        NotFound: There is no such model, or `tfrunner.tensorflow` saved it, or Keras could not
            load it again when it was saved.
        StateError: It was imported, and has custom objects.
        CorruptModel: It cannot be loaded.
    """
    model = _ours(tag) if isinstance(tag, Model) else get(tag)
    if KERAS_MODEL not in model.info.files:
        raise NotFound(
            f"{model.tag} was saved without the Keras model itself: Keras could not load it again. "
            "Call tfrunner.tensorflow.load_model for what is served, or save it again with the "
            "custom_objects that it needs."
        )
    objects = model.custom_objects
    tf = import_tensorflow()
    try:
        with tf.device(device_name):
            is_ours = not model.info.imported
            return load_keras_file(model.path / KERAS_MODEL, objects, is_ours=is_ours)
    except InvalidInput as exc:
        raise CorruptModel(str(exc)) from exc


def _ours(model: Model) -> Model:
    """Return the model if this module saved it."""
    if model.info.module != MODULE:
        raise NotFound(
            f"{model.tag} was saved by tfrunner.{model.info.module}, not by tfrunner.{MODULE}: "
            f"use tfrunner.{model.info.module}.load_model, or save it again with tfrunner.keras."
        )
    return model
