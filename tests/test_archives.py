"""Export and import: what comes back, which is the latest, and what a failure leaves."""

from __future__ import annotations

import importlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.archive_world import FILES, left_in, put_files
from tests.test_store import info, put
from tfrunner import models, tensorflow
from tfrunner.archives import Format
from tfrunner.custom_objects import CUSTOM_OBJECTS_FILE, write_custom_objects
from tfrunner.entry import INFO_FILE, Model
from tfrunner.errors import AlreadyExists, CorruptModel, InvalidInput, NotFound, StateError
from tfrunner.store import Store
from tfrunner.tags import Tag

FORMATS = [each.value for each in Format]
LONG = "saved_model/assets/" + "a" * 90 + "/" + "ö" * 100 + "/vocabulary.txt"
MANY_FILES = {
    **FILES,
    "saved_model/assets/empty": b"",
    "saved_model/assets/with blank": b"x",
    LONG: b"words",
    "examples.npz": os.urandom(2_500_000),
}


@pytest.fixture
def store(home: Path) -> Store:
    """Return an empty store, that which the public functions use."""
    return Store(home)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return an empty folder beside the store."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def contents(model: Model) -> dict[str, bytes]:
    """Return the files of an entry."""
    return {name: (model.path / name).read_bytes() for name in model.info.files}


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_comes_back_as_it_was(store: Store, outside: Path, form: str) -> None:
    """Tag, bytes, labels, metadata, time; the serial number is a new one."""
    metadata = {"scores": [0.5, 1, None], "when": "2026-01-01", "text": "ja: 'nein'\n\ttab ü"}
    before = put_files(store, "m:v1", MANY_FILES, labels={"stage": "prod"}, metadata=metadata)
    file = models.export_model("m", outside, form)
    assert file.name == ("m-v1" if form == "folder" else f"m-v1.{form}")
    store.delete("m")
    after = models.import_model(file)
    assert contents(after) == MANY_FILES
    assert (after.tag, after.labels, after.metadata) == (before.tag, before.labels, metadata)
    assert after.creation_time == before.creation_time
    assert after.spec.methods == before.spec.methods
    assert (after.spec.serial, after.info.imported) == (2, True)
    after.verify()
    assert models.list() == [after]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.tar.gz", "gzip"),
        ("a.tgz", "gzip"),
        ("A.TAR.XZ", "xz"),
        ("a.txz", "xz"),
        ("a.b.tar", "tar"),
        ("a.zip", "zip"),
    ],
)
def test_the_ending_says_the_format(store: Store, outside: Path, name: str, form: str) -> None:
    """And reading goes by what is in the file."""
    put(store, "m:v1")
    file = models.export_model("m", outside / name)
    starts = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ", "tar": b"model.yaml\0", "zip": b"PK\3\4"}
    assert file.read_bytes().startswith(starts[form])
    renamed = file.rename(outside / "whatever")
    assert models.import_model(renamed, name="other").tag == Tag("other", "v1")


def test_a_format_goes_before_the_ending(store: Store, outside: Path) -> None:
    """The path is taken as it is."""
    put(store, "m:v1")
    assert (models.export_model("m", outside / "x.zip", "folder") / INFO_FILE).is_file()
    assert models.export_model("m", outside / "noending", "tar").is_file()


@pytest.mark.parametrize(
    ("path", "form", "error", "message"),
    [
        ("m.rar", None, InvalidInput, r"'.*m\.rar' does not say which format.*tar\.gz, tar\.xz"),
        ("m", None, InvalidInput, "does not say which format"),
        ("m.zip", "zpi", InvalidInput, "No format 'zpi'.* Did you mean 'zip'"),
        ("there.zip", None, AlreadyExists, "there.zip exists; nothing is overwritten"),
        ("dangling.zip", None, AlreadyExists, "dangling.zip exists"),
        ("no/m.zip", None, NotFound, "no folder .*/no;"),
    ],
    ids=["ending", "no ending", "format", "taken", "taken by a link", "no folder"],
)
def test_where_nothing_can_be_exported_to(
    store: Store, outside: Path, path: str, form: str | None, error: type[Exception], message: str
) -> None:
    """The message says what to do, and nothing changes."""
    put(store, "m:v1")
    (outside / "there.zip").write_text("mine")
    (outside / "dangling.zip").symlink_to(outside / "nowhere")
    with pytest.raises(error, match=message):
        models.export_model("m", outside / path, form)
    assert sorted(child.name for child in outside.iterdir()) == ["dangling.zip", "there.zip"]
    assert (outside / "there.zip").read_text() == "mine"


