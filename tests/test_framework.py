"""TensorFlow's import: its start-up notes are kept away, errors are not."""

from __future__ import annotations

import signal
import subprocess
import sys

CASE = """
import os, sys
from tfrunner.framework import without_chatter

with without_chatter():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\\n")
    os.write(2, b"I0000 00:00:1.0 1 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1.0 1 cuda.cc:1] no driver\\n")
    print("a warning of Python", file=sys.stderr, flush=True)
os.write(2, b"I0000 afterwards\\n")
with without_chatter():
    {last}
"""


def run(last: str) -> subprocess.CompletedProcess[str]:
    """Run the case in a process of its own."""
    command = [sys.executable, "-c", CASE.format(last=last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_notes_are_dropped_and_everything_else_is_written():
    """Errors of native code, lines of Python, and what is written afterwards."""
    done = run("pass")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "E0000 00:00:1.0 1 cuda.cc:1] no driver",
        "a warning of Python",
        "I0000 afterwards",
    ]


def test_a_crash_inside_is_reported():
    """The report of Python says where."""
    done = run("os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr


def test_an_exception_inside_goes_on_and_stderr_works_again():
    """The traceback is seen."""
    done = run("raise ImportError('not this one')")
    assert done.returncode == 1
    assert "ImportError: not this one" in done.stderr
