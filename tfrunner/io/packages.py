"""The optional packages behind descriptors: imported where one is declared that needs them."""

from __future__ import annotations

import importlib

from tfrunner.errors import ConfigError


def require(module: str, *, package: str, what: str) -> None:
    """Import a module, so that what lacks is found when the Service is declared.

    Args:
        module: Its name.
        package: What has to be installed for it.
        what: What needs it.

    Raises:
        ConfigError: It is not installed, or cannot be imported.
    """
    try:
        importlib.import_module(module)
    except ImportError as exc:
        raise ConfigError(
            f"{what} needs {package}: {exc}. Install it with `pip install 'tfrunner[io]'`."
        ) from exc
