"""tfrunner: answers TensorFlow models fast from Python.

Names load on first use (PEP 562), so that a process imports only what it needs: the
dispatcher never NumPy, the api never TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tfrunner.errors as errors
    import tfrunner.io as io
    import tfrunner.keras as keras
    import tfrunner.metrics as metrics
    import tfrunner.models as models
    import tfrunner.tensorflow as tensorflow
    import tfrunner.testing as testing
    from tfrunner.client import AsyncClient, Client
    from tfrunner.context import Context
    from tfrunner.monitoring import monitor
    from tfrunner.runnable import Runnable
    from tfrunner.runner import Runner
    from tfrunner.service import Service
    from tfrunner.store import Model
    from tfrunner.tags import Tag

_MODULES = (
    *("client", "errors", "exceptions", "io", "keras", "metrics", "models", "tensorflow"),
    "testing",
)
_NAMES = {
    "AsyncClient": "tfrunner.client",
    "Client": "tfrunner.client",
    "Context": "tfrunner.context",
    "Model": "tfrunner.store",
    "Runnable": "tfrunner.runnable",
    "Runner": "tfrunner.runner",
    "Service": "tfrunner.service",
    "Tag": "tfrunner.tags",
    "monitor": "tfrunner.monitoring",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Context",
    "Model",
    "Runnable",
    "Runner",
    "Service",
    "Tag",
    "errors",
    "io",
    "keras",
    "metrics",
    "models",
    "monitor",
    "tensorflow",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"tfrunner.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    from tfrunner.renamed import missing

    raise missing("tfrunner", name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
