"""Checks of the blocks that are data: read by whatever reads them in earnest."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tfrunner.cli.serve import serve
from tfrunner.cli.settings import defaults
from tfrunner.settings import TABLES, read_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKER = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("LABEL", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
)
MISSING = re.compile(r"Command \S+ is not executable: No such file or directory")


def check(language: str, text: str, folder: Path, *, name: str = "") -> None:
    """Check a block of data.

    Args:
        language: One of docs_blocks.DATA.
        text: What it holds.
        folder: Where a file may be made.
        name: What the page calls it.

    Raises:
        AssertionError: It cannot be read; the message says why.
    """
    readers = {
        "json": _read_json,
        "toml": lambda text, folder: _read_toml(text, folder, name),
        "yaml": lambda text, _: yaml.safe_load(text),
        "ini": _read_unit,
        "dockerfile": _read_dockerfile,
    }
    try:
        readers[language](text, folder)
    except AssertionError:
        raise
    except Exception as exc:
        raise AssertionError(f"this {language} is wrong: {type(exc).__name__}: {exc}") from exc


def _read_json(text: str, folder: Path) -> None:
    json.loads(re.sub(r"\.\.\.", "null", text))


def _read_toml(text: str, folder: Path, name: str) -> None:
    """Read TOML; as a configuration of `tfrunner serve` by its name, or where it has its tables."""
    found = tomllib.loads(text)
    if "tfrunner" not in name and not set(found) & set(TABLES):
        return
    file = folder / "checked.toml"
    file.write_text(text)
    defaults(read_settings(file).serve, serve, file=file)


def _read_unit(text: str, folder: Path) -> None:
    """Read sections of keys; units of systemd also by systemd, where that is installed."""
    sections = configparser.ConfigParser(strict=False, interpolation=None)
    sections.read_string(text)
    assert sections.sections(), "it has no [section]"
    systemd = shutil.which("systemd-analyze")
    if systemd is None or "Service" not in sections:
        return
    file = folder / "checked.service"
    file.write_text(text)
    done = subprocess.run(
        [systemd, "verify", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if file.name in line]
    wrong = [line for line in said if not MISSING.search(line)]
    assert not wrong, "\n".join(wrong)


def _read_dockerfile(text: str, folder: Path) -> None:
    """Read the instructions of a Dockerfile, each with its arguments."""
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    instructions = [line.split(maxsplit=1) for line in lines]
    assert instructions and instructions[0][0] in ("FROM", "ARG"), "it does not begin with FROM"
    for instruction in instructions:
        assert instruction[0] in DOCKER and len(instruction) == 2, f"what is {instruction}?"
        if instruction[1].startswith("["):
            assert all(isinstance(each, str) for each in json.loads(instruction[1]))
