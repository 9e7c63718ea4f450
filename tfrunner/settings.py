"""The configuration file of `tfrunner serve`: TOML, checked key by key.

    [serve]
    port = 8080
    max_batch_size = 32

    [runners.digits]
    max_latency_ms = 200

    [runners.digits.methods.predict]
    max_batch_size = 8

    [models."irises:first"]
    workers = 2

[defaults] is another name of [serve]. The command line goes before the file; a runner's own
options go before both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.options import RunnerOptions, read_options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("serve", "defaults", "runners", "models")


class Settings(msgspec.Struct, frozen=True):
    """What a configuration file says.

    Args:
        serve: Options of the command by name, unchecked: the command knows their types.
        runners: By name of a Service's runner.
        models: By name, or by tag `name:version`.
    """

    serve: dict[str, Any] = {}
    runners: dict[str, RunnerOptions] = {}
    models: dict[str, RunnerOptions] = {}

    def of_model(self, tag: str) -> list[RunnerOptions]:
        """Return what is asked for a model: for its version, then for its name."""
        found = [self.models.get(tag), self.models.get(tag.partition(":")[0])]
        return [options for options in found if options is not None]

    def of_runner(self, name: str) -> RunnerOptions:
        """Return what is asked for a runner."""
        return self.runners.get(name, RunnerOptions())


def read_settings(file: Path) -> Settings:
    """Return what a file says.

    Raises:
        ConfigError: It cannot be read, or has a key or value that is not known; the message
            names the key, what was expected, and what was given.
    """
    try:
        found = tomllib.loads(file.read_text())
    except OSError as exc:
        raise ConfigError(f"the configuration {file} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the configuration {file} is no TOML: {exc}") from exc
    for key, table in found.items():
        if key not in TABLES:
            raise ConfigError(f"{file}: there is no table [{key}].{did_you_mean(key, TABLES)}")
        _check_table(table, f"{file}: [{key}]")
    sections: dict[str, dict[str, RunnerOptions]] = {
        kind: {
            name: _read_section(table, f"{file}: [{kind}.{name}]")
            for name, table in found.get(kind, {}).items()
        }
        for kind in ("runners", "models")
    }
    serve: dict[str, Any] = {}
    for table in ("serve", "defaults"):
        for key, value in found.get(table, {}).items():
            name = key.replace("-", "_")
            if name in serve:
                raise ConfigError(f"{file}: {name} is given twice, in [serve] and [defaults].")
            serve[name] = value
    return Settings(serve, **sections)


def _read_section(table: Any, at: str) -> RunnerOptions:
    values = dict(_check_table(table, at))
    methods = _check_table(values.pop("methods", {}), f"{at}: methods")
    return read_options(values, at=at, methods=methods)


def _check_table(table: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{at} is {table!r}; expected a table of keys and values.")
    return table
