"""The built wheel: the same files as the tree, and it works from there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of LICENSE-2.0.txt."""

CASE = """
import sys
import numpy as np
import tfrunner, tfrunner_workers
from tfrunner.testing import serve

assert tfrunner.__file__.startswith(sys.argv[1]), tfrunner.__file__
assert tfrunner_workers.__file__.startswith(sys.argv[1]), tfrunner_workers.__file__
with serve("echo", echo=True) as client:
    rows = np.arange(4, dtype="float32").reshape(2, 2)
    assert (client.predict("echo", rows) == rows).all()
    with tfrunner.Client(client.http_address) as http:
        assert (http.predict("echo", rows) == rows).all()
print("served")
"""


def source_files(folder: Path, package: str) -> set[str]:
    """Return the files of a package in the tree that belong into a wheel."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the tree, so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("tfrunner", "workers"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (folder / "out").glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_both_packages_and_no_other(wheel):
    """A list of packages silently forgets new ones; files of data are forgotten too."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = source_files(ROOT, "tfrunner") | source_files(ROOT / "workers", "tfrunner_workers")
    assert packed == expected


def test_the_wheel_has_the_license_that_it_names(wheel):
    """Word for word as the Apache Software Foundation publishes it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/licenses/LICENSE"))
        text = archive.read(name)
    assert hashlib.sha256(text).hexdigest() == APACHE_2


def test_a_server_runs_from_the_wheel(wheel, tmp_path, run_root):
    """Both ways to call it; nothing is taken from the tree."""
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-c", CASE, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "served\n"


def test_every_dependency_has_its_reason_written_down(wheel):
    """docs/dependencies.md names what the wheel asks for, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    asked = set(re.findall(r"^Requires-Dist: ([A-Za-z0-9-]+)", metadata, re.M))
    always, extras = (ROOT / "docs/dependencies.md").read_text().split("## Extras")
    named = packages_in(always, column=0) | packages_in(extras, column=1)
    assert asked == named


def test_every_dependency_is_imported_somewhere():
    """What nothing uses any more is not asked for; httptools is uvicorn's choice of parser."""
    sources = [*(ROOT / "tfrunner").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.M))
    (listed,) = re.findall(r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text(), re.M | re.S)
    asked = re.findall(r'"([A-Za-z0-9-]+)', listed)
    assert len(asked) > 10
    names = {"pysimdjson": "simdjson", "pyyaml": "yaml", "pyzmq": "zmq", "httptools": "uvicorn"}
    unused = [each for each in asked if names.get(each, each.replace("-", "_")) not in imported]
    assert unused == []


def packages_in(text: str, *, column: int) -> set[str]:
    """Return the packages that a column of the tables in a page names."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [row[column] for row in rows if "---" not in row[0] and "why" not in row[-1]]
    return {word.split("[")[0].strip() for cell in cells for word in cell.split(",")}