def test_the_same_model_gives_the_same_archive(store: Store, outside: Path) -> None:
    """No time of packing, no user, no order of the disk in it."""
    model = put_files(store, "m:v1", MANY_FILES)
    for form in ("tar.gz", "tar.xz", "tar", "zip"):
        files = [models.export_model("m", outside / f"{number}", form) for number in range(2)]
        first, second = (file.read_bytes() for file in files)
        assert first == second
        for file in files:
            file.unlink()
        if form == "tar.gz":
            assert first[4:8] == bytes(4)  # where gzip has the time of packing
            with tarfile.open(fileobj=io.BytesIO(first)) as archive:
                times = {member.mtime for member in archive.getmembers()}
            assert times == {model.creation_time.timestamp()}


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_the_latest_is_right_whatever_the_order_of_imports(
    store: Store, outside: Path, order: tuple[str, ...]
) -> None:
    """Creation time decides, not the serial number."""
    for day, version in enumerate("abc", start=1):
        put(store, f"m:{version}", time=f"2026-01-0{day}T00:00:00+00:00")
        models.export_model(f"m:{version}", outside)
    store.delete("m")
    for version in order:
        models.import_model(outside / f"m-{version}.tar.gz")
    assert str(models.get("m").tag) == "m:c"
    assert [str(model.tag.version) for model in models.list("m")] == ["c", "b", "a"]


def test_a_taken_tag_is_not_overwritten(store: Store, outside: Path) -> None:
    """That is said before anything is unpacked; another name or version is the way out."""
    put(store, "m:v1")
    file = models.export_model("m", outside)
    steps: list[int] = []
    with pytest.raises(AlreadyExists, match=r"m:v1 exists.*another name"):
        models.import_model(file, on_progress=lambda done, total: steps.append(done))
    assert steps == []
    assert models.import_model(file, name="n").tag == Tag("n", "v1")
    assert models.import_model(file, name="m:v2").tag == Tag("m", "v2")
    with pytest.raises(InvalidInput, match="always means the newest"):
        models.import_model(file, name="m:latest")
    with pytest.raises(InvalidInput, match="is not allowed"):
        models.import_model(file, name="a b")


def put_objects(store: Store) -> None:
    """Save a model with custom objects."""
    with store.new() as folder:
        write_custom_objects(folder, {"words": ["a", "b"]}, ())
        store.commit(folder, info("m:v1"))


def test_custom_objects_come_along_and_are_refused_until_trusted(
    store: Store, outside: Path
) -> None:
    """Trust is a matter of who imports, not of what the archive says."""
    put_objects(store)
    file = models.export_model("m", outside)
    assert b"imported: false" in (store.models / "m" / "v1" / INFO_FILE).read_bytes()
    strange = models.import_model(file, name="strange")
    assert CUSTOM_OBJECTS_FILE in strange.info.files
    with pytest.raises(StateError, match="runs whatever code"):
        _ = strange.custom_objects
    again = models.export_model("strange", outside, "zip")
    assert models.import_model(again, name="still").info.imported
    with pytest.raises(StateError):
        _ = models.copy("strange", "copied").custom_objects
    trusted = models.import_model(again, name="trusted", trust=True)
    assert not trusted.info.imported
    assert trusted.custom_objects == {"words": ["a", "b"]}


def repack(folder: Path, target: Path) -> Path:
    """Pack a folder with the tool that the target's ending names."""
    if target.name.endswith((".gnu.tar.gz", ".posix.tar.xz")):
        form = target.name.split(".")[1]
        command = ["tar", "-caf", str(target), f"--format={form}", "-C", str(folder), "."]
        subprocess.run(command, check=True, timeout=60)
        return target
    forms = {".zip": "zip", ".gz": "gztar", ".xz": "xztar", ".tar": "tar"}
    base = target.parent / "packed"
    return Path(shutil.make_archive(str(base), forms[target.suffix], folder))


@pytest.mark.parametrize(
    "name", ["a.gnu.tar.gz", "a.posix.tar.xz", "b.zip", "b.tar.gz", "b.tar.xz", "b.tar"]
)
def test_what_other_tools_packed_is_read(store: Store, outside: Path, name: str) -> None:
    """Folders as members, `./` before names, GNU's and POSIX' long names, any order."""
    put_files(store, "m:v1", MANY_FILES)
    folder = models.export_model("m", outside, "folder")
    store.delete("m")
    assert contents(models.import_model(repack(folder, outside / name))) == MANY_FILES


