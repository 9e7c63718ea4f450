"""Configurations of any length reach every kind of process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.waiting import LIMIT, wait_for
from tfrunner.config import NewRole, ServedModel, SpareConfig, WorkerConfig, from_argument
from tfrunner.errors import ConfigError
from tfrunner.supervisor.children import CANNOT_START, Children, Command
from tfrunner.supervisor.handover import SHORT, Letterbox, handed_over, nameless_file
from tfrunner.testing import ServedClient, serve

LONG = 3_000_000
"""Bytes: more than a command line, an argument, and a pipe of a usual user have room for."""

READS_AND_PRINTS = """
import sys
from tfrunner.config import ServedModel, from_argument
print(len(from_argument(ServedModel, sys.argv[1]).spec))
"""

WITHOUT_FILES = """
import resource, sys
from tfrunner.config import ServedModel, from_argument
from tfrunner.supervisor.handover import handed_over
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
given = ServedModel("m:1", b"x" * 20_000)
with handed_over(given, "worker-m-0-1") as argument:
    assert from_argument(ServedModel, argument.text) == given
    print(argument.descriptors)
"""


def model(length: int) -> ServedModel:
    """Return a model whose specification is so long, and ends in a way of its own."""
    return ServedModel("m:1", b"x" * length + b"end")


def open_files() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("length", [0, SHORT, 200_000, LONG])
def test_a_configuration_of_any_length_reaches_a_process(length: int) -> None:
    """A long one is no argument, so that `ps` stays readable; no file stays open."""
    before = open_files()
    with handed_over(model(length), "worker-m-0-1") as argument:
        command = [sys.executable, "-c", READS_AND_PRINTS, argument.text]
        said = subprocess.check_output(command, pass_fds=argument.descriptors, timeout=LIMIT)
    assert int(said) == length + len(b"end")
    assert len(argument.text) <= SHORT
    if length >= SHORT:
        assert argument.text == f"worker-m-0-1@{argument.descriptors[0]}"
    assert open_files() == before


def test_without_room_for_a_file_it_stands_on_the_command_line() -> None:
    """A full disk keeps no worker from being started again that could be before."""
    command = [sys.executable, "-c", WITHOUT_FILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "()\n"
    assert "the configuration of worker-m-0-1 lies in no file" in done.stderr


@pytest.mark.parametrize("length", [10, LONG])
def test_what_a_waiting_process_is_told_may_have_any_length(length: int) -> None:
    """The line stays short: a pipe has room for 64 KB before anybody reads."""
    role = NewRole(WorkerConfig("worker-m-0-1", "ipc:///b", model(length)), {"A": "b"})
    before = open_files()
    letterbox = Letterbox(nameless_file())
    line = letterbox.put(role, "worker-m-0-1")
    inherited = os.dup(letterbox.descriptor)
    letterbox.close()
    os.dup2(inherited, letterbox.descriptor)  # as in the process, which has the same number
    os.close(inherited)
    assert len(line) <= SHORT
    assert from_argument(NewRole, line + "\n") == role
    if length < SHORT:
        letterbox.close()
    assert open_files() == before


@pytest.mark.parametrize("text", ["worker-m-0-1@", "worker-m-0-1@99999", "@0", "worker-m-0-1@²"])
def test_a_file_that_is_not_there_is_an_unreadable_configuration(text: str) -> None:
    """One line, as for any other text."""
    with pytest.raises(ConfigError, match="unreadable"):
        from_argument(ServedModel, text)


def test_an_environment_that_is_too_long_is_said_with_what_to_do(caplog) -> None:
    """The system's own words alone name no cause."""
    children, spare = Children(), SpareConfig("spare-0-1")
    long = {"A": "x" * 200_000}
    before = open_files()
    for is_told in (False, True):
        command = Command("tfrunner", spare, spare.name, environment=long, is_told=is_told)
        assert children.start("spare-0", command) is None
        assert children.reap() == [("spare-0", CANNOT_START)]
    assert "spare-0 cannot be started" in caplog.text
    assert "unset what no process needs" in caplog.text
    assert open_files() == before


SERVICE = f"""
import tfrunner

class Long(tfrunner.Runnable):
    @tfrunner.Runnable.method(batchable=True)
    def predict(self, x):
        return x

    @tfrunner.Runnable.method(batchable=False)
    def names(self, x, known="name " * ({LONG} // 5)):
        return len(known)

svc = tfrunner.Service("long", runners=[tfrunner.Runner(Long, name="long")])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServedClient]:
    """Serve what makes the configuration of every process long."""
    (tmp_path / "long_service.py").write_text(SERVICE)
    origins = [f"https://host-{number}.example.org" for number in range(6000)]
    file = tmp_path / "tfrunner.toml"
    file.write_text(f"[serve]\ncors_origin = {origins}\n")
    with serve(f"{tmp_path}/long_service.py", config=file, spares=1) as client:
        yield client


def test_a_server_with_long_configurations_serves_and_replaces(server: ServedClient) -> None:
    """Dispatcher, api process, worker and spare; `ps` shows each by its name."""

    def lines() -> dict[str, list[str]]:
        found = [child.cmdline() for child in psutil.Process(server.pid).children()]
        return {line[2]: line for line in found if len(line) > 2}

    row = np.ones((1, 2))
    np.testing.assert_array_equal(server.predict("long", row), row)
    wait_for(lambda: "tfrunner_workers.spare" in lines())  # not before it is Python anew
    shown = lines()
    assert {name: len(line) for name, line in shown.items()} == dict.fromkeys(shown, 4)
    assert shown["tfrunner.dispatcher"][3].startswith("dispatcher-1@")
    assert shown["tfrunner.api"][3].startswith("api-0-1@")
    assert shown["tfrunner_workers"][3].startswith("worker-long-0-1@")
    assert '"name":"spare-0-1"' in shown["tfrunner_workers.spare"][3]

    (worker,) = server.status()["workers"].values()
    psutil.Process(worker["pid"]).kill()
    np.testing.assert_array_equal(server.predict("long", row, timeout=LIMIT), row)
    assert list(server.status()["workers"]) == ["worker-long-0-2"]
    assert "worker-long-0-2 started from spare-0," in server.log.read_text()
