"""TensorFlow, imported when it is needed, and what to say where there is none."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from typing import Any

from tfrunner.errors import ConfigError


def import_tensorflow() -> Any:
    """Import TensorFlow and return it; takes seconds the first time.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as exc:
        if exc.name != "tensorflow":
            raise
        raise ConfigError(
            "TensorFlow is not installed. Install it with `pip install 'tfrunner[cpu]'`, "
            "or `pip install 'tfrunner[gpu]'` on a machine with a GPU."
        ) from None


def keras_if_loaded() -> Any:
    """Return the keras module if this process has imported it, else None.

    Without it there is no Keras model, and importing it takes a second.
    """
    return sys.modules.get("keras")


def versions() -> dict[str, str]:
    """Return the versions that a saved model records."""
    found = {"python": platform.python_version()}
    for name in ("tfrunner", "tensorflow", "keras", "numpy"):
        module = sys.modules.get(name)
        version = getattr(module, "__version__", None)
        if version is None and name == "tfrunner":
            version = importlib.metadata.version(name)
        if version is not None:
            found[name] = str(version)
    return found
