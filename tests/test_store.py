"""The model store: names, versions, locks, and what is left of a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tfrunner import models
from tfrunner.entry import Model, ModelInfo, dump_info
from tfrunner.errors import AlreadyExists, CorruptModel, InvalidInput, NotFound
from tfrunner.specs import Argument, DictSpec, MethodSpec, TensorSpec
from tfrunner.store import Store
from tfrunner.tags import Tag

METHOD = MethodSpec(
    "__call__",
    (
        Argument(
            "x",
            DictSpec(
                {"b": TensorSpec("b", "float32", (None, 5)), "a": TensorSpec("a", "string", None)}
            ),
        ),
    ),
    TensorSpec("output_0", "float32", (None, 1)),
    batchable=True,
    batch_dim=(1, 0),
)


def info(tag: str, *, time: str = "2026-01-01T00:00:00+00:00", **more: object) -> ModelInfo:
    """Return what a model's `model.yaml` would hold."""
    name, _, version = tag.partition(":")
    return ModelInfo(
        name=name,
        version=version,
        creation_time=time,
        methods={"__call__": METHOD},
        **more,  # type: ignore[arg-type]
    )


def put(store: Store, tag: str, *, time: str = "2026-01-01T00:00:00+00:00") -> Model:
    """Save a model that no TensorFlow could load, but that the store cannot tell."""
    with store.new() as folder:
        (folder / "saved_model").mkdir()
        (folder / "saved_model" / "saved_model.pb").write_bytes(tag.encode())
        return store.commit(folder, info(tag, time=time))


def tags(found: list[Model]) -> list[str]:
    """Return the tags as text."""
    return [str(model.tag) for model in found]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path)


@pytest.fixture
def filled(store: Store) -> Store:
    """Return a store whose newest version was not saved last."""
    put(store, "test:version1", time="2026-01-01T00:00:00+00:00")
    put(store, "test:otherprefix", time="2026-01-02T00:00:00+00:00")
    put(store, "test:version2", time="2026-01-03T00:00:00+00:00")
    put(store, "test:version3", time="2025-01-01T00:00:00+00:00")
    put(store, "test1:version1", time="2026-01-01T00:00:00+00:00")
    return store


def test_a_saved_model_reads_back_as_it_was(store: Store) -> None:
    """Specification, labels, metadata, serial number, hashes."""
    with store.new() as folder:
        (folder / "saved_model").mkdir()
        (folder / "saved_model" / "a.pb").write_bytes(b"abc")
        wanted = info(
            "m:v1", labels={"stage": "prod"}, metadata={"scores": [0.5, 1], "when": "2026-01-01"}
        )
        model = store.commit(folder, wanted)
    read = store.get("m:v1")
    assert read == model
    assert read.spec.methods == {"__call__": METHOD}
    assert list(read.spec.methods["__call__"].arguments[0].spec.items) == ["b", "a"]  # type: ignore[union-attr]
    assert (read.spec.tag, read.spec.serial) == ("m:v1", 1)
    assert read.labels == {"stage": "prod"}
    assert read.metadata == {"scores": [0.5, 1], "when": "2026-01-01"}
    assert read.creation_time.isoformat() == wanted.creation_time
    assert list(read.info.files) == ["saved_model/a.pb"]
    assert read.size == 3
    read.verify()
    assert hash(read) == hash(model)
    assert "m:v1" in repr(read)


def test_equal_infos_give_equal_yaml() -> None:
    """A stored text can be compared."""
    assert dump_info(info("m:v1")) == dump_info(info("m:v1"))


def test_an_entry_of_an_older_release_is_read(store: Store) -> None:
    """It does not say which module saved it, nor whether it was imported."""
    put(store, "m:v1")
    file = store.models / "m" / "v1" / "model.yaml"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(x for x in lines if not x.startswith(("module:", "imported:"))))
    read = store.get("m").info
    assert (read.module, read.imported) == ("tensorflow", False)
    assert len(lines) - len(file.read_text().splitlines()) == 2


def test_list_gives_all_those_of_a_name_or_one(filled: Store) -> None:
    """By name, the newest first."""
    assert tags(filled.list()) == [
        "test:version2",
        "test:otherprefix",
        "test:version1",
        "test:version3",
        "test1:version1",
    ]
    assert tags(filled.list("test1")) == ["test1:version1"]
    assert tags(filled.list("test:version1")) == ["test:version1"]
    assert filled.list("test:nosuch") == []
    with pytest.raises(NotFound, match="Did you mean 'test'"):
        filled.list("tets")


