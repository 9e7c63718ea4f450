"""Where the options of `tfrunner serve` come from, beside the command line.

`--config`: the file's [serve] table gives them their defaults. Variables `TFRUNNER_<OPTION>` go
before the file, the command line before both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from tfrunner import config
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.settings import Settings, read_settings

BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Reading(msgspec.Struct, frozen=True):
    """What was read before the command line.

    Args:
        settings: The configuration file.
        sources: By the name of an option, where its value stands: "file f", "environment V".
        problem: Why it cannot be used, "" if it can.
    """

    settings: Settings = Settings()
    sources: dict[str, str] = {}
    problem: str = ""

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises:
            ConfigError: The file or a variable has an unknown key, or a value of the wrong type.
        """
        if self.problem:
            raise ConfigError(self.problem)

    def sources_of(self, context: click.Context) -> dict[str, str]:
        """Return where the value of each option comes from: default, file, environment, flag."""
        found = {}
        for parameter in context.command.params:
            name = parameter.name or ""
            given = context.get_parameter_source(name)
            if given is ParameterSource.COMMANDLINE:
                found[name] = "flag"
            else:
                found[name] = self.sources.get(name, "default")
        return found


def read_config(context: click.Context, parameter: click.Parameter, value: str | None) -> Reading:
    """Read file and environment; called by click before it looks at the other options."""
    file = Path(value) if value else config.config_file()
    try:
        settings = Settings() if file is None else read_settings(file)
        given = {}
        if file is not None:
            given = defaults(settings.serve, context.command, file=file)
        variables = from_environment(config.option_variables(), context.command)
    except ConfigError as exc:
        return Reading(problem=exc.message)
    context.default_map = {**given, **{name: value for name, (_, value) in variables.items()}}
    sources = {name: f"file {file}" for name in given}
    sources |= {name: f"environment {variable}" for name, (variable, _) in variables.items()}
    return Reading(settings, sources)


def from_environment(
    variables: Mapping[str, str], command: click.Command
) -> dict[str, tuple[str, Any]]:
    """Return, by the names of the command's parameters, the variable and its value.

    Raises:
        ConfigError: A value has the wrong type.
    """
    known = {config.PREFIX + key.upper(): each for key, each in _parameters(command).items()}
    found: dict[str, tuple[str, Any]] = {}
    for variable, text in variables.items():
        if variable not in known:
            continue  # somebody else's; `misspelt` names what is nearly one of ours
        parameter = known[variable]
        value = _parse(text, parameter)
        if not _fits(value, parameter):
            raise ConfigError(f"${variable} is {text!r}; expected {_expected(parameter)}.")
        assert parameter.name is not None
        found[parameter.name] = (variable, value)
    return found


def misspelt(variables: Mapping[str, str], command: click.Command) -> list[str]:
    """Return a line for each variable that is no option, and has nearly the name of one."""
    known = [key.upper() for key in _parameters(command)]
    lines = []
    for name in sorted({each.removeprefix(config.PREFIX) for each in variables} - set(known)):
        hint = did_you_mean(name, known)
        if hint.startswith(" Did"):
            hint = hint.replace("'", f"'{config.PREFIX}", 1)
            lines.append(f"${config.PREFIX}{name} means nothing.{hint}")
    return lines


def _parse(text: str, parameter: click.Parameter) -> Any:
    """Return what the text of a variable stands for; the text itself where that is nothing."""
    if parameter.multiple or parameter.nargs == -1:
        return text.replace(",", " ").split()
    kinds = () if isinstance(parameter.type, click.Choice) else _kind(parameter)[0]
    if kinds == (bool,):
        return BOOLEANS.get(text.lower(), text)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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
    """Return what may be set, by key: `targets`, and each shown option."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            long = next(name for name in parameter.opts if name.startswith("--"))
            if not parameter.hidden and long not in ("--config", "--dry-run", "--output"):
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
