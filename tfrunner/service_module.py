"""The Service that a target names, `module:attribute` or `file.py:attribute`: found, imported."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.service import Service


def load_service(target: str) -> Service:
    """Return the Service that a target names; imports the user's module.

    Args:
        target: `module:attribute` or `file.py:attribute`; without an attribute the module
            must have exactly one Service.

    Raises:
        ConfigError: The module cannot be imported, or has no such Service; one line.
    """
    name, _, attribute = target.partition(":")
    module = _import(name)
    services = {key: value for key, value in vars(module).items() if isinstance(value, Service)}
    if not attribute:
        if len({id(service) for service in services.values()}) == 1:
            return next(iter(services.values()))
        raise ConfigError(
            f"{name} has {len(services)} Services; name one: {name}:<attribute>."
            + did_you_mean("", services)
        )
    if attribute not in services:
        what = "is no Service" if hasattr(module, attribute) else "does not exist"
        raise ConfigError(f"{target}: {attribute!r} {what}.{did_you_mean(attribute, services)}")
    return services[attribute]


def _import(name: str) -> ModuleType:
    try:
        with _here_on_path():
            if name.endswith(".py"):
                return _import_file(Path(name))
            return importlib.import_module(name)
    except ConfigError:
        raise
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise ConfigError(
                f"there is no module {name!r} in {Path.cwd()} or on the path"
            ) from exc
        raise ConfigError(f"{name} cannot be imported: {exc}{_where(exc)}") from exc
    except (Exception, SystemExit) as exc:
        reason = f"{type(exc).__name__}: {exc}".splitlines()[0]
        raise ConfigError(f"{name} cannot be imported: {reason}{_where(exc)}") from exc


@contextlib.contextmanager
def _here_on_path() -> Iterator[None]:
    """Put the working folder first on the path, for good: the module may import more later."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    yield


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r} in {Path.cwd()}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _where(exc: BaseException) -> str:
    """Return the place in the user's code where an import failed."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