def test_a_copy_is_a_model_of_its_own(store: Store) -> None:
    """With the time of now: an old version that is copied becomes the latest."""
    put_files(store, "m:old", MANY_FILES, time="2025-01-01T00:00:00+00:00", labels={"a": "b"})
    put(store, "m:new")
    copied = models.copy("m:old", "m:back")
    assert (copied.tag, copied.labels, contents(copied)) == (
        Tag("m", "back"),
        {"a": "b"},
        MANY_FILES,
    )
    assert models.get("m") == copied
    assert models.copy("m:old", "n").tag == Tag("n", "old")
    with pytest.raises(AlreadyExists, match="m:new exists"):
        models.copy("m:old", "m:new")
    store.delete("m:old")
    copied.verify()


def test_a_damaged_entry_is_neither_exported_nor_copied(store: Store, outside: Path) -> None:
    """Its hashes are checked on the way; nothing is left of it."""
    model = put_files(store, "m:v1", FILES)
    (model.path / "saved_model" / "saved_model.pb").write_bytes(b"A graph")
    for form in FORMATS:
        with pytest.raises(CorruptModel, match=r"saved_model\.pb is not the file that was saved"):
            models.export_model("m", outside, form)
    with pytest.raises(CorruptModel, match=r"m:v1 was not copied: .* its hash differs"):
        models.copy("m", "n")
    assert list(outside.iterdir()) == []
    assert list((store.models / ".new").iterdir()) == []


def test_progress_is_told_from_start_to_end(store: Store, outside: Path) -> None:
    """In bytes, never backwards, and at last all of them."""
    model = put_files(store, "m:v1", MANY_FILES)
    told: dict[str, list[tuple[int, int]]] = {"export": [], "import": [], "copy": []}
    file = models.export_model("m", outside, on_progress=lambda *done: told["export"].append(done))
    models.import_model(file, name="n", on_progress=lambda *done: told["import"].append(done))
    models.copy("m", "o", on_progress=lambda *done: told["copy"].append(done))
    for steps in told.values():
        assert steps == sorted(steps)
        assert steps[-1] == (model.size, model.size)
        assert len(steps) >= 5


def test_all_but_the_newest_are_pruned(store: Store) -> None:
    """Of one name or of all, by creation time; what cannot be read is left alone."""
    for name in ("m", "n"):
        for day in (2, 4, 1, 3):
            put(store, f"{name}:v{day}", time=f"2026-01-0{day}T00:00:00+00:00")
    put(store, "n:corrupt")
    (store.models / "n" / "corrupt" / INFO_FILE).write_text("{")
    assert models.prune("m", keep=3) == [Tag("m", "v1")]
    assert len(models.list()) == 7
    gone = [Tag("m", "v3"), Tag("m", "v2"), Tag("n", "v3"), Tag("n", "v2"), Tag("n", "v1")]
    assert models.prune(keep=1) == gone
    assert [str(model.tag) for model in models.list()] == ["m:v4", "n:v4"]
    assert (store.models / "n" / "corrupt").exists()
    assert models.prune(keep=1) == []
    with pytest.raises(NotFound, match="No model 'x'"):
        models.prune("x", keep=1)
    with pytest.raises(InvalidInput, match="one version"):
        models.prune("m:v4", keep=1)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InvalidInput, match="at least 1"):
            models.prune(keep=wrong)  # type: ignore[arg-type]


def test_what_is_no_archive_is_refused(store: Store, outside: Path) -> None:
    """A missing path, an empty folder, a pipe, text, a folder of something else."""
    with pytest.raises(NotFound, match="There is no"):
        models.import_model(outside / "nothing.zip")
    (outside / "text.tar.gz").write_text("hello")
    (outside / "empty.zip").write_text("")
    os.mkfifo(outside / "pipe.tar")
    for name in ("text.tar.gz", "empty.zip", "pipe.tar"):
        with pytest.raises(InvalidInput, match=rf"{name} was not imported: it is n"):
            models.import_model(outside / name)
    assert left_in(store) == []


