"""What all tests share: homes of their own, and a check that a run leaves nothing behind."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.leftovers import MARK, Snapshot, look, marked_processes

START = pytest.StashKey[Snapshot]()
MINE = pytest.StashKey[Path]()

# Hypothesis' own profile for CI draws the same examples in every run. Ours are new ones, and what
# fails says how to see it again. How long an example takes says more about the machine than of it.
settings.register_profile(
    "tfrunner",
    derandomize=False,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tfrunner")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault suite be run in its long form."""
    parser.addoption(
        "--long", action="store_true", help="the long form of tests/faults and of the invariant"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Give the run a home and a short run root, and remember what there is."""
    # Short, because the path of a Unix socket has at most 107 characters.
    mine = Path(tempfile.mkdtemp(prefix="tfr", dir="/tmp"))
    os.environ[MARK] = secrets.token_hex(8)
    os.environ["TFRUNNER_HOME"] = str(mine / "home")
    os.environ["TFRUNNER_RUN_DIR"] = str(mine / "run")
    os.environ.pop("TFRUNNER_ADDRESS", None)
    session.config.stash[MINE] = mine
    session.config.stash[START] = look(os.environ[MARK], mine / "run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if it left something behind."""
    start, mine = session.config.stash.get(START, None), session.config.stash.get(MINE, None)
    if start is None or mine is None:
        return
    left = look(os.environ[MARK], mine / "run").since(start)
    for process in marked_processes(os.environ[MARK]):
        process.kill()
    shutil.rmtree(mine, ignore_errors=True)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for line in left if reporter is not None else ():
            reporter.write_line(f"LEFT BEHIND {line}", red=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty TFRUNNER_HOME of the test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("TFRUNNER_HOME", str(path))
    return path


@pytest.fixture
def run_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a TFRUNNER_RUN_DIR of the test's own, with a short path."""
    path = Path(tempfile.mkdtemp(prefix="tfr", dir="/tmp"))
    monkeypatch.setenv("TFRUNNER_RUN_DIR", str(path))
    yield path
    shutil.rmtree(path, ignore_errors=True)