@pytest.mark.parametrize("tag", ["test", "test:latest", Tag("test")], ids=str)
def test_the_latest_is_the_newest_by_creation_time(filled: Store, tag: str | Tag) -> None:
    """Not the one that was written last."""
    assert str(filled.get(tag).tag) == "test:version2"


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ("test:version1", "test:version1"),
        ("test:oth", "test:otherprefix"),
        ("test:4", "test:version3"),
        ("test1:1", "test1:version1"),
    ],
    ids=["exact", "prefix", "serial", "serial of another name"],
)
def test_get_takes_version_prefix_and_serial(filled: Store, tag: str, found: str) -> None:
    """Serial numbers count within a name."""
    assert str(filled.get(tag).tag) == found


def test_get_says_what_there_is(filled: Store) -> None:
    """Unknown names and versions are not found; an ambiguous prefix lists what it fits."""
    with pytest.raises(NotFound, match=r"No model 'text'.*Did you mean 'test'"):
        filled.get("text")
    with pytest.raises(NotFound, match=r"No version 'versoin2'.*Did you mean 'version2'"):
        filled.get("test:versoin2")
    with pytest.raises(InvalidInput, match="version1, version2, version3"):
        filled.get("test:ver")
    with pytest.raises(NotFound, match="'9'"):
        filled.get("test:9")


def test_an_exact_version_comes_before_a_serial_or_prefix(store: Store) -> None:
    """A version may look like either."""
    put(store, "m:2")
    put(store, "m:22")
    assert str(store.get("m:2").tag) == "m:2"


def test_a_taken_version_is_never_overwritten(store: Store) -> None:
    """Saved models never change."""
    put(store, "m:v1")
    before = store.get("m:v1").info
    with pytest.raises(AlreadyExists, match="m:v1"):
        put(store, "m:v1")
    assert store.get("m:v1").info == before


def test_delete_takes_one_version_or_a_whole_name(filled: Store) -> None:
    """Latest moves on; the last version takes the name with it."""
    assert filled.delete("test:latest") == [Tag("test", "version2")]
    assert str(filled.get("test").tag) == "test:otherprefix"
    assert filled.delete("test:oth") == [Tag("test", "otherprefix")]
    assert filled.delete("test1:version1") == [Tag("test1", "version1")]
    assert not (filled.models / "test1").exists()
    assert len(filled.delete("test")) == 2
    assert filled.list() == []
    with pytest.raises(NotFound):
        filled.delete("test")


def test_serial_numbers_are_never_given_twice(store: Store) -> None:
    """Not even after the newest, or all, are deleted."""
    put(store, "m:a")
    put(store, "m:b")
    store.delete("m:b")
    assert put(store, "m:c").spec.serial == 3
    store.delete("m")
    assert put(store, "m:d").spec.serial == 4


def test_stray_files_are_ignored(filled: Store) -> None:
    """In the root and beside the versions."""
    (filled.models / ".DS_store").write_text("")
    (filled.models / "notes.txt").write_text("")
    (filled.models / "Not A Name").mkdir()
    (filled.models / "test1" / ".DS_store").write_text("")
    (filled.models / "test1" / "readme").write_text("")
    (filled.models / "empty").mkdir()
    assert len(filled.list()) == 5
    assert filled.problems() == []
    assert str(filled.get("test1").tag) == "test1:version1"


def test_an_empty_store_lists_nothing(store: Store) -> None:
    """Reading creates no folder."""
    assert store.list() == []
    with pytest.raises(NotFound, match="There are none"):
        store.get("m")
    assert not store.models.exists()


