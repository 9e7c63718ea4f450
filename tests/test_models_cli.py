"""`tfrunner models`: what it prints, what it asks, what it refuses."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from tests.archive_world import member, put_files, tar, yaml_of
from tests.test_store import info, put
from tfrunner.cli import main
from tfrunner.cli.meter import Meter
from tfrunner.cli.model_views import printable
from tfrunner.config import RunFile
from tfrunner.custom_objects import write_custom_objects
from tfrunner.learned_file import FORMAT, Kept, Plan, file_name, folder
from tfrunner.rundir import RunDirectory
from tfrunner.specs import MethodSpec
from tfrunner.store import Store

Run = Callable[..., Any]


class Outcome:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """The output, which must be JSON and nothing else."""
        return json.loads(self.out)


class Typed(io.StringIO):
    """What somebody types at a terminal."""

    def isatty(self) -> bool:
        """Return whether it is one."""
        return True


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    run_root: Path,
) -> Run:
    """Return a function that runs `tfrunner models` in an empty folder, without a terminal."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments: str, typed: str | None = None) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO() if typed is None else Typed(typed))
        with pytest.raises(SystemExit) as ended:
            main(["models", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(str(ended.value.code)), captured.out, captured.err)

    return call


@pytest.fixture
def store(home: Path) -> Store:
    """Return a store with two names and three versions."""
    store = Store(home)
    put(store, "digits:first", time="2026-01-01T00:00:00+00:00")
    put(store, "digits:second", time="2026-01-02T00:00:00+00:00")
    put(store, "irises:only")
    return store


def names(store: Store) -> list[str]:
    """Return the tags that are in the store."""
    return [str(model.tag) for model in store.list()]


@pytest.mark.parametrize("command", [("list",), ("get", "digits")], ids=" ".join)
def test_yaml_json_and_its_short_form_say_the_same(
    run: Run, store: Store, command: tuple[str, ...]
) -> None:
    """A table is for people only."""
    as_json = run(*command, "-o", "json").json
    assert run(*command, "--json").json == as_json
    assert yaml.safe_load(run(*command, "--output", "yaml").out) == as_json
    assert "digits:second" in run(*command).out
    assert run(*command, "-o", "table").out == run(*command).out
    wrong = run(*command, "-o", "xml")
    assert (wrong.code, "'table', 'json', 'yaml'" in wrong.err) == (2, True)


def test_a_version_that_there_is_not_is_not_listed_as_nothing(run: Run, store: Store) -> None:
    """What there is is said; a serial and a beginning mean what they mean elsewhere."""
    (model, *_) = store.list()
    done = run("list", f"{model.tag.name}:nope")
    assert (done.code, done.out) == (1, "")
    assert f"No version 'nope' of model '{model.tag.name}'. There are:" in done.err
    done = run("list", f"{model.tag.name}:{model.spec.serial}", "-o", "json")
    assert [each["tag"] for each in done.json] == [str(model.tag)]


def test_the_folder_of_a_model_is_printed_for_scripts(run: Run, store: Store) -> None:
    """Its path, and nothing else."""
    (model, *_) = store.list()
    assert run("get", str(model.tag), "-o", "path").out == f"{model.path}\n"


def test_deleting_is_asked_about_with_names_and_sizes(run: Run, store: Store) -> None:
    """Once for all; no is no."""
    refused = run("delete", "digits", "irises:only", typed="n\n")
    assert refused.code == 130
    assert "digits:first (12 B)" in refused.err and "Delete these 3 versions?" in refused.err
    assert len(names(store)) == 3
    done = run("delete", "digits:first", typed="y\n")
    assert (done.code, done.out) == (0, "deleted digits:first\n")
    assert "Delete digits:first?" in done.err
    assert names(store) == ["digits:second", "irises:only"]


@pytest.mark.parametrize("command", [("delete", "digits"), ("prune", "--keep", "1")], ids=" ".join)
def test_without_a_terminal_nothing_is_asked_or_deleted(
    run: Run, store: Store, command: tuple[str, ...]
) -> None:
    """The message says what to add; with it, it is done."""
    refused = run(*command)
    assert (refused.code, refused.out) == (1, "")
    assert "would be deleted, but there is no terminal" in refused.err
    assert "digits:first" in refused.err
    assert "Add -y" in refused.err
    assert len(names(store)) == 3
    assert run(*command, "-y").code == 0
    assert len(names(store)) < 3


def test_several_tags_are_deleted_or_none(run: Run, store: Store) -> None:
    """Separated by blanks or commas; a tag that is named twice is deleted once."""
    wrong = run("delete", "digits", "irsis", "-y")
    assert (wrong.code, "Did you mean 'irises'?" in wrong.err) == (1, True)
    assert len(names(store)) == 3
    done = run("delete", "digits:first,irises", "digits:1", "--yes", "--json")
    assert done.json == {"deleted": ["digits:first", "irises:only"]}
    assert names(store) == ["digits:second"]


def test_a_corrupt_entry_can_be_deleted(run: Run, store: Store) -> None:
    """The question says that it cannot be read."""
    (store.models / "irises" / "only" / "model.yaml").write_text("{")
    outcome = run("delete", "irises:only", typed="y\n")
    assert "irises:only (cannot be read)" in outcome.err
    assert not (store.models / "irises").exists()


def test_the_question_says_what_is_served_now(run: Run, store: Store, run_root: Path) -> None:
    """Its workers could not be started again."""
    with RunDirectory(run_root) as directory:
        directory.publish(RunFile(os.getpid(), "http://127.0.0.1:1", (), ("digits:second",)))
        outcome = run("delete", "digits", typed="n\n")
    assert "digits:second (13 B, served now: its workers could not start again)" in outcome.err
    assert "digits:first (12 B)" in outcome.err


def test_pruning_keeps_the_newest(run: Run, store: Store) -> None:
    """Of one name or of all; nothing to do is no error."""
    assert "nothing to delete" in run("prune", "--keep", "2").out
    assert run("prune", "irises", "--keep", "1", "--json").json == {"deleted": []}
    assert run("prune", "digits", "--keep", "1", "-y").out == "deleted digits:first\n"
    assert names(store) == ["digits:second", "irises:only"]
    assert run("prune", "--keep", "0").code == 2
    assert run("prune").code == 2
    assert "Did you mean 'digits'?" in run("prune", "digit", "--keep", "1").err


def test_a_model_goes_out_and_comes_back(run: Run, store: Store) -> None:
    """Into this folder by default."""
    out = run("export", "digits").out
    assert out.startswith("exported to digits-second.tar.gz (")
    taken = run("import", "digits-second.tar.gz")
    assert (taken.code, taken.err.count("\n")) == (1, 1)
    assert "digits:second exists" in taken.err
    done = run("import", "digits-second.tar.gz", "other").out
    assert done == "imported other:second (serial 1, 13 B)\n"
    assert run("get", "other", "--json").json["imported"] is True
    assert "\nimported\n" in run("get", "other").out
    trusted = run("import", "digits-second.tar.gz", "mine:v1", "--trust", "--json").json
    assert trusted["tag"] == "mine:v1"
    assert run("get", "mine", "--json").json["imported"] is False
    assert run("export", "mine", "m.zip", "--json").json == {"exported": "m.zip"}
    assert run("export", "mine", "--format", "folder").out == "exported to mine-v1\n"
    assert run("copy", "mine", "copied").out == "copied to copied:v1 (serial 1, 13 B)\n"


def test_an_import_says_what_is_not_read(run: Run, store: Store) -> None:
    """Custom objects of people whom nobody vouched for."""
    with store.new() as folder:
        write_custom_objects(folder, {"words": ["a"]}, ())
        store.commit(folder, info("objects:v1"))
    run("export", "objects")
    assert "Its custom objects are code" in run("import", "objects-v1.tar.gz", "n").out
    assert "not read unless you say" in run("get", "n").out
    assert "custom objects" not in run("import", "objects-v1.tar.gz", "o", "--trust").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "digit"], "Did you mean 'digits'?"),
        (["export", "digits", "m.rar"], "does not say which format"),
        (["export", "digits", "no/such/m.zip"], "There is no folder"),
        (["import", "nothing.zip"], "There is no nothing.zip"),
        (["import", "bad.tar"], "was not imported: '../evil' leads out of the archive"),
        (["copy", "digits:first", "digits:second"], "digits:second exists"),
        (["copy", "digits:thrid", "x"], "No version 'thrid'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line(run: Run, store: Store, arguments: list[str], said: str) -> None:
    """With exit code 1; nothing changes."""
    Path("bad.tar").write_bytes(tar(member("../evil", b"x")))
    outcome = run(*arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert said in outcome.err
    assert len(names(store)) == 3


def test_what_a_terminal_would_obey_is_shown_as_text(run: Run, store: Store) -> None:
    """Labels and methods of an imported model may be anybody's."""
    text = yaml_of(
        labels={"a\x1b[2J": "b\x9b1m\n"},
        metadata={"[red]": "[/red]"},
        methods={"[bold]\x1b": MethodSpec("[bold]\x1b", ())},
    )
    Path("m.tar").write_bytes(tar(text=text))
    assert run("import", "m.tar").code == 0
    shown = run("get", "m").out
    assert r"a\x1b[2J: b\x9b1m\n" in shown
    assert "[red]: [/red]" in shown
    assert r"[bold]\x1b" in shown
    assert r"[bold]\x1b" in run("list").out
    assert printable("für 名") == "für 名"


def test_a_bar_is_shown_once_it_takes_a_second() -> None:
    """In a terminal only, with what is done and what there is."""
    for is_terminal, moments, expected in (
        (True, [0.0, 0.5, 1.5], True),
        (True, [0.0, 0.5, 0.9], False),
        (False, [0.0, 0.5, 1.5], False),
    ):
        file, clock = io.StringIO(), iter(moments)
        console = Console(file=file, force_terminal=is_terminal, width=100)
        with Meter(console, "packing [m]", clock=lambda clock=clock: next(clock)) as meter:
            meter(1_000_000, 4_000_000)
            assert file.getvalue() == ""
            meter(2_000_000, 4_000_000)
            meter(3_000_000, 4_000_000) if expected else None
        assert ("packing [m]" in file.getvalue()) == expected
        assert ("3.0/4.0 MB" in file.getvalue()) == expected
        assert is_terminal or file.getvalue() == ""


TRAP = """
import sys
from tfrunner.cli import main
try:
    main(sys.argv[1:])
finally:
    assert "tensorflow" not in sys.modules
"""


def test_no_command_imports_tensorflow_for_our_own_archives(home: Path, tmp_path: Path) -> None:
    """They read YAML and bytes."""
    put_files(Store(home), "m:v1", {"saved_model/saved_model.pb": b"x"})
    file = str(tmp_path / "m.zip")
    for command in (["export", "m", file], ["import", file, "n"], ["list"], ["copy", "m", "o"]):
        arguments = [sys.executable, "-c", TRAP, "models", *command]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.tensorflow
def test_a_file_of_keras_is_imported(run: Run, home: Path) -> None:
    """Under the file's name, and it says what that does not do."""
    made: Any = importlib.import_module("tests.models")
    with warnings.catch_warnings():  # Keras' own, about NumPy 2
        warnings.simplefilter("ignore")
        made.keras_sequential().save("layers.keras")
    outcome = run("import", "layers.keras")
    assert outcome.out.startswith("imported layers:")
    assert "None of its methods is batchable" in outcome.out
    assert Store(home).get("layers").info.imported is False


def test_plans_that_were_learned_are_shown(store: Store, run: Run):
    """With what they gain, and why; to programs too."""
    kept = Kept(FORMAT, "digits:second", "a GPU", {}, {"__call__": Plan("frozen", 3.5, "faster")})
    file = folder(store.root, "digits:second") / file_name("a GPU")
    file.parent.mkdir(parents=True)
    file.write_bytes(msgspec.json.encode(kept))
    shown = run("get", "digits").out
    assert "frozen" in shown
    assert "3.5x" in shown
    (plan,) = run("get", "digits", "--json").json["plans"]
    assert (plan["method"], plan["plan"], plan["gain"]) == ("__call__", "frozen", 3.5)
    assert run("get", "irises", "--json").json["plans"] == []
