"""What each process is started with; the only module that reads the environment.

Configuration is read once, into frozen structs, and passed down. A child process gets its
struct as one JSON argument on its command line, where `ps` shows it; a long one lies in a file
that it inherits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tfrunner.defaults import DEFAULTS as DEFAULTS
from tfrunner.defaults import Defaults as Defaults
from tfrunner.entrance import Bounds as Bounds
from tfrunner.entrance import Entrance
from tfrunner.errors import ConfigError
from tfrunner.observation import Observation
from tfrunner.options import RunnerOptions
from tfrunner.worker_config import NewRole as NewRole
from tfrunner.worker_config import ServedModel as ServedModel
from tfrunner.worker_config import SpareConfig as SpareConfig
from tfrunner.worker_config import WorkerConfig as WorkerConfig

T = TypeVar("T")

PREFIX = "TFRUNNER_"
INHERITED = "@"
"""Between the name of a process and the descriptor of the file that holds its configuration."""

NO_OPTIONS = frozenset(
    PREFIX + name for name in ("HOME", "RUN_DIR", "CONFIG", "ADDRESS", "API_KEY", "SSL_PASSWORD")
)
"""Variables that begin like those of options, and mean something else."""


class DispatcherConfig(msgspec.Struct, frozen=True):
    """What a dispatcher process is started with.

    Args:
        frontend: Addresses that gateways connect to.
        backend: Address that workers and the supervisor connect to.
        hold: Start no batch before this many requests are queued (tests); 0: do not hold.
        parent: Pid of the supervisor, with which the process ends; 0: there is none.
        run_directory: What to remove if the supervisor is gone; "": nothing.
        home: $TFRUNNER_HOME, where it keeps what it has learned; "": nowhere.
        record: File that requests are recorded in, without their contents; "": none.
    """

    frontend: tuple[str, ...]
    backend: str
    models: tuple[ServedModel, ...]
    run_directory: str = ""
    grace: float = DEFAULTS.grace
    hold: int = 0
    parent: int = 0
    log_level: str = DEFAULTS.log_level
    home: str = ""
    record: str = ""


class ApiConfig(msgspec.Struct, frozen=True):
    """What an api process is started with.

    Args:
        fd: The listening socket, inherited from the supervisor.
        services: Targets `module:attribute` of user-defined Services.
        runners: By runner, what the server's configuration asks for it, the most important
            first.
        model_options: The same by the tag of a model, for calls that come without a runner.
        local_fd: A further listening socket that the supervisor asks at, without TLS; -1: none.
    """

    name: str
    frontend: str
    fd: int
    services: tuple[str, ...] = ()
    timeout: float = DEFAULTS.timeout
    runners: dict[str, tuple[RunnerOptions, ...]] = {}
    model_options: dict[str, tuple[RunnerOptions, ...]] = {}
    bounds: Bounds = Bounds()
    entrance: Entrance = Entrance()
    local_fd: int = -1
    grace: float = DEFAULTS.grace
    parent: int = 0
    observation: Observation = Observation()
    log_level: str = DEFAULTS.log_level


class ServerConfig(msgspec.Struct, frozen=True):
    """What a server is started with.

    Args:
        models: Each once.
        services: Targets `module:attribute` of user-defined Services.
        port: 0: any free one.
        direct: Further addresses at which Python clients reach the dispatcher: `tcp://...`.
        workers: Workers of each model; 0: `workers_per_gpu` per GPU, or one without a GPU.
        runners: See ApiConfig.
        model_options: See ApiConfig.
        strict: Whether a model that cannot be served ends the server.
        recycle_requests: Answers after which a worker is replaced; 0: never.
        recycle_memory: Resident MB above which a worker is replaced; 0: never.
        spares: Processes that wait to take the place of a worker.
        record: See DispatcherConfig.
        hold: Start no batch before this many requests are queued (tests).
    """

    models: tuple[ServedModel, ...]
    services: tuple[str, ...] = ()
    host: str = DEFAULTS.host
    port: int = DEFAULTS.port
    direct: tuple[str, ...] = ()
    workers: int = DEFAULTS.workers
    workers_per_gpu: int = DEFAULTS.workers_per_gpu
    api_workers: int = DEFAULTS.api_workers
    timeout: float = DEFAULTS.timeout
    bounds: Bounds = Bounds()
    entrance: Entrance = Entrance()
    grace: float = DEFAULTS.grace
    runners: dict[str, tuple[RunnerOptions, ...]] = {}
    model_options: dict[str, tuple[RunnerOptions, ...]] = {}
    strict: bool = False
    recycle_requests: int = DEFAULTS.recycle_requests
    recycle_memory: int = DEFAULTS.recycle_memory
    spares: int = DEFAULTS.spares
    record: str = ""
    hold: int = 0
    observation: Observation = Observation()
    log_level: str = DEFAULTS.log_level


class RunFile(msgspec.Struct, frozen=True):
    """`run.json` in the run directory: how to reach a running server."""

    pid: int
    http: str
    frontend: tuple[str, ...]
    models: tuple[str, ...]


def to_argument(config: msgspec.Struct) -> str:
    """Return a config as the one command-line argument of a child process."""
    return msgspec.json.encode(config).decode()


def from_argument(kind: type[T], text: str) -> T:
    """Return the config of that kind.

    Args:
        kind: Its type.
        text: JSON, or `<process>@<descriptor>`: the inherited file that holds it, closed here.

    Raises:
        ConfigError: The text does not hold one.
    """
    try:
        return msgspec.json.decode(_content(text), type=kind)
    except (OSError, msgspec.MsgspecError) as exc:
        raise ConfigError(f"the configuration of a process is unreadable: {exc}") from exc


def _content(text: str) -> bytes:
    name, _, number = text.strip().rpartition(INHERITED)
    if text.startswith("{") or not name or not number.isdecimal():
        return text.encode()
    with open(int(number), "rb") as file:
        file.seek(0)  # whoever wrote it stands at its end
        return file.read()


def home() -> Path:
    """Return `$TFRUNNER_HOME`, by default `~/tfrunner`: models and what was learned."""
    return Path(os.environ.get("TFRUNNER_HOME") or Path.home() / "tfrunner")


def run_root() -> Path:
    """Return the folder that holds one run directory for each running server.

    `$TFRUNNER_RUN_DIR`, else `$XDG_RUNTIME_DIR/tfrunner`, else `/tmp/tfrunner-<uid>`: short,
    because the path of a Unix socket has at most 107 characters.
    """
    if chosen := os.environ.get("TFRUNNER_RUN_DIR"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "tfrunner"
    return Path(f"/tmp/tfrunner-{os.getuid()}")


def server_address() -> str | None:
    """Return `$TFRUNNER_ADDRESS`, the server that clients call when given none."""
    return os.environ.get("TFRUNNER_ADDRESS") or None


def config_file() -> Path | None:
    """Return `$TFRUNNER_CONFIG`, the configuration file of `tfrunner serve`."""
    named = os.environ.get("TFRUNNER_CONFIG")
    return Path(named) if named else None


def option_variables() -> dict[str, str]:
    """Return the variables `TFRUNNER_<OPTION>` that hold options of `tfrunner serve`."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name not in NO_OPTIONS and value
    }