def cut(file: Path) -> None:
    """Shorten a file."""
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no yaml": (lambda path: (path / "model.yaml").unlink(), "model.yaml is missing"),
    "no yaml syntax": (lambda path: (path / "model.yaml").write_text("a: ["), "model.yaml cannot"),
    "binary yaml": (lambda path: (path / "model.yaml").write_bytes(b"\xff\0"), "model.yaml cannot"),
    "empty yaml": (lambda path: (path / "model.yaml").write_text(""), "model.yaml cannot"),
    "wrong type": (
        lambda path: (path / "model.yaml").write_text(
            (path / "model.yaml").read_text().replace("serial: 1", "serial: one")
        ),
        r"model.yaml cannot be read: .*serial",
    ),
    "no time": (
        lambda path: (path / "model.yaml").write_text(
            (path / "model.yaml").read_text().replace("2026-01-01T", "yesterday ")
        ),
        "model.yaml cannot be read",
    ),
    "newer format": (
        lambda path: (path / "model.yaml").write_text(
            (path / "model.yaml").read_text().replace("format: 1", "format: 2")
        ),
        "update tfrunner",
    ),
    "another model's": (
        lambda path: (path / "model.yaml").write_text(
            (path / "model.yaml").read_text().replace("name: m\n", "name: n\n")
        ),
        "that of n:v1",
    ),
    "file missing": (lambda path: (path / "saved_model/saved_model.pb").unlink(), "pb is missing"),
    "file cut": (lambda path: cut(path / "saved_model/saved_model.pb"), "has 3 bytes; 4 were"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_corrupt_entry_is_named_and_harms_no_other(
    store: Store, damage: tuple[Callable[[Path], object], str]
) -> None:
    """Get says file and reason, list leaves it out, delete removes it."""
    act, message = damage
    put(store, "m:v1")
    put(store, "other:v1")
    act(store.models / "m" / "v1")
    with pytest.raises(CorruptModel, match=message):
        store.get("m:v1")
    with pytest.raises(CorruptModel, match=message):
        store.get("m")
    assert tags(store.list()) == ["other:v1"]
    (problem,) = store.problems()
    assert str(store.models / "m" / "v1") in problem.message
    assert store.delete("m:v1") == [Tag("m", "v1")]
    assert store.problems() == []


def test_the_latest_readable_version_stands_in_for_a_corrupt_one(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that names the other."""
    put(store, "m:old", time="2026-01-01T00:00:00+00:00")
    put(store, "m:new", time="2026-01-02T00:00:00+00:00")
    (store.models / "m" / "new" / "model.yaml").unlink()
    assert str(store.get("m").tag) == "m:old"
    assert "m/new/model.yaml is missing" in caplog.text


def test_verify_finds_a_changed_file_of_the_same_size(store: Store) -> None:
    """Get checks sizes only; hashes cost reading everything."""
    put(store, "m:v1")
    (store.models / "m" / "v1" / "saved_model" / "saved_model.pb").write_bytes(b"M:V1")
    with pytest.raises(CorruptModel, match=r"saved_model\.pb is not the file"):
        store.get("m:v1").verify()


def test_a_failing_save_leaves_nothing(store: Store) -> None:
    """The folder of its own is removed."""

    def fail() -> None:
        with store.new() as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("the writer failed")

    with pytest.raises(RuntimeError):
        fail()
    assert list((store.models / ".new").iterdir()) == []
    assert store.list() == []


PUT = """
import sys
from pathlib import Path
from tfrunner.entry import ModelInfo
from tfrunner.store import Store
store = Store(Path(sys.argv[1]))
def put(version):
    with store.new() as folder:
        (folder / "file").write_text("x")
        store.commit(folder, ModelInfo(name="m", version=version, methods={},
                                       creation_time="2026-01-01T00:00:00+00:00"))
"""

DIE_WHILE_SAVING = """
import os, signal
with store.new() as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""

SAVE_MANY = """
sys.stdin.readline()
for number in range(8):
    put(f"{sys.argv[2]}-{number}")
"""


def start(store: Store, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that works on the store."""
    command = [sys.executable, "-c", PUT + code, str(store.root), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)


def test_what_a_killed_save_left_is_swept_by_the_next_and_was_never_visible(store: Store) -> None:
    """A folder whose owner still lives is left alone."""
    with start(store, DIE_WHILE_SAVING) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert len(list((store.models / ".new").iterdir())) == 1
    assert store.list() == []
    with store.new() as mine:
        assert list((store.models / ".new").iterdir()) == [mine]
        put(store, "m:v1")
        assert mine.is_dir()


def test_savers_at_the_same_time_get_serial_numbers_of_their_own(store: Store) -> None:
    """The name's lock orders them; no number is given twice, none left out."""
    processes = [start(store, SAVE_MANY, f"v{number}") for number in range(3)]
    for process in processes:  # all at once: each waits for its line
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(model.spec.serial for model in store.list("m")) == list(range(1, 25))


def test_the_public_functions_use_the_configured_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$TFRUNNER_HOME names it."""
    monkeypatch.setenv("TFRUNNER_HOME", str(tmp_path))
    put(Store(tmp_path), "m:v1")
    assert tags(models.list()) == ["m:v1"]
    assert models.get("m").path == tmp_path / "models" / "m" / "v1"
    assert models.delete("m") == [Tag("m", "v1")]
    assert models.list() == []
