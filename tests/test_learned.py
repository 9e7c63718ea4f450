"""The learned files: kept over restarts; whatever is wrong with them, serving goes on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfrunner.config import DispatcherConfig, ServedModel, WorkerConfig
from tfrunner.dispatcher.checks import check
from tfrunner.dispatcher.costbook import CostBook
from tfrunner.dispatcher.learned import SAVE_SECONDS, Learned
from tfrunner.errors import ConfigError
from tfrunner.learned_file import Plan, file_name, read_all
from tfrunner.learned_file import folder as folder_of
from tfrunner_workers import recall
from tfrunner_workers.devices import device_class

TAG = "digits:v1"
KIND = "NVIDIA H100, TensorFlow 2.21"


def taught() -> CostBook:
    """Return a book that knows two sizes."""
    book = CostBook()
    for rows, seconds in ((1, 0.001), (8, 0.004)):
        for _ in range(5):
            book.table("__call__", KIND).observe(rows, seconds)
    return book


def save(home: Path, book: CostBook) -> None:
    """Write the files of a book, as at the end of a dispatcher."""
    Learned(str(home), {TAG: book}, now=0.0).close(10.0)


def recalled(home: Path) -> CostBook:
    """Return what a new dispatcher knows."""
    book = CostBook()
    Learned(str(home), {TAG: book}, now=0.0).load()
    return book


def the_file(home: Path) -> Path:
    """Return the one file that is there, hidden ones included."""
    (file,) = (home / "learned" / "digits" / "v1").iterdir()
    return file


def test_what_was_learned_is_known_after_a_restart(tmp_path: Path):
    """The file says of which model and class of devices it speaks, and no other file is left."""
    save(tmp_path, taught())
    assert the_file(tmp_path).name == "NVIDIA_H100,_TensorFlow_2.21.json"
    table = recalled(tmp_path).table("__call__", KIND)
    assert table.predict(8) == pytest.approx(0.004)


def test_plans_are_kept_and_a_worker_finds_those_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By method; those of another class of devices are none of its business."""
    monkeypatch.setenv("TFRUNNER_HOME", str(tmp_path))
    config = WorkerConfig("w", "ipc://nowhere", ServedModel(TAG, b""), threads=3)
    own = device_class("cpu", 3)
    book = taught()
    book.seed("__call__", own, [(1, 0.001)])
    book.plans = {own: {"__call__": Plan("frozen", 3.5, "faster")}, KIND: {"__call__": Plan("xla")}}
    assert recall.plans(config, 3) == {}
    save(tmp_path, book)
    assert recall.plans(config, 3) == book.plans[own]
    assert recall.plans(config, 1) == {}
    assert recalled(tmp_path).plans == book.plans
    assert {kept.device_class for kept in read_all(tmp_path, TAG)} == {own, KIND}


@pytest.mark.parametrize(
    ("cpu_seconds", "device", "expected"),
    [
        ([0.0004], "cpu", 1),
        ([0.0019, 0.0001], "cpu", 1),
        ([0.0021, 0.0001], "cpu", 3),
        ([0.0004, 0.0], "cpu", 3),
        ([], "cpu", 3),
        ([0.0004], "0", 3),
    ],
    ids=["small", "two small", "one is not", "one not measured", "nothing known", "on a GPU"],
)
def test_one_thread_is_enough_where_full_batches_cost_little(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpu_seconds: list[float],
    device: str,
    expected: int,
):
    """All methods must, as measured with all threads."""
    monkeypatch.setenv("TFRUNNER_HOME", str(tmp_path))
    config = WorkerConfig("w", "ipc://nowhere", ServedModel(TAG, b""), device=device, threads=3)
    assert recall.threads(config) == 3
    own = device_class("cpu", 3)
    book = taught()
    book.seed("__call__", own, [(1, 0.001)])
    book.plans = {
        own: {f"m{n}": Plan("frozen", cpu_seconds=each) for n, each in enumerate(cpu_seconds)},
        device_class("cpu", 1): {"m0": Plan("frozen", cpu_seconds=0.1)},
    }
    save(tmp_path, book)
    assert recall.threads(config) == expected


def test_a_plan_that_was_timed_is_not_forgotten_when_it_is_chosen_again():
    """Only another one, or a new measurement, takes its place."""
    book, timed = CostBook(), Plan("frozen", 3.5, "3.5 times as fast")
    book.note_plan("f", KIND, timed)
    book.note_plan("f", KIND, Plan("frozen", 0.0, "chosen before"))
    assert book.plans[KIND]["f"] == timed
    for other in (Plan("frozen", 2.0, "slower by now"), Plan("reference")):
        book.note_plan("f", KIND, other)
        assert book.plans[KIND]["f"] == other


def test_what_a_full_batch_costs_is_kept_with_its_plan():
    """Until it is measured again."""
    book = CostBook()
    for told, kept in ((0.5, 0.5), (0.0, 0.5), (0.25, 0.25)):
        book.note_plan("f", KIND, Plan("frozen", cpu_seconds=told))
        assert book.plans[KIND]["f"] == Plan("frozen", cpu_seconds=kept)


def test_files_are_written_while_it_serves_and_not_all_the_time(tmp_path: Path):
    """Every minute, beside the serving."""
    learned = Learned(str(tmp_path), {TAG: taught()}, now=0.0)
    learned.save_in_time(SAVE_SECONDS - 1)
    assert not (tmp_path / "learned").exists()
    learned.save_in_time(SAVE_SECONDS + 1)
    assert learned._thread is not None
    learned._thread.join(10.0)
    assert the_file(tmp_path).exists()


