"""Notices when this process imports TensorFlow, and what that costs; an api process should not."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import psutil

WATCHED = "tensorflow"
MEGABYTE = 2**20
PACKAGE = Path(__file__).parent.parent
ADVICE = (
    " Save the model and call it through a runner, `tfrunner.models.get(tag).to_runner()`: then "
    "workers alone import it."
)

log = logging.getLogger(__name__)


class ImportWatch(MetaPathFinder):
    """Warns when TensorFlow has been imported; it stands first in `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find TensorFlow, and measure what its loader does."""
        if name != WATCHED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Measured(spec.loader)
                return spec
        return None


class _Measured(Loader):
    """Loads as another loader does, and warns of what it took."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Do what the other one does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load; say what it cost, and who wanted it."""
        importer = _importer()
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        memory, begin = _resident(), time.monotonic()
        self._loader.exec_module(module)
        log.warning(
            "%s imports TensorFlow, which takes %d MB and %.1f s of this api process, and of every "
            "other one.%s",
            importer or "an embedded runner",
            (_resident() - memory) / MEGABYTE,
            time.monotonic() - begin,
            ADVICE if importer else "",
        )


def watch_imports() -> None:
    """Warn from now on."""
    if not any(isinstance(finder, ImportWatch) for finder in sys.meta_path):
        sys.meta_path.insert(0, ImportWatch())


def _resident() -> int:
    """Return the bytes of memory that this process has resident."""
    resident: int = psutil.Process().memory_info().rss
    return resident


def _importer() -> str:
    """Return the file and line whose import this is, "" where it is ours."""
    for frame in reversed(traceback.extract_stack()[:-2]):
        if "importlib" not in frame.filename and frame.filename != __file__:
            is_ours = Path(frame.filename).is_relative_to(PACKAGE)
            return "" if is_ours else f"{frame.filename}, line {frame.lineno},"
    return ""
