"""Objects that travel with a model: `custom_objects.pkl`, written by cloudpickle.

Reading one runs whatever code its writer put into it, so nothing does so unasked: not
serving, not listing, not loading a model; and of an imported model only with `trust=True`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tfrunner.errors import CorruptModel, InvalidInput

CUSTOM_OBJECTS_FILE = "custom_objects.pkl"


def check_custom_objects(objects: Any, modules: Any) -> tuple[dict[str, Any], list[ModuleType]]:
    """Return objects by name, and the modules whose code is stored with them.

    Raises:
        InvalidInput: They are not a dict with text as keys, or not modules.
    """
    if objects is not None and not isinstance(objects, Mapping):
        raise InvalidInput(
            f"custom_objects is a {type(objects).__name__}; expected a dict of objects by name."
        )
    for key in objects or ():
        if not isinstance(key, str):
            raise InvalidInput(f"custom_objects has the key {key!r}; expected text.")
    if modules is not None and (isinstance(modules, str) or not isinstance(modules, Iterable)):
        raise InvalidInput(f"external_modules is {modules!r}; expected a list of modules.")
    listed = list(modules or ())
    for module in listed:
        if not isinstance(module, ModuleType):
            raise InvalidInput(
                f"external_modules holds {module!r}; expected modules, as `import` gives them."
            )
    return dict(objects or {}), listed


def write_custom_objects(
    folder: Path, objects: Mapping[str, Any], modules: Iterable[ModuleType]
) -> None:
    """Write the objects into a version's folder; nothing where there are none.

    Args:
        folder: Of the version.
        objects: By name.
        modules: Their code is stored too, as that of the main program always is: it need not
            be importable where the objects are read.

    Raises:
        InvalidInput: One cannot be pickled, or not read back.
    """
    if not objects:
        return
    import cloudpickle

    with _by_value(cloudpickle, modules):
        try:
            data = cloudpickle.dumps(dict(objects))
            pickle.loads(data)
        except Exception as exc:  # whatever the objects' own methods raise
            raise InvalidInput(
                f"custom_objects cannot be stored: {type(exc).__name__}: {exc}"
            ) from exc
    (folder / CUSTOM_OBJECTS_FILE).write_bytes(data)


@contextmanager
def _by_value(cloudpickle: Any, modules: Iterable[ModuleType]) -> Iterator[None]:
    """Store the code of these modules instead of their names."""
    names = cloudpickle.list_registry_pickle_by_value()
    added = [module for module in modules if module.__name__ not in names]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def read_custom_objects(file: Path) -> dict[str, Any]:
    """Return the objects of a file, {} where there is none. Runs the code that it holds.

    Raises:
        CorruptModel: It cannot be read, or what it needs cannot be imported here.
    """
    if not file.is_file():
        return {}
    try:
        objects = pickle.loads(file.read_bytes())
    except Exception as exc:  # whatever the objects' own methods raise
        raise CorruptModel(
            f"{file} cannot be read: {type(exc).__name__}: {exc}. Install what its objects need, "
            "or save the model again; external_modules= stores the code of modules too."
        ) from exc
    if not isinstance(objects, dict):
        raise CorruptModel(f"{file} holds a {type(objects).__name__}; expected a dict.")
    return objects
