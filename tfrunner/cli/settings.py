"""The `--config` option: the file's [serve] table gives the command's options their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tfrunner import config
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.settings import Settings, read_settings


def read_config(context: click.Context, parameter: click.Parameter, value: str | None) -> Settings:
    """Read the file; called by click before it looks at the other options.

    Raises:
        ConfigError: It has a key that is no option, or a value of the wrong type.
    """
    file = Path(value) if value else config.config_file()
    if file is None:
        return Settings()
    settings = read_settings(file)
    context.default_map = defaults(settings.serve, context.command, file=file)
    return settings


def defaults(table: Mapping[str, Any], command: click.Command, *, file: Path) -> dict[str, Any]:
    """Return the values of a [serve] table by the names of the command's parameters.

    Raises:
        ConfigError: A key is no option, or a value has the wrong type.
    """
    known = _parameters(command)
    found = {}
    for key, value in table.items():
        if key not in known:
            near = did_you_mean(key, known)
            raise ConfigError(f"{file}: [serve]: there is no option {key!r}.{near}")
        parameter = known[key]
        if not _fits(value, parameter):
            raise ConfigError(
                f"{file}: [serve]: {key} is {value!r}; expected {_expected(parameter)}."
            )
        assert parameter.name is not None
        found[parameter.name] = value
    return found


def _parameters(command: click.Command) -> dict[str, click.Parameter]:
    """Return what the table may set, by key: `targets`, and each shown option."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            long = next(name for name in parameter.opts if name.startswith("--"))
            if not parameter.hidden and long != "--config":
                found[long.removeprefix("--").replace("-", "_")] = parameter
        elif parameter.name is not None:
            found[parameter.name] = parameter
    return found


def _fits(value: Any, parameter: click.Parameter) -> bool:
    if parameter.multiple or parameter.nargs == -1:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if isinstance(parameter.type, click.Choice):
        return value in parameter.type.choices
    wanted, _ = _kind(parameter)
    if isinstance(value, bool):
        return wanted == (bool,)
    return isinstance(value, wanted)


def _expected(parameter: click.Parameter) -> str:
    """Return how people call what fits."""
    if parameter.multiple or parameter.nargs == -1:
        return "a list of text"
    if isinstance(parameter.type, click.Choice):
        return f"one of {', '.join(map(repr, parameter.type.choices))}"
    return _kind(parameter)[1]


def _kind(parameter: click.Parameter) -> tuple[tuple[type, ...], str]:
    """Return the Python types that fit an option, and how people call them."""
    kind = parameter.type
    if isinstance(kind, click.types.BoolParamType):
        return (bool,), "true or false"
    if isinstance(kind, click.types.IntParamType):
        return (int,), "a whole number"
    if isinstance(kind, click.types.FloatParamType):
        return (int, float), "a number"
    return (str,), "text"