KILL_WHILE = """
import os, signal, sys
from tfrunner import models
def die(done, total):
    if done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
models.{}
"""
LIMITED = """
import resource, sys
from tfrunner import models
from tfrunner.errors import NotWritten
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    models.{}
except NotWritten as exc:
    print(exc.code, exc)
"""


def child(code: str, call: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that works on the store of $TFRUNNER_HOME."""
    command = [sys.executable, "-c", code.format(call), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("form", FORMATS)
def test_a_killed_export_leaves_nothing_under_the_name(
    store: Store, outside: Path, form: str
) -> None:
    """And the next one works."""
    put_files(store, "m:v1", MANY_FILES)
    target = outside / "m.out"
    call = "export_model('m', sys.argv[1], sys.argv[2], on_progress=die)"
    assert child(KILL_WHILE, call, target, form).returncode == -signal.SIGKILL
    assert [path.suffix for path in outside.iterdir()] == [".part"]
    assert models.export_model("m", target, form) == target
    assert contents(models.import_model(target, name="n")) == MANY_FILES


def test_a_killed_import_is_never_seen_and_swept_by_the_next(store: Store, outside: Path) -> None:
    """As a killed save is."""
    put_files(store, "m:v1", MANY_FILES)
    file = models.export_model("m", outside)
    call = "import_model(sys.argv[1], name='n', on_progress=die)"
    assert child(KILL_WHILE, call, file).returncode == -signal.SIGKILL
    assert len(list((store.models / ".new").iterdir())) == 1
    assert [str(model.tag) for model in models.list()] == ["m:v1"]
    models.import_model(file, name="n")
    assert list((store.models / ".new").iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_is_named_and_nothing_is_left(store: Store, outside: Path, form: str) -> None:
    """Of an export, an import and a copy; here files may have 100 kB."""
    put_files(store, "m:v1", MANY_FILES)
    file = models.export_model("m", outside, form)
    full = outside / "full"
    full.mkdir()
    before = sorted(left_in(store))
    for call, where in (
        ("export_model('m', sys.argv[2], sys.argv[3])", str(full)),
        ("import_model(sys.argv[1], name='n')", str(store.models)),
        ("copy('m', 'n')", str(store.models)),
    ):
        done = child(LIMITED, call, file, full, form)
        assert done.stdout.startswith(f"not_written {where}"), done.stderr
        assert "cannot be written: File too large" in done.stdout
    assert list(full.iterdir()) == []
    assert sorted(left_in(store)) == before


def test_a_place_that_may_not_be_written_to_is_named(store: Store) -> None:
    """Not even by the administrator."""
    put(store, "m:v1")
    done = child(LIMITED, "export_model('m', '/proc/m.zip')")
    assert done.stdout.startswith("not_written /proc/m.zip cannot be written"), done.stderr


@pytest.mark.tensorflow
def test_a_real_model_computes_the_same_elsewhere(
    home: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported here, imported into another home."""
    made: Any = importlib.import_module("tests.models")
    tensorflow.save(made.NativeModel(), "m", signatures=made.BATCHABLE, example=np.ones((2, 5)))
    file = models.export_model("m", outside)
    monkeypatch.setenv("TFRUNNER_HOME", str(home / "other"))
    model = models.import_model(file)
    assert model.load_model()(np.ones((1, 5))).numpy().tolist() == [[5.0]]
    runner = model.to_runner()
    runner.init_local(quiet=True)
    try:
        assert runner.run(np.ones((2, 5))).tolist() == [[5.0], [5.0]]
    finally:
        runner.destroy()


@pytest.mark.tensorflow
def test_what_tensorflow_wrote_is_imported(home: Path, outside: Path) -> None:
    """A SavedModel folder and a file of Keras, named after their paths unless told."""
    made: Any = importlib.import_module("tests.models")
    tf: Any = importlib.import_module("tensorflow")
    tf.saved_model.save(made.NativeModel(), str(outside / "summing"))
    with warnings.catch_warnings():  # Keras' own, about NumPy 2
        warnings.simplefilter("ignore")
        made.keras_sequential().save(outside / "Layers.keras")
    assert models.import_model(outside / "summing").tag.name == "summing"
    assert models.import_model(outside / "summing", name="m:v1").tag == Tag("m", "v1")
    with pytest.raises(InvalidInput, match="'Layers' is no name for a model"):
        models.import_model(outside / "Layers.keras")
    model = models.import_model(outside / "Layers.keras", name="layers")
    assert (list(model.spec.methods), model.info.imported) == (["__call__"], False)
