"""The table of defaults, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tfrunner import config
from tfrunner.cli.serve import serve
from tfrunner.errors import ConfigError

ROOT = Path(__file__).parent.parent


def test_the_documentation_shows_the_defaults_that_hold():
    """One table in the code and in docs/configuration.md."""
    text = (ROOT / "docs" / "configuration.md").read_text().partition("## Environment")[0]
    shown = dict(re.findall(r"^\| ([a-z_]+) \| (\S+) \|", text, flags=re.MULTILINE))
    shown.pop("setting")
    assert shown == {
        name: str(value) for name, value in msgspec.structs.asdict(config.DEFAULTS).items()
    }


def test_every_default_is_an_option_of_serve():
    """Nothing can only be changed in the code."""
    options = {parameter.name for parameter in serve.params}
    assert set(config.Defaults.__struct_fields__) <= options


def test_the_documentation_names_every_setting_of_serve():
    """With its default, or as one without."""
    text = (ROOT / "docs" / "configuration.md").read_text().partition("## Environment")[0]
    without = text.partition("Without a default:")[2].partition("##")[0]
    named = re.findall(r"^\| ([a-z_]+) \|", text, flags=re.MULTILINE)
    named += re.findall(r"`([a-z_]+)`", without)
    # What says how the command itself behaves, what is served, and what tests need.
    others = {"targets", "settings", "dry_run", "output", "as_json", "echo", "hold"}
    assert {parameter.name for parameter in serve.params} - others == set(named) - {"setting"}


def test_a_config_survives_the_command_line():
    """What a child process is started with."""
    given = config.ServedModel("m:1", b"\x00spec", max_batch_size=3)
    assert config.from_argument(config.ServedModel, config.to_argument(given)) == given


@pytest.mark.parametrize("text", ["", "{", '{"tag": 5}'])
def test_an_unreadable_config_is_refused(text: str):
    """One line that says what is wrong."""
    with pytest.raises(ConfigError, match="unreadable"):
        config.from_argument(config.ServedModel, text)


@pytest.mark.parametrize("value", [0, -1, True, None, "3", float("nan")])
def test_numbers_below_the_least_are_refused(value: object):
    """Key and value are named."""
    with pytest.raises(ConfigError, match="--workers is"):
        config.check_positive("--workers", value)
