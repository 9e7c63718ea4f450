"""Puts a model into the store: checks what `save` was told, writes, tries, and commits.

The shared half of `tfrunner.tensorflow.save` and `tfrunner.keras.save`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from tfrunner.config import home as default_home
from tfrunner.custom_objects import check_custom_objects, write_custom_objects
from tfrunner.entry import Model, ModelInfo
from tfrunner.errors import InvalidInput
from tfrunner.framework import import_tensorflow, versions
from tfrunner.saving import MethodOptions, check_labels, check_metadata, check_signatures
from tfrunner.sources import in_order
from tfrunner.store import Store
from tfrunner.tags import Tag, new_version


class Request(NamedTuple):
    """What `save` was told about a model, as it was told.

    Args:
        module: "tensorflow" or "keras": whose `save`.
        signatures: Options by method.
        tf_signatures: What `tf.saved_model.save` takes, or TensorSpecs.
        tf_save_options: What `tf.saved_model.save` takes.
        labels: Text by name.
        metadata: Plain data.
        example: Inputs to try and to warm up with.
        custom_objects: Objects by name that travel with the model.
        external_modules: Modules whose code is stored with these objects.
    """

    module: str
    signatures: Mapping[str, Any] | None = None
    tf_signatures: Any = None
    tf_save_options: Any = None
    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    example: Any = None
    custom_objects: Mapping[str, Any] | None = None
    external_modules: Any = None

    def options(self) -> dict[str, MethodOptions] | None:
        """Return the checked options by method, None where none were given."""
        return check_signatures(self.signatures)


def file_model(model: Any, name: Any, request: Request, *, home: Path | None) -> Model:
    """Save a model as the newest version of a name.

    Args:
        model: The model, or the file or folder that holds one; or its name.
        name: Its name or tag; or the model.
        request: What else `save` was told.
        home: Folder of the store; by default that of `config.home`.

    Raises:
        InvalidInput: Something that was told is wrong, or the model cannot be saved or run.
        NotFound: A method does not exist.
        AlreadyExists: The version is taken.
    """
    source, tag = in_order(model, name)
    request.options()  # refused before anything takes time
    labels, metadata = check_labels(request.labels), check_metadata(request.metadata)
    objects, modules = check_custom_objects(request.custom_objects, request.external_modules)
    store = Store(home or default_home())
    tag = Tag(tag.name, tag.version or new_version())
    store.check_free(tag)
    import_tensorflow()
    from tfrunner.writing import write_model

    with store.new() as folder:
        write_custom_objects(folder, objects, modules)
        methods = write_model(source, folder, request)
        info = ModelInfo(
            name=tag.name,
            version=str(tag.version),
            creation_time=datetime.now(timezone.utc).isoformat(),
            module=request.module,
            methods=methods,
            labels=labels,
            metadata=metadata,
            framework=versions(),
        )
        return store.commit(folder, info)


def one_of(tf_signature: Any, tf_signatures: Any) -> Any:
    """Return whichever of the two names of one argument was given.

    Raises:
        InvalidInput: Both were.
    """
    if tf_signature is not None and tf_signatures is not None:
        raise InvalidInput("tf_signature and tf_signatures are the same; give one of them.")
    return tf_signatures if tf_signature is None else tf_signature
