"""The check at the end of a run finds what it is there to find."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.leftovers import MARK, look
from tests.waiting import wait_for


def found_by(change, run_root: Path) -> str:
    """Return what is new after `change`, in words."""
    before = look(os.environ[MARK], run_root)
    change()
    return "; ".join(look(os.environ[MARK], run_root).since(before))


def test_a_process_without_its_parent_is_found(run_root):
    """A grandchild whose parent has ended still carries the mark."""
    code = "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=s.DEVNULL).pid)"
    before = look(os.environ[MARK], run_root)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    pid = int(done.stdout)
    try:
        # A process that has only just begun its program shows no environment yet.
        found = wait_for(lambda: look(os.environ[MARK], run_root).since(before))
        assert f"{pid} sleep 60" in found[0]
    finally:
        os.kill(pid, 9)


def test_a_socket_that_listens_is_found(run_root):
    """A port that this process still holds counts."""
    held: list[socket.socket] = []
    found = found_by(lambda: held.append(socket.create_server(("127.0.0.1", 0))), run_root)
    with held[0] as listener:
        assert f"ports: {listener.getsockname()[1]}" in found


def test_a_run_directory_is_found(run_root):
    """A server's folder that is still there counts."""
    assert "run directories" in found_by((run_root / "abcd").mkdir, run_root)


def test_nothing_new_is_nothing_found(run_root):
    """A quiet moment is clean."""
    assert found_by(lambda: None, run_root) == ""
