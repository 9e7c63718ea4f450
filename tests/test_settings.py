"""What runners, configuration files and the command ask for, and whose word counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from tests.runnables import Doubler
from tfrunner import Runner
from tfrunner.cli.serve import serve
from tfrunner.cli.settings import defaults
from tfrunner.cli.targets import Target
from tfrunner.cli.wishes import demand, runner_layers, serve_model
from tfrunner.config import DEFAULTS, ServedModel
from tfrunner.errors import ConfigError
from tfrunner.options import (
    MethodOptions,
    ModelOptions,
    Needs,
    RunnerOptions,
    find_size,
    find_timeout,
)
from tfrunner.settings import Settings, read_settings
from tfrunner.specs import Argument, MethodSpec, ModelSpec, TensorSpec, decode_spec, encode_spec

X = (Argument("x", TensorSpec("x", "float32", (None, 2))),)
SPEC = ModelSpec(
    "m", "v1", 1, {name: MethodSpec(name, X, batchable=True) for name in ("__call__", "other")}
)
LIMITS = {"max_batch_size": 64, "queue_requests": 10, "queue_bytes": 1000}


def options(text: str = "", **methods: str) -> RunnerOptions:
    """Return options from "size latency", a dash for None, for all methods and for some."""

    def read(words: str) -> dict[str, Any]:
        numbers = [None if word == "-" else int(word) for word in words.split()]
        return dict(zip(("max_batch_size", "max_latency_ms"), numbers, strict=False))

    by_name = {name: MethodOptions(**read(words)) for name, words in methods.items()}
    return RunnerOptions(**read(text), methods=by_name)


def target(*runners: RunnerOptions) -> Target:
    """Return the model with runners called a, b, ... that ask for something."""
    needs = (
        Needs(runner=name, tag=SPEC.tag, spec=encode_spec(SPEC), options=each)
        for name, each in zip("abc", runners, strict=False)
    )
    return Target(SPEC, "/m", runners=tuple(needs))


def served(
    found: Target, settings: Settings | None = None, *, batching: bool = True
) -> ServedModel:
    """Return the model as it is served."""
    return serve_model(found, settings or Settings(), limits=LIMITS, batching=batching)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a configuration file."""

    def write_file(text: str) -> Path:
        file = tmp_path / "tfrunner.toml"
        file.write_text(text)
        return file

    return write_file


# --- precedence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "size", "seconds"),
    [
        ([options("8 100", other="4 50"), options("2 10")], 4, 0.05),
        ([options("8 100", other="- 50"), options("2 10")], 8, 0.05),
        ([options("8 100"), options(other="4 50")], 8, 0.1),
        ([options(), options("2 10", other="4 50")], 4, 0.05),
        ([options(), options("2 10")], 2, 0.01),
        ([options(), options()], None, None),
        ([], None, None),
    ],
    ids=[
        *("method first", "method's other bound", "runner before a later method"),
        *("later method", "later layer", "nobody", "no layers"),
    ],
)
def test_the_most_important_word_counts(
    layers: list[RunnerOptions], size: int | None, seconds: float | None
) -> None:
    """The method's own, then the runner's, then those of the next layer."""
    assert find_size(layers, "other") == size
    assert find_timeout(layers, "other") == seconds


@pytest.mark.parametrize(
    ("asked", "settings", "expected"),
    [
        (target(), Settings(), (64, {})),
        (target(), Settings(models={"m": options("32")}), (32, {})),
        (target(), Settings(models={"m": options("32"), "m:v1": options("16")}), (16, {})),
        (target(options()), Settings(runners={"a": options("8", other="4")}), (8, {"other": 4})),
        (
            target(options()),
            Settings(runners={"a": options("8")}, models={"m": options("16", other="2")}),
            (8, {}),
        ),
        (target(options("7")), Settings(runners={"a": options("8", other="4")}), (7, {})),
        (target(options("7", other="3")), Settings(), (7, {"other": 3})),
        (target(options(other="3")), Settings(), (64, {"other": 3})),
        (target(options(other="100")), Settings(), (64, {"other": 100})),
        (target(options("7"), options()), Settings(), (7, {})),
        (target(options("7"), options("7")), Settings(), (7, {})),
    ],
    ids=[
        *("command", "model", "version before model", "runner and method of the file"),
        *("runner before model", "constructor before file", "method_configs", "only one method"),
        *("a method above the rest", "one of two runners", "two that agree"),
    ],
)
def test_bounds_reach_the_served_model(
    asked: Target, settings: Settings, expected: tuple[int, dict[str, int]]
) -> None:
    """Most rows in one batch, and of single methods."""
    model = served(asked, settings)
    assert (model.max_batch_size, model.method_sizes) == expected
    assert model.batch_size("other") == expected[1].get("other", expected[0])
    assert model.largest_batch == max(expected[0], *expected[1].values(), 1)
    assert (model.queue_requests, model.path, model.kind) == (10, "/m", "tensorflow")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (options("7"), options("8"), r"'a' and 'b' of m:v1 contradict.*max_batch_size 7 and 8"),
        (options("7"), options(other="8"), "max_batch_size of other 7 and 8"),
    ],
    ids=["all methods", "one method"],
)
def test_two_runners_of_one_model_must_agree(
    first: RunnerOptions, second: RunnerOptions, expected: str
) -> None:
    """They share its queue; the error names both."""
    with pytest.raises(ConfigError, match=expected):
        served(target(first, second))


