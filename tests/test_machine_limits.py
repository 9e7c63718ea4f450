"""What the supervisor does about open files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT
from tfrunner.api.__main__ import OWN_DESCRIPTORS, SURPLUS
from tfrunner.supervisor.machine import LEAST_FILES

LIMITED = """
import resource, sys
from tfrunner.errors import ConfigError
from tfrunner.supervisor.machine import allow_open_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    allow_open_files()
except ConfigError as exc:
    print(exc.message)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def said(soft: int, hard: int) -> str:
    """Return what a process with such limits says: its new limit, or why it is too low."""
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    return subprocess.check_output(command, text=True, timeout=LIMIT).strip()


def test_all_processes_may_open_as_many_files_as_the_system_allows() -> None:
    """Inherited from the supervisor: the dispatcher needs one for each client."""
    assert said(64, 700) == "700"


@pytest.mark.parametrize("hard", [64, LEAST_FILES - 1])
def test_too_few_open_files_are_named_with_what_to_do(hard: int) -> None:
    """Before an api process says the same after the models were loaded."""
    assert said(64, hard).startswith(f"a process may open {hard} files here; a server needs at")
    assert said(64, hard).endswith("Raise the limit with `ulimit -n`.")
    assert said(64, LEAST_FILES) == str(LEAST_FILES)
    assert OWN_DESCRIPTORS + SURPLUS < LEAST_FILES


@pytest.mark.parametrize("trouble", ["files", "disk"])
def test_a_server_that_cannot_start_says_so_in_one_line(run_root: Path, trouble: str) -> None:
    """No process is started, and nothing is left."""
    limits = {"files": "RLIMIT_NOFILE, (64, 64)", "disk": "RLIMIT_FSIZE, (0, 0)"}
    code = (
        f"import resource; resource.setrlimit(resource.{limits[trouble]});"
        "from tfrunner.cli import main; main(['serve', '--echo', '--port', '0'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert [path for path in run_root.iterdir() if path.is_dir()] == []