def api_keys_file() -> Path:
    """Return `$TFRUNNER_API_KEYS`, by default `keys.json` in `home()`."""
    return Path(os.environ.get("TFRUNNER_API_KEYS") or home() / "keys.json")


def api_key() -> str:
    """Return `$TFRUNNER_API_KEY`, with which clients call over HTTP; "" where there is none."""
    return os.environ.get("TFRUNNER_API_KEY", "")


def ssl_password() -> str:
    """Return `$TFRUNNER_SSL_PASSWORD`, the password of the TLS key; "" where there is none."""
    return os.environ.get("TFRUNNER_SSL_PASSWORD", "")


def notify_socket() -> str:
    """Return `$NOTIFY_SOCKET`, where systemd wants to be told of a start; "" elsewhere."""
    return os.environ.get("NOTIFY_SOCKET", "")


def visible_gpus() -> str | None:
    """Return the user's CUDA_VISIBLE_DEVICES, None where it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def child_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with changes, for a child process."""
    return {**os.environ, **changes}


def change_environment(**values: str) -> None:
    """Set variables of this process, for libraries that read them later."""
    os.environ.update(values)


def set_default_environment(**values: str) -> None:
    """Set variables that are not set, for a library that reads them when it is imported."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def check_positive(name: str, value: Any, *, least: float = 1) -> None:
    """Refuse a number below `least`.

    Raises:
        ConfigError: It is, or it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise ConfigError(f"{name} is {value!r}; expected a number of at least {least}.")
