"""The files of monitors: rotation, names, and disks that take nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from tfrunner.monitor_files import RotatedFile


def write(file: RotatedFile, *lines: str) -> None:
    """Append lines."""
    file.write(deque(f"{line}\n".encode() for line in lines))


def contents(folder: Path) -> dict[str, str]:
    """Return what the files hold, by name; locks apart."""
    found = sorted(folder.iterdir())
    return {each.name: each.read_text() for each in found if not each.name.startswith(".")}


def test_files_are_rotated_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    """No file is larger than its limit, no line is cut, and nothing is lost before its time."""
    file = RotatedFile(tmp_path, "api-0", limit=10, keep=3)
    write(file, "aaa", "bbb", "ccc")
    write(file, "ddd")
    assert contents(tmp_path) == {"api-0.jsonl": "ccc\nddd\n", "api-0.jsonl.1": "aaa\nbbb\n"}
    write(file, "eee", "fff", "ggg", "hhh", "iii")
    file.close()
    assert contents(tmp_path) == {
        "api-0.jsonl": "iii\n",
        "api-0.jsonl.1": "ggg\nhhh\n",
        "api-0.jsonl.2": "eee\nfff\n",
    }


def test_a_line_above_the_limit_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """It is not cut; with one file kept, that one is begun anew."""
    file = RotatedFile(tmp_path, "api-0", limit=10, keep=1)
    write(file, "aaa", "x" * 50, "bbb")
    file.close()
    assert contents(tmp_path) == {"api-0.jsonl": "bbb\n"}


def test_a_process_that_comes_again_goes_on_with_its_file(tmp_path: Path) -> None:
    """A line that a killed process has cut is ended first."""
    (tmp_path / "api-0.jsonl").write_text('{"a": 1}\n{"b"')
    file = RotatedFile(tmp_path, "api-0", limit=1000, keep=3)
    write(file, "next")
    file.close()
    assert contents(tmp_path) == {"api-0.jsonl": '{"a": 1}\n{"b"\nnext\n'}


def test_two_processes_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    """Two servers with the same folder; the name is free again when its owner ends."""
    first, second = (RotatedFile(tmp_path, "api-0", limit=1000, keep=3) for _ in range(2))
    write(first, "one")
    write(second, "two")
    first.close()
    third = RotatedFile(tmp_path, "api-0", limit=1000, keep=3)
    write(third, "three")
    second.close()
    third.close()
    assert contents(tmp_path) == {"api-0.jsonl": "one\nthree\n", "api-0-2.jsonl": "two\n"}


FULL = """
import json, logging, resource, sys, time
from pathlib import Path
import tfrunner
from tfrunner import monitor_writer
from tfrunner.monitoring import MONITORS
from tfrunner.observation import Observation

logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
folder, room = Path(sys.argv[1]), int(sys.argv[2])
monitor_writer.RETRY_SECONDS = 0.0 if sys.argv[3] == "retry" else 1e9
MONITORS.configure("here-1", Observation(monitor_folder=str(folder)))

def log(number):
    with tfrunner.monitor("full") as record:
        record.log(number, name="number", role="feature", data_type="numerical")
    while MONITORS.writer._size:
        time.sleep(0.001)

log(0)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
for number in range(1, 50):
    log(number)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for number in range(50, 60):
    log(number)
MONITORS.writer.close()
"""


def run_on_full_disk(folder: Path, room: int, mode: str) -> tuple[list[str], list[int]]:
    """Log while files may not grow beyond `room` bytes; return the log, and what was written."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(room), mode],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (folder / "full" / "here.jsonl").read_text()
    return done.stdout.splitlines(), [json.loads(line)["number"] for line in text.splitlines()]


def test_a_full_disk_is_one_line_in_the_log_and_lines_stay_whole(tmp_path: Path) -> None:
    """What was cut is taken back; whoever logs goes on, and does not notice."""
    log, numbers = run_on_full_disk(tmp_path, 500, "once")
    assert numbers == list(range(len(numbers)))
    assert 5 < len(numbers) < 15
    (line,) = log
    assert "cannot be written (File too large)" in line
    assert "its records are dropped until it can" in line


def test_when_the_disk_has_room_again_it_is_said_how_much_was_lost(tmp_path: Path) -> None:
    """And what comes then is written."""
    log, numbers = run_on_full_disk(tmp_path, 500, "retry")
    kept = len(numbers) - 10
    assert numbers == [*range(kept), *range(50, 60)]
    assert len(log) == 2
    assert "cannot be written" in log[0]
    assert f"is written again; {50 - kept} records were dropped" in log[1]


@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_a_folder_that_cannot_be_made_raises_nothing(
    tmp_path: Path, what: str, caplog: Any
) -> None:
    """Nor does a file that is a folder: one line in the log."""
    from tfrunner.monitor_writer import Writer
    from tfrunner.observation import Observation

    if what == "a file":
        (tmp_path / "m").write_text("in the way")
    else:
        (tmp_path / "m" / "here.jsonl").mkdir(parents=True)
    writer = Writer("here", Observation(monitor_folder=str(tmp_path)))
    for _ in range(3):
        writer.put("m", lambda: [b"{}\n"], size=3)
    writer.close()
    (line,) = caplog.messages
    assert "cannot be written" in line and os.fspath(tmp_path) in line