@pytest.mark.parametrize(
    ("everywhere", "runner", "model", "expected"),
    [
        (True, None, None, True),
        (False, None, None, False),
        (True, False, None, False),
        (False, True, None, True),
        (True, None, False, False),
        (True, True, False, True),
    ],
)
def test_batching_is_switched_off_for_all_one_runner_or_one_model(
    everywhere: bool, runner: bool | None, model: bool | None, expected: bool
) -> None:
    """Callers and workers get a specification without batchable methods."""
    settings = Settings(
        runners={"a": RunnerOptions(batching=runner)}, models={"m": RunnerOptions(batching=model)}
    )
    spec = decode_spec(served(target(options()), settings, batching=everywhere).spec)
    assert {method.batchable for method in spec.methods.values()} == {expected}


def test_workers_and_devices_are_asked_for_by_model() -> None:
    """The configuration's number; a Runnable's resources."""
    assert demand(target(), Settings(models={"m": RunnerOptions(workers=3)})).workers == 3
    for resources, uses, needs in (
        (("cpu",), False, False),
        (("nvidia.com/gpu", "cpu"), True, False),
        (("nvidia.com/gpu",), True, True),
    ):
        made = type("Made", (Doubler,), {"SUPPORTED_RESOURCES": resources})
        made.__module__, made.__qualname__ = Doubler.__module__, "Made"
        runnable = Target(SPEC, "", "runnable", (Runner(made).needs(),))
        asked = demand(runnable, Settings(runners={"made": RunnerOptions(workers=2)}))
        assert (asked.uses_gpu, asked.needs_gpu, asked.workers) == (uses, needs, 2)


def test_sections_that_mean_nothing_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """One file may serve several commands, but a slip should be seen."""
    settings = Settings(runners={"aa": options("8"), "a": options("- 5")}, models={"n": options()})
    with caplog.at_level(logging.WARNING):
        found = runner_layers([target(options("7"))], settings)
    assert found == {"a": (options("- 5"),)}
    assert "[runners.aa] means nothing that is served. Did you mean 'a'?" in caplog.text
    assert "[models.n] means nothing" in caplog.text


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_batch_size": 0}, "runner 'doubler': max_batch_size is 0; expected a whole number"),
        ({"max_batch_size": True}, "max_batch_size is True"),
        ({"max_batch_size": 2.5}, "max_batch_size is 2.5"),
        ({"max_latency_ms": 0}, "max_latency_ms is 0; expected a number above 0"),
        ({"max_latency_ms": "1 s"}, "max_latency_ms is '1 s'"),
        ({"method_configs": {"predikt": {}}}, "no method 'predikt'. Did you mean 'predict'"),
        ({"method_configs": {"predict": 5}}, "method 'predict': given 5"),
        ({"method_configs": {"predict": {"max_batch": 5}}}, "Did you mean 'max_batch_size'"),
    ],
    ids=str,
)
def test_options_of_a_runner_that_do_not_fit(given: dict[str, Any], expected: str) -> None:
    """Runner, key, what was expected, what was given."""
    with pytest.raises(ConfigError, match=expected):
        Runner(Doubler, **given)


def test_parameters_are_for_runnables() -> None:
    """A saved model has no constructor."""
    with pytest.raises(ConfigError, match="only a Runnable"):
        Runner(SPEC, runnable_init_params={"a": 1})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"partial": {}}, "no option 'partial'. Did you mean 'partial_kwargs'"),
        ({"partial_kwargs": 5}, "partial_kwargs is 5"),
        ({"partial_kwargs": {"__call__": 5}}, "expected arguments by method"),
    ],
    ids=str,
)
def test_model_options_that_do_not_fit(given: dict[str, Any], expected: str) -> None:
    """Key, what was expected, what was given."""
    with pytest.raises(ConfigError, match=expected):
        ModelOptions.from_dict(given)


def test_model_options_survive_every_way() -> None:
    """By keyword, from a dict, and by `with_options`."""
    made = ModelOptions(partial_kwargs={"__call__": {"factor": 3.0}})
    assert ModelOptions.from_dict(made.to_dict()) == made
    assert ModelOptions().with_options(partial_kwargs={"__call__": {"factor": 3.0}}) == made
    assert made.with_options() == made


# --- the file ---------------------------------------------------------------------------------

