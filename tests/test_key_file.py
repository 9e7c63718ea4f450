"""The file of API keys, and `tfrunner keys`: made, listed, deleted, and never shown again."""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tfrunner.api.key_file import StoredKey, add_key, delete_key, make_key, read_keys
from tfrunner.cli.keys import keys
from tfrunner.errors import AlreadyExists, ConfigError, NotFound, NotWritten

STRANGER = 54321
"""A user that there need not be."""


def test_the_file_holds_no_key_and_belongs_to_its_owner(tmp_path: Path) -> None:
    """A hash, the name and the limits."""
    file = tmp_path / "deep" / "keys.json"
    made = make_key("anna", rate=5, in_flight=2)
    add_key(file, made.stored)
    assert made.text.startswith("tfr_") and len(made.text) > 50
    assert made.text[17:] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (stored,) = read_keys(file)
    assert stored.fits(made.text.encode()) and not stored.fits(made.text.encode() + b"x")
    assert (stored.name, stored.rate, stored.in_flight) == ("anna", 5, 2)


def test_keys_are_made_one_at_a_time(tmp_path: Path) -> None:
    """Of twenty that are made at once, none is lost."""
    file = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_key(file, make_key(f"k{n}").stored), range(20)))
    assert len(read_keys(file)) == 20


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    """And what is not there is not deleted."""
    file = tmp_path / "keys.json"
    add_key(file, make_key("anna").stored)
    with pytest.raises(AlreadyExists, match="anna"):
        add_key(file, make_key("anna").stored)
    with pytest.raises(NotFound, match="Did you mean 'anna'"):
        delete_key(file, "ana")


KEY = {"name": "a", "id": "1", "hash": "x"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "holds no API keys"),
        (json.dumps({"keys": [{"name": "a"}]}), "missing required field `id`"),
        (json.dumps({"keys": [{**KEY, "rates": 3}]}), "unknown field `rates`"),
        (json.dumps({"keys": [KEY, KEY]}), "two keys have the name 'a'"),
        (json.dumps({"keys": [{**KEY, "rate": 0}]}), "above 0"),
        (json.dumps({"keys": [{**KEY, "name": "a b"}]}), "letters, digits"),
    ],
    ids=["no JSON", "no id", "unknown field", "twice", "no rate", "no name"],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """In one line that says what is wrong."""
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_keys(file)


def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """Anybody could let himself in."""
    file = tmp_path / "keys.json"
    add_key(file, StoredKey(name="a", id="1", hash="x"))
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(file)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    """Where there is a file already, no folder can be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="cannot be written"):
        add_key(tmp_path / "file" / "keys.json", make_key("anna").stored)


def test_a_change_keeps_the_mode(tmp_path: Path) -> None:
    """A server that reads it by its group reads it afterwards, too."""
    file = tmp_path / "keys.json"
    add_key(file, make_key("anna").stored)
    file.chmod(0o640)
    add_key(file, make_key("bert").stored)
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_change_keeps_owner_and_group(tmp_path: Path) -> None:
    """Root deletes a key; the server of another user must see it."""
    file = tmp_path / "keys.json"
    add_key(file, make_key("anna").stored)
    os.chown(file, STRANGER, STRANGER + 1)
    delete_key(file, "anna")
    assert (file.stat().st_uid, file.stat().st_gid) == (STRANGER, STRANGER + 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_who_cannot_keep_the_owner_changes_nothing() -> None:
    """And is told whose file it is; no other file stays behind."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # others may not enter pytest's
        file = Path(folder) / "keys.json"
        add_key(file, make_key("anna").stored)
        file.chmod(0o644)
        os.chown(folder, STRANGER, STRANGER)
        os.seteuid(STRANGER)
        try:
            with pytest.raises(NotWritten, match="belongs to user 0 and group 0"):
                delete_key(file, "anna")
        finally:
            os.seteuid(0)
        assert [each.name for each in Path(folder).iterdir()] == ["keys.json"]
        assert [each.name for each in read_keys(file)] == ["anna"]


# --- the command -------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    """Run `tfrunner keys`."""
    return CliRunner().invoke(keys, arguments, standalone_mode=False)


def test_a_key_is_printed_once(home: Path) -> None:
    """On standard output alone, for scripts; the list shows no secret."""
    text = run("create", "anna", "--rate", "5", "--in-flight", "2").stdout.strip()
    (stored,) = read_keys(home / "keys.json")
    assert stored.fits(text.encode())
    listed = run("list").stdout
    assert "anna" in listed and stored.id in listed
    (found,) = json.loads(run("list", "-o", "json").stdout)
    assert (found["name"], found["rate"], found["in_flight"]) == ("anna", 5.0, 2)
    for shown in (listed, json.dumps(found), (home / "keys.json").read_text()):
        assert text not in shown and text.rpartition("_")[2] not in shown
    assert stored.hash not in listed


def test_the_file_may_be_another_one(home: Path, tmp_path: Path) -> None:
    """Named on the command line, or by the environment."""
    run("create", "anna", "--file", str(tmp_path / "a.json"))
    CliRunner().invoke(keys, ["create", "bert"], env={"TFRUNNER_API_KEYS": str(tmp_path / "b")})
    names = [[each.name for each in read_keys(tmp_path / file)] for file in ("a.json", "b")]
    assert names == [["anna"], ["bert"]]
    assert not home.exists()


def test_a_deleted_key_is_gone(home: Path) -> None:
    """And a wrong name suggests the near one."""
    run("create", "anna")
    run("create", "bert")
    result = run("delete", "ana")
    assert isinstance(result.exception, NotFound) and "'anna'" in str(result.exception)
    assert run("delete", "anna").exit_code == 0
    assert [each.name for each in read_keys(home / "keys.json")] == ["bert"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "letters, digits"),
        (["a", "--rate", "0"], "above 0"),
        (["a", "--rate", "nan"], "above 0"),
        (["a", "--in-flight", "0"], "at least 1"),
    ],
    ids=["name", "no rate", "nan", "no place"],
)
def test_wrong_limits_are_refused(home: Path, arguments: list[str], said: str) -> None:
    """In words, and nothing is written."""
    result = run("create", *arguments)
    assert isinstance(result.exception, ConfigError) and said in str(result.exception)
    assert not home.exists()