def test_nothing_is_kept_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in tests, and for a model that has no folder."""
    monkeypatch.chdir(tmp_path)
    learned = Learned("", {TAG: taught()}, now=0.0)
    learned.load()
    learned.save_in_time(1e6)
    learned.close(10.0)
    assert list(tmp_path.iterdir()) == []


GOOD = {"format": 1, "model": TAG, "device_class": KIND, "methods": {"f": {"1": [[1, 0.1, 0.0]]}}}

BROKEN = {
    "nothing": b"",
    "no-json": b"{",
    "random-bytes": bytes(range(256)),
    "cut-short": json.dumps(GOOD).encode()[:-5],
    "another-format": json.dumps({**GOOD, "format": 2}).encode(),
    "another-model": json.dumps({**GOOD, "model": "digits:v2"}).encode(),
    "a-field-too-many": json.dumps({**GOOD, "more": 1}).encode(),
    "no-table": json.dumps({**GOOD, "methods": {"f": {"1": "x"}}}).encode(),
    "negative-seconds": json.dumps({**GOOD, "methods": {"f": {"1": [[1, -1, 0]]}}}).encode(),
    "too-large": b" " * (2**20 + 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_wrong_is_ignored_with_one_line(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """And replaced by a good one at the next saving."""
    save(tmp_path, taught())
    the_file(tmp_path).write_bytes(BROKEN[name])
    with caplog.at_level(logging.WARNING):
        book = recalled(tmp_path)
    assert book.device_classes() == []
    (record,) = caplog.records
    assert str(the_file(tmp_path)) in record.getMessage()
    save(tmp_path, taught())
    assert recalled(tmp_path).device_classes() == [KIND]


def test_the_file_of_these_tests_would_be_taken_unchanged(tmp_path: Path):
    """The refusals above are due to what was changed."""
    save(tmp_path, taught())
    the_file(tmp_path).write_text(json.dumps(GOOD))
    assert recalled(tmp_path).table("f", KIND).predict(1) == pytest.approx(0.1)


ON_A_FULL_DISK = """
import logging, resource, sys
from tests.test_learned import KIND, TAG, Learned, taught
book = taught()
for _ in range(10):
    book.table("__call__", KIND).observe(64, 0.020)
learned = Learned(sys.argv[1], {TAG: book}, now=0.0)
logging.basicConfig(format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
for _ in range(3):
    learned.close(10.0)
"""
"""In a process of its own: the limit holds for every file that a process writes."""


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path):
    """The file that was there stays whole, and nothing half-written is left."""
    save(tmp_path, taught())
    before = the_file(tmp_path).read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("WARNING")) == (0, 1), done.stderr
    assert "cannot be kept" in done.stderr
    assert the_file(tmp_path).read_bytes() == before


def test_a_home_that_is_no_folder_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Whatever the reason: a file in the way, no rights, no such disk."""
    home = tmp_path / "home"
    home.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        save(home, taught())
        assert recalled(home).device_classes() == []
    assert len(caplog.records) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """As above."""
    tmp_path.chmod(0o500)
    with caplog.at_level(logging.WARNING):
        save(tmp_path, taught())
    tmp_path.chmod(0o700)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cpu", "cpu.json"),
        ("../../etc/passwd", "_.._etc_passwd.json"),
        ("a b\x00c", "a_b_c.json"),
        ("x" * 500, "x" * 100 + ".json"),
    ],
    ids=["plain", "a-way-out", "odd-characters", "long"],
)
def test_a_class_of_devices_makes_a_safe_name(kind: str, name: str):
    """It comes from drivers."""
    assert file_name(kind) == name


# --- nonsense is refused at the start -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"queue_requests": 0}, "queue_requests"),
        ({"queue_bytes": -1}, "queue_bytes"),
        ({"method_sizes": {"f": 0}}, "method_sizes.f"),
    ],
)
def test_nonsense_of_a_model_is_refused_by_key_and_reason(changes: dict[str, object], key: str):
    """Before anything is bound."""
    served = ServedModel(TAG, b"", **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{key} of model {TAG} is .*; expected at least 1"):
        check(DispatcherConfig(("f",), "b", (served,)))


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"hold": -1}, "hold"), ({"grace": -1.0}, "grace"), ({"grace": float("nan")}, "grace")],
)
def test_nonsense_of_the_dispatcher_is_refused(changes: dict[str, object], key: str):
    """Before anything is bound."""
    config = DispatcherConfig(("f",), "b", (ServedModel(TAG, b""),), **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"{key} is"):
        check(config)


def test_a_tag_is_served_once():
    """And what makes sense is not refused."""
    served = ServedModel(TAG, b"")
    check(DispatcherConfig(("f",), "b", (served,)))
    with pytest.raises(ConfigError, match="twice"):
        check(DispatcherConfig(("f",), "b", (served, served)))


def test_a_file_that_is_nested_without_end_is_ignored_like_any_other(tmp_path, caplog):
    """One line in the log, for the dispatcher and for whoever reads all of them."""
    folder = folder_of(tmp_path, "m:1")
    folder.mkdir(parents=True)
    deep = b'{"format":1,"model":"m:1","device_class":"x","methods":{"a":%b}}'
    (folder / "x.json").write_bytes(deep % (b"[" * 100_000 + b"]" * 100_000))
    Learned(str(tmp_path), {"m:1": CostBook()}, now=0.0).load()
    assert "nested too deeply" in caplog.text
    assert list(read_all(tmp_path, "m:1")) == []
