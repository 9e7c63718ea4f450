"""The check at the end of a run finds what it is there to find."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import MARK, MEMORY, look
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


@pytest.fixture
def memory_file() -> Iterator[Path]:
    """Return the path of a file in shared memory that is not there yet."""
    path = MEMORY / f"tfrunner-test-{secrets.token_hex(8)}"
    yield path
    path.unlink(missing_ok=True)


def test_a_memory_file_is_found(run_root, memory_file):
    """Whoever made it: nobody holds it any more, or a process of ours does."""
    assert f"memory files: {memory_file}" in found_by(memory_file.touch, run_root)


@pytest.mark.parametrize("way", ["open", "mapped"])
def test_what_somebody_else_holds_in_shared_memory_is_not_ours(run_root, memory_file, way):
    """Another program on the machine, or another run of these tests."""
    code = (
        "import mmap, sys; file = open(sys.argv[1], 'w+b'); file.truncate(4096)\n"
        "if sys.argv[2] == 'mapped': view = mmap.mmap(file.fileno(), 4096); file.close()\n"
        "print('made', flush=True); sys.stdin.read()"
    )
    before = look(os.environ[MARK], run_root)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(memory_file), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: "another run"},
    ) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == b"made\n"
        try:
            assert not look(os.environ[MARK], run_root).memory_files - before.memory_files
        finally:
            other.kill()
    assert str(memory_file) in look(os.environ[MARK], run_root).memory_files


def test_nothing_new_is_nothing_found(run_root):
    """A quiet moment is clean."""
    assert found_by(lambda: None, run_root) == ""