FILE = """
[serve]
targets = ["digits", "shop:svc"]
port = 8080
timeout = 5
max-batch-size = 32
batching = false
log_level = "warning"
direct = ["tcp://127.0.0.1:9"]
json = true

[runners.digits]
max_batch_size = 16
max_latency_ms = 200.5
batching = true
workers = 2

[runners.digits.methods.predict]
max_batch_size = 8

[models."irises:first"]
workers = 1
"""


def test_a_file_says_what_the_command_and_runners_get(write: Callable[[str], Path]) -> None:
    """Keys as the options are called, with a dash or an underscore."""
    settings = read_settings(write(FILE))
    assert defaults(settings.serve, serve, file=Path("f")) == {
        "targets": ["digits", "shop:svc"],
        "port": 8080,
        "timeout": 5,
        "max_batch_size": 32,
        "batching": False,
        "log_level": "warning",
        "direct": ["tcp://127.0.0.1:9"],
        "as_json": True,
    }
    assert settings.of_runner("digits") == RunnerOptions(
        16, 200.5, True, 2, {"predict": MethodOptions(8)}
    )
    assert settings.of_model("irises:first") == [RunnerOptions(workers=1)]
    assert settings.of_model("irises:second") == []
    assert settings.of_runner("other") == RunnerOptions()


def test_every_shown_option_can_stand_in_a_file() -> None:
    """By its default, which must fit its own type."""
    table = dict(msgspec.structs.asdict(DEFAULTS))
    assert defaults(table, serve, file=Path("f")) == table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[serv]", r"no table \[serv\]. Did you mean 'serve'"),
        ("serve = 5", r"\[serve\] is 5; expected a table"),
        ("[serve]\nprot = 1", r"\[serve\]: there is no option 'prot'. Did you mean 'port'"),
        ("[serve]\necho = true", "no option 'echo'"),
        ("[serve]\nconfig = 'x'", "no option 'config'"),
        ("[serve]\nport = '80'", r"\[serve\]: port is '80'; expected a whole number"),
        ("[serve]\nport = true", "port is True; expected a whole number"),
        ("[serve]\ntimeout = '1s'", "timeout is '1s'; expected a number"),
        ("[serve]\nbatching = 1", "batching is 1; expected true or false"),
        ("[serve]\nhost = 1", "host is 1; expected text"),
        ("[serve]\nlog_level = 'loud'", "expected one of 'debug', 'info'"),
        ("[serve]\ntargets = 'm'", "targets is 'm'; expected a list of text"),
        ("[serve]\ndirect = [1]", "expected a list of text"),
        ("[runners]\na = 5", r"\[runners.a\] is 5; expected a table"),
        ("[runners.a]\nmax_batch = 5", r"\[runners.a\].*Did you mean 'max_batch_size'"),
        ("[runners.a]\nworkers = 0", r"\[runners.a\]: workers is 0; expected a whole number"),
        ("[runners.a]\nbatching = 'no'", "expected true or false"),
        ("[runners.a.methods.p]\nworkers = 1", r"method 'p': there is no option 'workers'"),
        ("[runners.a]\nmethods = 5", "methods is 5; expected a table"),
        ("[models.m]\nmax_latency_ms = -1", r"\[models.m\]: max_latency_ms is -1"),
        ("nonsense", "is no TOML"),
    ],
    ids=str,
)
def test_a_file_with_a_slip_is_refused(
    write: Callable[[str], Path], text: str, expected: str
) -> None:
    """File, table, key, what was expected, what was given."""
    file = write(text)
    outcome = CliRunner().invoke(serve, ["--config", str(file)])
    assert isinstance(outcome.exception, ConfigError)
    assert str(file) in outcome.exception.message
    with pytest.raises(ConfigError, match=expected):
        raise outcome.exception


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment names a file too; `--config` goes before it."""
    file = write("[serve]\nport = 8080\ntimeout = 5\n")

    def values(*arguments: str) -> dict[str, Any]:
        with serve.make_context("serve", ["m", *arguments]) as context:
            assert isinstance(context, click.Context)
            return context.params

    given = values("--config", str(file), "--port", "1")
    assert (given["port"], given["timeout"], given["grace"]) == (1, 5, DEFAULTS.grace)
    monkeypatch.setenv("TFRUNNER_CONFIG", str(file))
    assert values()["port"] == 8080
    other = file.with_name("other.toml")
    other.write_text("[serve]\nport = 9\n")
    assert (values("--config", str(other))["port"], values()["port"]) == (9, 8080)
    monkeypatch.setenv("TFRUNNER_CONFIG", str(file.with_name("missing.toml")))
    with pytest.raises(ConfigError, match="cannot be read"):
        values()["settings"].check()


@pytest.mark.parametrize("kind", ["runners", "models"])
def test_methods_that_do_not_exist_are_named(kind: str) -> None:
    """With the section."""
    asked = {"a": options(othr="3"), "m": options(othr="3")}
    with pytest.raises(ConfigError, match=rf"\[{kind}.*no method 'othr'. Did you mean 'other'"):
        served(target(options()), Settings(**{kind: asked}))
