"""A virtual environment for each peer, made on demand from PyPI, with pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TENSORFLOW = "tensorflow-cpu==2.21.0"
DONE = "installed.txt"
SHARED = """
import ctypes, sys
library = ctypes.CDLL("libpython%d.%d.so.1.0" % sys.version_info[:2])
library.Py_GetVersion.restype = ctypes.c_char_p
assert library.Py_GetVersion().decode().split()[0] == sys.version.split()[0]
import ensurepip
"""
"""Whether a Python finds the shared library of its very own version, and can make environments."""


class Requirements(NamedTuple):
    """What a peer's environment needs.

    Args:
        name: The environment's.
        packages: Lists of pinned packages, the first that can be installed is taken.
        needs_shared_python: Whether its binaries load libpython.
    """

    name: str
    packages: tuple[tuple[str, ...], ...]
    needs_shared_python: bool = False


class Environment(NamedTuple):
    """An environment that is there, or why it is not.

    Args:
        python: Its interpreter.
        packages: What was installed.
        reason: Why it is missing, "" if it is there.
    """

    python: Path
    packages: str
    reason: str = ""


def find(needed: Requirements, folder: Path, *, say: Callable[[str], None]) -> Environment:
    """Return a peer's environment; install it if it is not there.

    Args:
        needed: What it needs.
        folder: Of all environments.
        say: Takes a line of progress.
    """
    target = folder / needed.name
    python = target / "bin" / "python"
    if (target / DONE).exists():
        return Environment(python, (target / DONE).read_text().strip())
    base = _shared_python() if needed.needs_shared_python else sys.executable
    if not base:
        reason = "no Python here has the shared libpython of its very own version"
        return Environment(python, "", f"{reason} (on Debian: apt install libpython3.11)")
    shutil.rmtree(target, ignore_errors=True)
    reason = ""
    for packages in needed.packages:
        listed = " ".join((*packages, TENSORFLOW))
        say(f"{needed.name}: installing {listed}")
        reason = _run([base, "-m", "venv", str(target)]) or _run(
            [str(python), "-m", "pip", "install", "--quiet", *packages, TENSORFLOW]
        )
        if not reason:
            (target / DONE).write_text(listed)
            return Environment(python, listed)
        say(f"{needed.name}: {reason}")
    return Environment(python, "", reason)


def _run(command: list[str]) -> str:
    """Run a command; return its last error, "" if there was none."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr]
    return errors[-1].strip()[-300:]


def _shared_python() -> str:
    """Return a Python that finds its own shared library, "" if there is none."""
    versions = [f"/usr/bin/python3.{minor}" for minor in (11, 12, 10)]
    for candidate in (sys.executable, *versions):
        try:
            found = subprocess.run([candidate, "-c", SHARED], capture_output=True, check=False)
        except OSError:
            continue
        if found.returncode == 0:
            return candidate
    return ""
