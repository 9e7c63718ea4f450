"""The `tfrunner` command: what it reads, what it prints, how it fails."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from tests.test_store import put
from tests.waiting import wait_for
from tfrunner import __main__ as module
from tfrunner.cli import main
from tfrunner.cli.calls import read_input
from tfrunner.cli.progress import Progress, curl, example_body
from tfrunner.cli.tables import bytes_text, to_plain
from tfrunner.cli.targets import resolve
from tfrunner.config import RunFile
from tfrunner.errors import ConfigError, InvalidInput, NotFound
from tfrunner.specs import Argument, DictSpec, ListSpec, MethodSpec, ModelSpec, TensorSpec
from tfrunner.store import Store
from tfrunner.testing import serve


class Outcome:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        """The output, which must be JSON and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys, home, run_root):
    """Return a function that runs the command with an empty home and run root."""

    def call(*arguments: str) -> Outcome:
        handlers, level = logging.root.handlers[:], logging.root.level
        try:
            with pytest.raises(SystemExit) as ended:
                main(arguments)
        finally:
            for handler in set(logging.root.handlers) - set(handlers):
                handler.close()
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(ended.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def store(home) -> Store:
    """Return a store with two names and three versions."""
    store = Store(home)
    put(store, "digits:first", time="2026-01-01T00:00:00+00:00")
    put(store, "digits:second", time="2026-01-02T00:00:00+00:00")
    put(store, "irises:only")
    return store


def test_version(run):
    """The version is that of the installed package."""
    assert re.fullmatch(r"tfrunner \d\S+\n", run("--version").out)


def test_help_names_the_commands_and_hides_the_echo_model(run):
    """Switches that are only for tests are not shown."""
    assert all(word in run("--help").out for word in ("serve", "models", "predict", "status"))
    told = run("serve", "--help").out
    assert "--workers-per-gpu" in told
    assert "echo" not in told and "--hold" not in told


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(["serv"], "'serve'"), (["models", "lst"], "'list'"), (["predikt"], "'predict'")],
)
def test_a_wrong_command_suggests_the_near_one(run, arguments, suggestion):
    """Wrong usage is exit code 2."""
    outcome = run(*arguments)
    assert (outcome.code, suggestion in outcome.err) == (2, True)


def test_models_are_listed(run, store):
    """As a table, newest version first, and as JSON."""
    out = run("models", "list").out
    assert out.index("digits:second") < out.index("digits:first") < out.index("irises:only")
    listed = run("models", "list", "--json").json
    assert [model["tag"] for model in listed] == ["digits:second", "digits:first", "irises:only"]
    assert [model["serial"] for model in listed] == [2, 1, 1]
    assert len(run("models", "list", "digits", "--json").json) == 2


def test_an_empty_store_says_where_it_looked(run, home):
    """No table without rows; as JSON an empty list."""
    assert str(home) in run("models", "list").out
    assert run("models", "list", "--json").json == []


def test_a_corrupt_entry_is_named_beside_the_others(run, store):
    """The readable models are listed, the corrupt one is a warning."""
    (store.models / "irises" / "only" / "model.yaml").write_text("{")
    outcome = run("models", "list")
    assert outcome.code == 0
    assert "digits:second" in outcome.out
    assert re.search(r"Warning: .*irises", outcome.err)


def test_a_model_is_shown_with_what_it_takes_and_gives(run, store):
    """Shapes and dtypes as people write them."""
    assert "float32 [?, 5]" in run("models", "get", "digits:first", "--json").out
    shown = run("models", "get", "digits").out
    assert "digits:second (serial 2)" in shown
    assert "__call__" in shown


def test_a_wrong_model_name_suggests_the_near_one(run, store):
    """One line, exit code 1."""
    outcome = run("models", "get", "digit")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "Did you mean 'digits'?" in outcome.err


def test_deleting_with_yes_does_not_ask(run, store):
    """For scripts; the answer is JSON if wanted."""
    outcome = run("models", "delete", "digits:first", "irises", "--yes", "--json")
    assert outcome.json == {"deleted": ["digits:first", "irises:only"]}


