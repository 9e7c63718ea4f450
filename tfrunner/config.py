"""Every setting and its default; the only module that reads the environment.

Configuration is read once, into frozen structs, and passed down. A child process gets its
struct as one JSON argument on its command line, where `ps` shows it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tfrunner.errors import ConfigError
from tfrunner.options import RunnableSource, RunnerOptions

T = TypeVar("T")


class Defaults(msgspec.Struct, frozen=True):
    """The table of defaults; docs/configuration.md shows the same one."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_workers: int = 1
    workers: int = 0  # 0: one per GPU, or one with all cores where there is no GPU
    workers_per_gpu: int = 1
    max_batch_size: int = 64  # rows
    batching: bool = True
    timeout: float = 60.0  # seconds
    queue_requests: int = 10_000  # per model
    queue_bytes: int = 256 * 2**20  # per model
    body_limit: int = 64 * 2**20  # bytes
    max_connections: int = 4096  # per api process
    header_limit: int = 64 * 2**10  # bytes of a request's head
    buffer_limit: int = 512 * 2**20  # bytes per api process, in bodies; as much in answers
    receive_timeout: float = 60.0  # seconds for the next part of a request
    send_timeout: float = 60.0  # seconds for the next part of an answer
    keep_alive: float = 75.0  # seconds; longer than clients' pools usually keep a connection
    grace: float = 30.0  # seconds
    recycle_requests: int = 0  # requests that a worker answers before it is replaced; 0: any
    recycle_memory: int = 0  # resident MB above which a worker is replaced; 0: any
    spares: int = 0  # processes that have imported TensorFlow and wait for a model
    log_level: str = "info"


DEFAULTS = Defaults()


class ServedModel(msgspec.Struct, frozen=True):
    """A model as it is served.

    Args:
        tag: `name:version`; what requests name.
        spec: The encoded ModelSpec that gateways get.
        path: Folder of the model version; "" for a model that has none.
        max_batch_size: Most rows in one batch.
        kind: What its workers host: "tensorflow", "runnable" or "echo".
        runnable: The class that they host, where it is one.
        method_sizes: Most rows in one batch of single methods.
        xla: Whether its methods may be compiled by XLA, which takes seconds at each start.
    """

    tag: str
    spec: bytes
    path: str = ""
    max_batch_size: int = DEFAULTS.max_batch_size
    queue_requests: int = DEFAULTS.queue_requests
    queue_bytes: int = DEFAULTS.queue_bytes
    kind: str = "tensorflow"
    runnable: RunnableSource | None = None
    method_sizes: dict[str, int] = {}
    xla: bool = False

    def batch_size(self, method: str) -> int:
        """Return the most rows in one batch of a method."""
        return self.method_sizes.get(method, self.max_batch_size)

    @property
    def largest_batch(self) -> int:
        """The most rows in one batch of any method."""
        return max(self.max_batch_size, *self.method_sizes.values(), 1)


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


class WorkerConfig(msgspec.Struct, frozen=True):
    """What a worker process is started with.

    Args:
        name: Name of the worker, unique for each process start.
        device: "cpu", or the GPU's id as CUDA_VISIBLE_DEVICES names it.
        threads: Cores that this worker may use.
        recycle_requests: Leave after so many answers; 0: never.
        recycle_memory: Leave when so many MB are resident; 0: never.
    """

    name: str
    backend: str
    model: ServedModel
    device: str = "cpu"
    threads: int = 1
    recycle_requests: int = DEFAULTS.recycle_requests
    recycle_memory: int = DEFAULTS.recycle_memory
    parent: int = 0
    grace: float = DEFAULTS.grace
    log_level: str = DEFAULTS.log_level


class SpareConfig(msgspec.Struct, frozen=True):
    """What a spare is started with: a process that may become any worker.

    Args:
        name: Name of the spare, unique for each process start.
        kind: What it will host: "tensorflow", "runnable" or "echo".
    """

    name: str
    kind: str = "tensorflow"
    parent: int = 0
    log_level: str = DEFAULTS.log_level


class NewRole(msgspec.Struct, frozen=True):
    """What a spare is told once, on its standard input: which worker it is from now on.

    Args:
        config: The worker's.
        environment: What the worker's environment has to say.
    """

    config: WorkerConfig
    environment: dict[str, str]


class Bounds(msgspec.Struct, frozen=True):
    """What the connections of one api process may use.

    Args:
        max_connections: Most open at a time; the next ones are answered 503.
        header_limit: Most bytes of a request's first line and headers.
        body_limit: Most bytes of a body.
        buffer_limit: Most bytes that the bodies being received hold together, and as many
            that answers being sent hold.
        receive_timeout: Seconds in which the head of a request, and then each next 64 KiB of
            its body, must arrive.
        send_timeout: Seconds in which each next 64 KiB of an answer must be taken.
        keep_alive: Seconds that a connection may be idle.
    """

    max_connections: int = DEFAULTS.max_connections
    header_limit: int = DEFAULTS.header_limit
    body_limit: int = DEFAULTS.body_limit
    buffer_limit: int = DEFAULTS.buffer_limit
    receive_timeout: float = DEFAULTS.receive_timeout
    send_timeout: float = DEFAULTS.send_timeout
    keep_alive: float = DEFAULTS.keep_alive


class ApiConfig(msgspec.Struct, frozen=True):
    """What an api process is started with.

    Args:
        fd: The listening socket, inherited from the supervisor.
        services: Targets `module:attribute` of user-defined Services.
        runners: By runner, what the server's configuration asks for it, the most important
            first.
        model_options: The same by the tag of a model, for calls that come without a runner.
    """

    name: str
    frontend: str
    fd: int
    services: tuple[str, ...] = ()
    timeout: float = DEFAULTS.timeout
    runners: dict[str, tuple[RunnerOptions, ...]] = {}
    model_options: dict[str, tuple[RunnerOptions, ...]] = {}
    bounds: Bounds = Bounds()
    grace: float = DEFAULTS.grace
    parent: int = 0
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
    grace: float = DEFAULTS.grace
    runners: dict[str, tuple[RunnerOptions, ...]] = {}
    model_options: dict[str, tuple[RunnerOptions, ...]] = {}
    strict: bool = False
    recycle_requests: int = DEFAULTS.recycle_requests
    recycle_memory: int = DEFAULTS.recycle_memory
    spares: int = DEFAULTS.spares
    record: str = ""
    hold: int = 0
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

    Raises:
        ConfigError: The text does not hold one.
    """
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"the configuration of a process is unreadable: {exc}") from exc


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
