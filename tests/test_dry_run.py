"""`tfrunner serve --dry-run`, and where settings come from: flag, environment, file, default."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from tests.leftovers import run_directories
from tfrunner.api.key_file import add_key, make_key
from tfrunner.cli.serve import serve
from tfrunner.cli.settings import from_environment, misspelt
from tfrunner.errors import ConfigError

SERVICE = """
from tfrunner import Service
from tfrunner.io import JSON
svc = Service(name="shop")

@svc.api(JSON(), JSON())
async def double(value):
    return 2 * value
"""


@pytest.fixture(autouse=True)
def alone(
    run_root: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give each test a folder without servers, models, or settings; leave the log as it was."""
    kept = ("TFRUNNER_RUN_DIR", "TFRUNNER_HOME", "TFRUNNER_TEST_RUN")
    for name in os.environ:
        if name.startswith("TFRUNNER_") and name not in kept:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    handlers, level = logging.root.handlers[:], logging.root.level
    yield tmp_path
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def rehearse(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run the command with --dry-run."""
    command = ["--echo", "--dry-run", *arguments]
    return CliRunner().invoke(serve, command, env=env, standalone_mode=False)


def plan(*arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the plan as data."""
    result = rehearse("-o", "json", *arguments, env=env)
    assert result.return_value == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def settings(found: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return the value and the source of each setting."""
    return {each["setting"]: (each["value"], each["from"]) for each in found["settings"]}


def test_a_plan_says_what_would_be_served(run_root: Path) -> None:
    """Models, processes, addresses; and nothing is there afterwards."""
    found = plan("--port", "8123", "--workers", "2", "--api-workers", "3", "--max-batch-size", "8")
    (model,) = found["models"]
    assert (model["model"], model["kind"], model["rows"]) == ("echo:1", "echo", 8)
    assert (model["workers"], model["devices"]) == (2, ["cpu"])
    assert found["processes"] == {"api": 3, "worker": 2, "dispatcher": 1, "spare": 0}
    assert found["addresses"]["http"] == "http://127.0.0.1:8123"
    assert run_directories(run_root) == []


def test_a_recording_is_not_touched(alone: Path) -> None:
    """A real start would empty it."""
    (alone / "trace").write_text("kept")
    plan("--record", "trace")
    assert (alone / "trace").read_text() == "kept"


def test_each_setting_says_where_it_comes_from(alone: Path) -> None:
    """A flag goes before the environment, that before the file, that before the default."""
    (alone / "c.toml").write_text(
        "[serve]\nport = 1\ntimeout = 1\ngrace = 1.5\ncors_origin = ['https://a.example']\n"
    )
    env = {"TFRUNNER_PORT": "2", "TFRUNNER_TIMEOUT": "2", "TFRUNNER_CONFIG": "c.toml"}
    found = settings(plan("--port", "3", env=env))
    assert found["port"] == (3, "flag")
    assert found["timeout"] == (2.0, "environment TFRUNNER_TIMEOUT")
    assert found["grace"] == (1.5, "file c.toml")
    assert found["cors_origin"] == (["https://a.example"], "file c.toml")
    assert found["workers"] == (0, "default")


def test_the_table_and_yaml_say_the_same(alone: Path) -> None:
    """For people, and for other programs."""
    table = rehearse("--port", "8123").stdout
    assert "echo:1" in table and "http://127.0.0.1:8123" in table and "flag" in table
    assert "Nothing was started." in table
    found = yaml.safe_load(rehearse("-o", "yaml", "--port", "8123").stdout)
    assert found == plan("--port", "8123")


def test_a_service_is_described_and_not_started(alone: Path) -> None:
    """Its module is imported in a process of its own."""
    (alone / "shop.py").write_text(SERVICE)
    command = ["shop.py:svc", "--dry-run", "-o", "json"]
    result = CliRunner().invoke(serve, command, standalone_mode=False)
    assert json.loads(result.stdout)["services"] == ["shop.py:svc"]


def test_the_defaults_table_is_the_serve_table(alone: Path) -> None:
    """Under either name; the same key in both is a mistake."""
    (alone / "c.toml").write_text("[defaults]\nport = 5\n\n[models.echo]\nmax_batch_size = 3\n")
    found = plan("--config", "c.toml")
    assert settings(found)["port"] == (5, "file c.toml")
    assert (found["models"][0]["rows"], found["models"][0]["sections"]) == (3, ["models.echo"])
    (alone / "c.toml").write_text("[defaults]\nport = 5\n[serve]\nport = 5\n")
    result = rehearse("--config", "c.toml")
    assert (result.return_value, "twice" in result.stderr) == (2, True)


def test_methods_with_bounds_of_their_own_are_in_the_table(alone: Path) -> None:
    """Beside what holds for the others."""
    (alone / "c.toml").write_text("[models.echo.methods.__call__]\nmax_batch_size = 3\n")
    (name,) = plan("--config", "c.toml")["models"][0]["method_rows"]
    assert f"64, {name} 3" in " ".join(rehearse("--config", "c.toml").stdout.split())


def test_tls_changes_the_address_and_secrets_are_not_shown(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan may be pasted into an issue."""
    made = make_key("anna")
    add_key(alone / "keys.json", made.stored)
    text = rehearse("--api-keys", "keys.json", env={"TFRUNNER_SSL_PASSWORD": "hidden"}).output
    assert "keys.json" in text
    assert made.text not in text and "hidden" not in text


WRONG = {
    "out of range": (["--max-batch-size", "0"], "--max-batch-size is 0"),
    "no file": (["--config", "none.toml"], "none.toml cannot be read"),
    "unknown key": (["--config", "wrong.toml"], "Did you mean 'max_batch_size'?"),
    "unknown table": (["--config", "table.toml"], "Did you mean 'models'?"),
    "unknown option of a model": (["--config", "model.toml"], "Did you mean 'max_batch_size'?"),
    "no keys": (["--api-keys", "none.json"], "tfrunner keys create"),
    "no certificate": (["--ssl-certfile", "none.pem"], "none.pem cannot be read"),
    "a key and no certificate": (["--ssl-keyfile", "k.pem"], "needs --ssl-certfile"),
    "no origin": (["--cors-origin", "a.example"], "--cors-origin is 'a.example'"),
    "a port that there is not": (["--port", "99999"], "port 99999 does not exist"),
    "a port below 0": (["--port", "-1"], "port -1 does not exist"),
    "a port of the file": (["--config", "port.toml"], "port 70000 does not exist"),
    "a host that nobody knows": (["--host", "no-such-host.invalid"], "address or name of this"),
    "a host that is no name": (["--host", "a" * 80], "cannot listen on aaa"),
    "another machine's address": (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    "no time to end": (["--grace", "-1"], "--grace is -1"),
    "no end": (["--timeout", "inf"], "--timeout is infinite"),
    "a number of the file": (["--config", "time.toml"], "time.toml: [serve]: timeout is 0"),
    "a log in no folder": (
        ["--access-log", "text", "--access-log-file", "none/log"],
        "there is no folder none",
    ),
    "a log that is a folder": (
        ["--access-log", "text", "--access-log-file", "."],
        "expected a file",
    ),
    "a log for nothing": (["--access-log-file", "log"], "needs --access-log text or json"),
    "a recording in no folder": (["--record", "none/trace"], "there is no folder none"),
    "a monitor's folder that cannot be made": (
        ["--monitor-folder", "/proc/x"],
        "the monitors' folder /proc/x cannot be written",
    ),
    "keys and an open door": (
        ["--api-keys", "keys.json", "--direct", "tcp://127.0.0.1:*"],
        "without a key",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_served_is_said_in_one_line(
    alone: Path, arguments: list[str], said: str
) -> None:
    """And the exit code is 2."""
    (alone / "wrong.toml").write_text("[serve]\nmax_batchsize = 8\n")
    (alone / "table.toml").write_text("[model.m]\nworkers = 1\n")
    (alone / "model.toml").write_text("[models.echo]\nmax_batch_sise = 1\n")
    (alone / "port.toml").write_text("[serve]\nport = 70000\n")
    (alone / "time.toml").write_text("[serve]\ntimeout = 0\n")
    add_key(alone / "keys.json", make_key("anna").stored)
    before = sorted(alone.iterdir())
    result = rehearse(*arguments)
    assert result.return_value == 2
    assert said in result.stderr
    assert [line for line in result.stderr.splitlines() if "Error" in line] == [
        result.stderr.splitlines()[-1]
    ]
    assert result.stdout == ""
    assert sorted(alone.iterdir()) == before


def test_a_number_of_the_environment_is_called_by_its_variable() -> None:
    """Not by a flag that nobody gave."""
    result = rehearse(env={"TFRUNNER_TIMEOUT": "0"})
    assert (result.return_value, "$TFRUNNER_TIMEOUT is 0" in result.stderr) == (2, True)


def test_sockets_need_a_short_path(alone: Path) -> None:
    """A run directory that is too deep is found out before anything is started."""
    deep = alone / ("d" * 80)
    result = rehearse(env={"TFRUNNER_RUN_DIR": str(deep)})
    assert result.return_value == 2
    assert "Set TFRUNNER_RUN_DIR to a folder with a shorter path" in result.stderr


def test_files_that_can_be_written_stay_as_they_are(alone: Path) -> None:
    """There or not: a rehearsal looks, and writes nothing."""
    (alone / "log").write_text("kept")
    before = (alone / "log").stat()
    for name in ("log", "fresh", "/dev/null"):
        plan("--access-log", "text", "--access-log-file", name, "--monitor-folder", "new/monitors")
    assert (alone / "log").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(each.name for each in alone.iterdir()) == ["log"]


def test_a_server_that_cannot_have_its_log_starts_nothing(alone: Path, run_root: Path) -> None:
    """One line says why, and no process is begun."""
    command = ["--echo", "--port", "0", "--access-log", "text", "--access-log-file", "none/log"]
    result = CliRunner().invoke(serve, command, standalone_mode=False)
    assert isinstance(result.exception, ConfigError)
    assert "there is no folder none" in str(result.exception)
    assert run_directories(run_root) == []


def test_a_module_that_does_not_import_is_said_too(alone: Path) -> None:
    """In one line, with its place."""
    (alone / "shop.py").write_text("import nothing_like_it\n")
    result = CliRunner().invoke(serve, ["shop.py:svc", "--dry-run"], standalone_mode=False)
    assert result.return_value == 2
    assert "nothing_like_it" in result.stderr and "line 1" in result.stderr


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("PORT", "81", 81),
        ("TIMEOUT", "2.5", 2.5),
        ("BATCHING", "no", False),
        ("STRICT", "TRUE", True),
        ("LOG_LEVEL", "debug", "debug"),
        ("CORS_ORIGIN", "https://a.example, https://b.example", None),
        ("TARGETS", "digits shop:svc", ["digits", "shop:svc"]),
    ],
)
def test_every_option_is_a_variable(variable: str, text: str, expected: Any) -> None:
    """Of the option's type."""
    (found,) = from_environment({f"TFRUNNER_{variable}": text}, serve).values()
    expected = ["https://a.example", "https://b.example"] if expected is None else expected
    assert found == (f"TFRUNNER_{variable}", expected)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("PORT", "many", "whole number"),
        ("STRICT", "perhaps", "true or false"),
        ("LOG_LEVEL", "loud", "one of 'debug'"),
        ("GRACE", "long", "a number"),
    ],
)
def test_a_variable_of_another_type_is_refused(variable: str, text: str, said: str) -> None:
    """With its name, what was expected, and what was given."""
    with pytest.raises(ConfigError, match=rf"\$TFRUNNER_{variable} is '{text}'.*{said}"):
        from_environment({f"TFRUNNER_{variable}": text}, serve)


def test_a_variable_that_is_nearly_one_is_pointed_out() -> None:
    """Others that begin so are somebody else's."""
    variables = {"TFRUNNER_MAX_BATCHSIZE": "3", "TFRUNNER_ZZZ": "1", "TFRUNNER_PORT": "1"}
    (line,) = misspelt(variables, serve)
    assert "TFRUNNER_MAX_BATCHSIZE" in line and "'TFRUNNER_MAX_BATCH_SIZE'" in line
    assert isinstance(serve, click.Command)