def test_targets_are_models_by_tag_and_each_once(store):
    """Name, version, serial number and beginning of a version all mean a model."""
    words = ["digits", "digits:second", "digits:1", "irises:on"]
    found = resolve(words, store)
    assert [t.spec.tag for t in found.models] == ["digits:second", "digits:first", "irises:only"]
    assert found.services == ()


def test_a_service_brings_its_models_along(store, tmp_path, monkeypatch):
    """A target with a colon that is no tag is looked up as module:attribute."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "shop.py").write_text(
        "import tfrunner\n"
        "runner = tfrunner.models.get('digits:first').to_runner()\n"
        "svc = tfrunner.Service('shop', runners=[runner])\n"
    )
    found = resolve(["shop:svc"], store)
    assert found.services == ("shop:svc",)
    assert [target.spec.tag for target in found.models] == ["digits:first"]


def test_a_wrong_version_is_not_taken_for_a_service(store):
    """The message speaks of the model that exists."""
    with pytest.raises(NotFound, match=r"version 'third' of model 'digits'"):
        resolve(["digits:third"], store)


def test_a_target_that_is_neither_says_so(store):
    """Neither a tag nor something that can be imported."""
    with pytest.raises(ConfigError, match=r"no_such_module:svc.*neither.*nor"):
        resolve(["no_such_module:svc"], store)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to serve"),
        (["digit"], "Did you mean 'digits'"),
        (["digits:third"], "version 'third'"),
        (["digits", "--max-batch-size", "0"], "--max-batch-size"),
        (["digits", "--timeout", "0"], "--timeout"),
        (["digits", "--api-workers", "0"], "--api-workers"),
        (["digits", "--workers", "-1"], "workers"),
        (["digits", "--host", "203.0.113.1", "--port", "0"], "203.0.113.1"),
        (["digits", "--port", "70000"], "70000"),
        (["digits", "--direct", "ipc:///tmp/there"], "--direct"),
        (["digits", "--direct", "tcp://0.0.0.0:5555"], "is refused"),
    ],
)
def test_serve_refuses_in_one_line(run, store, arguments, said):
    """Before anything is started, with exit code 1."""
    outcome = run("serve", *arguments)
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("Error: ") and said in last


def test_serve_names_a_corrupt_entry_in_one_line(run, store):
    """What is wrong with which file, and what to do."""
    (store.models / "irises" / "only" / "model.yaml").write_text("{")
    outcome = run("serve", "irises", "--port", "0")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "model.yaml" in outcome.err and "tfrunner models delete irises:only" in outcome.err


@pytest.mark.parametrize("command", [["status"], ["predict", "digits", "[1]"]])
def test_without_a_server_the_message_says_how_to_start_one(run, command):
    """One line, exit code 1."""
    outcome = run(*command)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "tfrunner serve" in outcome.err


def test_predict_and_status_of_a_running_server(run, tmp_path, monkeypatch):
    """Input from the argument, a file and stdin; errors as one line; state as JSON and tables."""
    (tmp_path / "rows.json").write_text("[[1, 2]]")
    with serve("echo", echo=True) as client:
        where = ("--address", client.http_address)
        assert run("predict", "echo", "[[1.5, NaN]]", *where).out == "[[1.5, NaN]]\n"
        assert run("predict", "echo", f"@{tmp_path}/rows.json", *where).json == [[1.0, 2.0]]
        monkeypatch.setattr(sys, "stdin", io.StringIO('{"x": [[3]]}'))
        assert run("predict", "echo", *where).json == [[3.0]]

        wrong = run("predict", "eco", "[[1]]", *where)
        assert (wrong.code, "Did you mean 'echo'" in wrong.err) == (1, True)
        assert run("predict", "echo", "[[-1]]", "--method", "fail", *where).code == 1

        def measured() -> dict | None:
            """Return the state once the supervisor has looked at every process."""
            found = run("status", "--json", *where).json
            rows = found["processes"]
            return found if rows and all(row["rss"] > 1e6 for row in rows) else None

        state = wait_for(measured)
        kinds = sorted(process["kind"] for process in state["processes"])
        assert kinds == ["api", "dispatcher", "supervisor", "worker"]
        shown = run("status", *where).out
        assert all(word in shown for word in ("echo:1", "worker-", "dispatcher", "supervisor"))


@pytest.mark.parametrize("text", ["[1, 2", "@/no/such/file", ""])
def test_input_that_is_no_json_is_refused(text):
    """The message names where it came from."""
    with pytest.raises(InvalidInput, match=r"input|/no/such/file"):
        read_input(text)


def test_outputs_become_json():
    """Text stays text, other bytes are base64, complex numbers are pairs."""
    value = {"a": np.float32([[0.5]]), "b": (np.int64(3), b"ja", b"\xff"), "c": np.complex64(1j)}
    assert to_plain(value) == {"a": [[0.5]], "b": [3, "ja", {"b64": "/w=="}], "c": [0.0, 1.0]}


def test_sizes_are_readable():
    """Powers of ten, one digit after the point."""
    sizes = (12, 1234, 5_600_000, 7.8e9)
    assert [bytes_text(size) for size in sizes] == ["12 B", "1.2 kB", "5.6 MB", "7.8 GB"]


SPEC = ModelSpec(
    "digits",
    "v1",
    1,
    {
        "score": MethodSpec(
            "score",
            (
                Argument("image", TensorSpec("image", "float32", (None, 2))),
                Argument("word", TensorSpec("word", "string", ())),
                Argument(
                    "rest",
                    DictSpec({"flags": ListSpec((TensorSpec("flag", "bool", (None,)),))}),
                ),
            ),
        )
    },
)


def test_the_example_call_fits_the_specification():
    """What is printed at the start can be pasted."""
    body = {
        "signature_name": "score",
        "inputs": {"image": [[0.0, 0.0]], "word": "", "rest": {"flags": [[False]]}},
    }
    assert example_body(SPEC) == body
    line = curl(SPEC, "http://127.0.0.1:8000")
    assert line.startswith("curl -s http://127.0.0.1:8000/v1/models/digits:predict ")
    assert json.loads(re.search(r"-d '(.*)'", line)[1]) == body


def test_an_example_call_that_would_fill_the_screen_is_not_shown():
    """The page that describes the model is named instead."""
    method = MethodSpec("__call__", (Argument("x", TensorSpec("x", "float32", (None, 784))),))
    line = curl(ModelSpec("big", "v1", 1, {"__call__": method}), "http://h:1")
    assert "/v1/models/big/metadata" in line and len(line) < 200


def test_progress_is_told_once_for_each_change(capsys):
    """Lines where there is no terminal: loading, ready, not to be served."""
    out = io.StringIO()
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    progress = Progress(Console(file=out), models=[SPEC], clock=lambda: next(clock))
    progress.begin()
    states = [("loading", ""), ("unavailable", "no file"), ("unavailable", "no file")]
    for state, reason in [*states, ("available", "")]:
        progress.watch({"models": {"digits:v1": {"state": state, "reason": reason}}})
    progress.ready(RunFile(1, "http://127.0.0.1:80", (), ("digits:v1",)))
    assert [line.split(" (")[0] for line in out.getvalue().splitlines()] == [
        "loading digits:v1",
        "digits:v1 cannot be served: no file",
        "digits:v1 is ready after 4.0 s",
    ]
    assert "serving digits:v1 at http://127.0.0.1:80" in capsys.readouterr().out


def test_what_a_reload_serves_is_announced_too(capsys):
    """Models that were not there at the start."""
    progress = Progress(Console(file=io.StringIO()), models=[])
    progress.learn([SPEC])
    progress.ready(RunFile(1, "http://127.0.0.1:80", (), ("digits:v1",)))
    assert "try:  curl -s http://127.0.0.1:80/v1/models/digits:predict" in capsys.readouterr().out


def test_the_routes_of_services_are_named(capsys):
    """Before the example of a model."""
    progress = Progress(Console(file=io.StringIO()), models=[SPEC], routes=["/double", "/best"])
    progress.ready(RunFile(1, "http://127.0.0.1:80", (), ("digits:v1",)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "routes: /double, /best"
    assert lines[2].startswith("try:  curl")


def test_python_m_tfrunner_is_the_command():
    """Where the script is not on the path."""
    assert module.main is main
