"""TensorFlow, imported when it is needed, and what to say where there is none."""

from __future__ import annotations

import faulthandler
import importlib
import importlib.metadata
import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tfrunner.errors import ConfigError

CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|I0000 ")
"""What lines begin with that TensorFlow's C++ code writes before its log can be set up."""


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


UNHEEDED = re.compile(
    r"Unable to create a python object for variable|saved_model\.loader_impl\) is deprecated"
)
"""Lines that TensorFlow writes for every variable, or at every load, of a TensorFlow 1 model."""


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep native start-up notes from standard error; everything else follows at the end.

    No setting silences them: they are written before TensorFlow reads any. Where the process
    dies inside, standard error gets Python's own report. Not for threads that write meanwhile
    and cannot wait.
    """
    stderr = os.dup(2)
    was_watched = faulthandler.is_enabled()
    with tempfile.TemporaryFile() as held:
        faulthandler.enable(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            faulthandler.disable()
            if was_watched:
                faulthandler.enable(2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not CHATTER.match(line):
                    os.write(2, line)


class _Unheeded(logging.Filter):
    """Lets pass what a user can act on, of what TensorFlow's loaders say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        return not UNHEEDED.search(record.getMessage())


@contextmanager
def quiet_loaders(tf: Any) -> Iterator[None]:
    """Keep advice from the log that is meant for those who train TensorFlow 1 models."""
    log, unheeded = tf.get_logger(), _Unheeded()
    log.addFilter(unheeded)
    try:
        yield
    finally:
        log.removeFilter(unheeded)


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
