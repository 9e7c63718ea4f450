"""The run directory: private, locked, found, and removed once its server is gone."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tfrunner.config import RunFile
from tfrunner.errors import ConfigError, NotFound
from tfrunner.rundir import RunDirectory, find_server, remove_stale, running_servers

RUN_FILE = RunFile(1, "http://127.0.0.1:8000", ("ipc:///x/frontend",), ("echo:1",))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give the folder of all run directories; it does not exist yet."""
    return tmp_path / "run"


def test_the_folder_is_private_and_goes_with_its_server(root: Path) -> None:
    """Nobody else may look into it, and nothing stays behind."""
    with RunDirectory(root) as directory:
        assert directory.path.stat().st_mode & 0o777 == 0o700
        assert root.stat().st_mode & 0o777 == 0o700
        (directory.path / "frontend").touch()
    assert not directory.path.exists()


def test_two_servers_have_two_folders_and_leave_each_other_alone(root: Path) -> None:
    """Starting a second server removes nothing of the first."""
    with RunDirectory(root) as first:
        first.publish(RUN_FILE)
        with RunDirectory(root) as second:
            assert second.path != first.path
            assert second.frontend != first.frontend
        assert running_servers(root) == [RUN_FILE]


def test_a_folder_that_is_taken_is_not_taken_again(root: Path) -> None:
    """Two servers never share sockets: the one that holds the lock owns the path."""
    with RunDirectory(root) as first:
        second = RunDirectory(root)
        second.path = first.path
        with pytest.raises(ConfigError, match="another server"):
            second.__enter__()
        assert first.path.exists()


def test_a_killed_server_is_not_found_and_the_next_one_removes_its_folder(root: Path) -> None:
    """The kernel drops the lock with the process, whatever became of it."""
    code = (
        "import os, sys, signal, pathlib; from tfrunner.rundir import RunDirectory;"
        "from tfrunner.config import RunFile;"
        "d = RunDirectory(pathlib.Path(sys.argv[1])).__enter__();"
        "d.publish(RunFile(os.getpid(), 'http://x', (), ()));"
        "print(d.path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, timeout=60, check=False
    )
    left = Path(done.stdout.decode().strip())
    assert (left / "run.json").exists()
    assert running_servers(root) == []
    with RunDirectory(root):
        assert not left.exists()


def test_looking_at_a_folder_that_is_being_removed_leaves_nothing_in_it(root: Path) -> None:
    """The server removes its lock before `run.json`; a new one would keep the folder for ever."""
    with RunDirectory(root) as directory:
        directory.publish(RUN_FILE)
        (directory.path / "lock").unlink()
        assert running_servers(root) == []
        assert [path.name for path in directory.path.iterdir()] == ["run.json"]


def test_two_that_look_at_once_do_not_take_each_other_for_a_server(root: Path) -> None:
    """One looks at the lock of a server that was killed while the other does."""
    with RunDirectory(root) as directory:
        directory.publish(RUN_FILE)
        left = shutil.copytree(directory.path, root / "left")
    descriptor = os.open(left / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert running_servers(root) == []
    os.close(descriptor)


def test_a_folder_that_is_being_made_is_not_stale(root: Path) -> None:
    """A folder without a lock file yet belongs to a server that is starting."""
    with RunDirectory(root):
        starting = root / "starting-server"
        starting.mkdir()
        remove_stale(root)
        assert starting.exists()


def test_a_root_that_others_may_enter_is_refused(root: Path) -> None:
    """The message says what is wrong and how to mend it."""
    root.mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="chmod 700"), RunDirectory(root):
        pass
    os.chmod(root, 0o700)
    with RunDirectory(root) as directory:
        assert directory.path.exists()


def test_the_one_server_is_found(root: Path) -> None:
    """A server is found from `publish` on, as it published itself."""
    with pytest.raises(NotFound, match="tfrunner serve"):
        find_server(root)
    with RunDirectory(root) as directory:
        with pytest.raises(NotFound):
            find_server(root)
        directory.publish(RUN_FILE)
        assert find_server(root) == RUN_FILE
    with pytest.raises(NotFound):
        find_server(root)


def test_several_servers_are_named_and_none_is_chosen(root: Path) -> None:
    """Whoever calls must say which."""
    with RunDirectory(root) as first, RunDirectory(root) as second:
        first.publish(RUN_FILE)
        second.publish(RunFile(2, "http://127.0.0.1:8001", (), ()))
        with pytest.raises(NotFound, match=r"2 servers.*8000|2 servers.*8001"):
            find_server(root)


def test_an_unreadable_run_file_is_passed_over(root: Path) -> None:
    """One broken file does not hide the other servers."""
    with RunDirectory(root) as broken, RunDirectory(root) as good:
        (broken.path / "run.json").write_text("{")
        good.publish(RUN_FILE)
        assert running_servers(root) == [RUN_FILE]


FULL = """
import pathlib, resource, sys
from tfrunner.rundir import RunDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with RunDirectory(pathlib.Path(sys.argv[1])):
    print("made")
"""


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_is_found_out_before_anything_starts(root: Path, room: int) -> None:
    """Otherwise an empty `run.json` would be missed only once the models are loaded."""
    command = [sys.executable, "-c", FULL, str(root), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert f"the run directory below {root} cannot be used: File too large. Make room" in last
    assert [path.name for path in root.iterdir()] == ["starting"]


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands in its way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"below .*/file/run cannot be used: Not a directory"):
        RunDirectory(tmp_path / "file" / "run").__enter__()
