"""A worker process: `python -m tfrunner_workers '<WorkerConfig as JSON>'`.

Order matters: end with the parent, say hello (so that the dispatcher knows of a worker that
loads), import TensorFlow with its threads and device set, load, warm, say ready, serve.
Exit codes: 0 stopped; 2 the configuration is unreadable; 3 the model cannot be served, do
not restart. SIGTERM ends a worker that still loads at once, a ready one after what it holds.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tfrunner.config import ServedModel, WorkerConfig, from_argument
from tfrunner.errors import ConfigError, CorruptModel, TFRunnerError
from tfrunner.monitoring import MONITORS
from tfrunner.options import RunnableSource
from tfrunner.processes import (
    CONFIG_ERROR,
    LOAD_ERROR,
    StopSignals,
    configure_logging,
    die_with_parent,
)
from tfrunner.protocol import MethodState
from tfrunner.specs import decode_spec
from tfrunner_workers import echo, recall, runnables
from tfrunner_workers.answering import Entry, entries
from tfrunner_workers.connection import Connection
from tfrunner_workers.devices import CPU, device_class, import_tensorflow, load_tensorflow
from tfrunner_workers.hosted import Hosted, describe
from tfrunner_workers.loop import Loop
from tfrunner_workers.splitting import Split
from tfrunner_workers.warmup import declared, warm

if TYPE_CHECKING:
    from tfrunner_workers.savedmodel import LoadedModel

FAREWELL_SECONDS = 5.0
"""How long a worker waits for its last words to leave."""

logger = logging.getLogger("tfrunner.worker")


def main() -> int:
    """Serve one model until stopped; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to answer
    try:
        config = from_argument(WorkerConfig, sys.argv[1] if len(sys.argv) == 2 else "")
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    die_with_parent(config.parent)
    return work(config)


def work(config: WorkerConfig) -> int:
    """Be this worker until stopped; return the exit status."""
    configure_logging(config.log_level, config.name)
    MONITORS.configure(config.name, config.observation)
    connection = Connection(config)
    connection.open()
    try:
        config = fit(config)
        hosted, states = load(config)
    except (Exception, SystemExit) as exc:  # a model's own code may call exit
        reason = exc.message if isinstance(exc, TFRunnerError) else describe(exc)
        logger.error("%s cannot be served: %s", config.model.tag, reason, exc_info=True)
        connection.report_load_error(reason)
        connection.close(FAREWELL_SECONDS)
        return LOAD_ERROR
    # What users wrote may keep an input; TensorFlow's functions do not.
    table = entries(hosted, states, borrows=config.model.kind != "runnable")
    serve(connection, table, states, on=device_class(config.device, config.threads))
    MONITORS.writer.close()
    connection.close(min(config.grace, FAREWELL_SECONDS))
    return 0


def fit(config: WorkerConfig) -> WorkerConfig:
    """Return a configuration with as many threads as the model has use for, if that is known.

    Raises:
        ConfigError: TensorFlow cannot be imported.
    """
    if config.model.kind != "tensorflow" or not Path(config.model.path).is_dir():
        return config
    load_tensorflow()
    threads = recall.threads(config)
    if threads < config.threads:
        logger.info("one thread is enough: full batches are known to cost little")
    return msgspec.structs.replace(config, threads=threads)


def load(config: WorkerConfig) -> tuple[Hosted, tuple[MethodState, ...]]:
    """Return the model, loaded and warm, and how each of its methods is to be run.

    Args:
        config: Names the model, its folder, the device and the threads.

    Raises:
        CorruptModel: The model's folder is not there.
        ConfigError: TensorFlow cannot be imported, or the device cannot be used.
    """
    model = config.model
    if model.kind == "echo":
        echoing = echo.EchoModel(model.tag)
        restrict(echoing, model)
        return echoing, declared(echoing)
    if model.kind == "runnable" and model.runnable is not None:
        return load_runnable(model, model.runnable, threads=config.threads)
    if model.kind != "tensorflow":
        raise ConfigError(
            f"{model.tag} is of kind {model.kind!r}; there are: echo, runnable, tensorflow"
        )
    return load_saved(config)


def load_runnable(
    model: ServedModel, source: RunnableSource, *, threads: int
) -> tuple[Hosted, tuple[MethodState, ...]]:
    """Return a Runnable, constructed and warm; TensorFlow only if its module imports it."""
    started = time.perf_counter()
    hosted = runnables.load(source, decode_spec(model.spec), threads=threads)
    logger.info("constructed %s in %.1f s", source.name, _since(started))
    return hosted, warm(hosted, model.max_batch_size, limits=model.method_sizes)


def load_saved(config: WorkerConfig) -> tuple[Hosted, tuple[MethodState, ...]]:
    """Return a saved model, loaded and warm. Imports TensorFlow."""
    path = Path(config.model.path)
    if not path.is_dir():
        raise CorruptModel(
            f"{config.model.tag}: its folder {str(path)!r} is not there; put it back (`tfrunner "
            "models import`), or serve another version"
        )
    device = import_tensorflow(config.device, config.threads)
    from tfrunner_workers import plans, savedmodel, ways  # import TensorFlow

    started = time.perf_counter()
    hosted = savedmodel.load(str(path), device=device)
    logger.info("loaded %s on %s in %.1f s", config.model.tag, device, _since(started))
    restrict(hosted, config.model)
    started = time.perf_counter()
    settings = ways.Settings(
        config.model.largest_batch, config.threads, config.model.xla, config.device == CPU
    )
    known = {name: plan.name for name, plan in recall.plans(config, config.threads).items()}
    records = plans.choose_all(hosted, settings, known=known)
    logger.info("chose plans in %.1f s", _since(started))
    started = time.perf_counter()
    states = warm(hosted, config.model.max_batch_size, limits=config.model.method_sizes)
    logger.info("warmed and probed in %.1f s", _since(started))
    chosen = {record.method: record for record in records}
    splits = {name: run for name, run in hosted.methods.items() if isinstance(run, Split)}
    return hosted, tuple(
        msgspec.structs.replace(
            state,
            plan=chosen[state.name].plan,
            gain=chosen[state.name].gain,
            reason=chosen[state.name].reason,
            parts=splits[state.name].threads if state.name in splits else 1,
        )
        for state in states
    )


def restrict(hosted: LoadedModel | echo.EchoModel, model: ServedModel) -> None:
    """Let no method be batched that the server's configuration has switched batching off for."""
    served = decode_spec(model.spec).methods
    methods = {
        name: msgspec.structs.replace(
            method, batchable=method.batchable and (name not in served or served[name].batchable)
        )
        for name, method in hosted.spec.methods.items()
    }
    hosted.spec = msgspec.structs.replace(hosted.spec, methods=methods)


def serve(
    connection: Connection, table: dict[str, Entry], states: tuple[MethodState, ...], *, on: str
) -> None:
    """Say ready, and answer batches until a Stop or a signal comes; `on` is the device's class."""
    with StopSignals((signal.SIGTERM,)) as signals:
        connection.become_ready(states, signals, device_class=on)
        logger.info("ready")
        Loop(connection, table).run()
        logger.info("stopped")


def _since(started: float) -> float:
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
