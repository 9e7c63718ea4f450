"""`tfrunner serve`: start a server and stay with it until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tfrunner import config
from tfrunner.cli.progress import Progress
from tfrunner.cli.settings import read_config
from tfrunner.cli.targets import echo_targets, resolve
from tfrunner.cli.wishes import demand, runner_layers, serve_model
from tfrunner.config import DEFAULTS, Bounds, ServerConfig, check_positive
from tfrunner.errors import ConfigError
from tfrunner.processes import configure_logging
from tfrunner.settings import Settings
from tfrunner.specs import ModelSpec
from tfrunner.store import Store
from tfrunner.supervisor.listener import fix_port
from tfrunner.supervisor.machine import count_cores, find_gpus, nvidia_smi
from tfrunner.supervisor.placement import Demand, place
from tfrunner.supervisor.supervisor import serve as run_server

LEVELS = click.Choice(["debug", "info", "warning", "error"])
LIMITS = ("max_batch_size", "queue_requests", "queue_bytes")
"""Options that hold for each model."""
BOUNDS = Bounds.__struct_fields__
"""Options that hold for each api process."""


@click.command()
@click.argument("targets", nargs=-1, metavar="MODEL... | MODULE:SERVICE")
@click.option(
    "--config",
    "settings",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    is_eager=True,
    callback=read_config,
    help="TOML file with these options, and those of single runners; else $TFRUNNER_CONFIG.",
)
@click.option("--host", default=DEFAULTS.host, show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULTS.port, show_default=True, help="0: any free one.")
@click.option(
    "--workers", default=DEFAULTS.workers, help="Workers of each model; 1 per GPU, else 1."
)
@click.option(
    "--workers-per-gpu",
    default=DEFAULTS.workers_per_gpu,
    show_default=True,
    help="Workers of each model on each GPU.",
)
@click.option(
    "--api-workers", default=DEFAULTS.api_workers, show_default=True, help="HTTP processes."
)
@click.option("--max-batch-size", default=DEFAULTS.max_batch_size, show_default=True, help="Rows.")
@click.option(
    "--batching/--no-batching",
    default=DEFAULTS.batching,
    show_default=True,
    help="Whether rows of different requests are run together.",
)
@click.option(
    "--timeout", default=DEFAULTS.timeout, show_default=True, help="Seconds for a request."
)
@click.option(
    "--body-limit", default=DEFAULTS.body_limit, show_default=True, help="Bytes of a request."
)
@click.option(
    "--queue-requests",
    default=DEFAULTS.queue_requests,
    show_default=True,
    help="Requests of a model that may wait; further ones are refused.",
)
@click.option(
    "--queue-bytes", default=DEFAULTS.queue_bytes, show_default=True, help="The same in bytes."
)
@click.option(
    "--max-connections",
    default=DEFAULTS.max_connections,
    show_default=True,
    help="HTTP connections of each api process; further ones are answered 503.",
)
@click.option(
    "--header-limit",
    default=DEFAULTS.header_limit,
    show_default=True,
    help="Bytes of a request's headers.",
)
@click.option(
    "--buffer-limit",
    default=DEFAULTS.buffer_limit,
    show_default=True,
    help="Bytes that each api process holds of bodies, and of answers nobody reads.",
)
@click.option(
    "--receive-timeout",
    default=DEFAULTS.receive_timeout,
    show_default=True,
    help="Seconds to wait for the headers, and for each next 64 KiB.",
)
@click.option(
    "--send-timeout",
    default=DEFAULTS.send_timeout,
    show_default=True,
    help="Seconds that a client has to take each next 64 KiB.",
)
@click.option(
    "--keep-alive",
    default=DEFAULTS.keep_alive,
    show_default=True,
    help="Seconds that a connection may be idle.",
)
@click.option("--grace", default=DEFAULTS.grace, show_default=True, help="Seconds to end in.")
@click.option(
    "--direct",
    multiple=True,
    metavar="tcp://127.0.0.1:PORT",
    help="Also for Python clients; *: any port.",
)
@click.option(
    "--recycle-requests",
    default=DEFAULTS.recycle_requests,
    help="Replace a worker after so many answers.",
)
@click.option(
    "--recycle-memory",
    default=DEFAULTS.recycle_memory,
    metavar="MB",
    help="Replace a worker when so much is resident.",
)
@click.option(
    "--spares",
    default=DEFAULTS.spares,
    help="Processes with TensorFlow imported that wait to replace a worker.",
)
@click.option(
    "--record",
    default="",
    metavar="FILE",
    help="Record when requests come, without contents, for `tfrunner simulate`.",
)
@click.option("--xla", is_flag=True, help="Try XLA too when plans are chosen.")
@click.option("--strict", is_flag=True, help="End if a model cannot be served.")
@click.option(
    "--log-level",
    type=LEVELS,
    default=DEFAULTS.log_level,
    show_default=True,
    help="Least important lines that are written.",
)
@click.option("--json", "as_json", is_flag=True, help="Say as JSON that the server is ready.")
@click.option("--echo", is_flag=True, hidden=True, help="Serve the echo model (tests).")
@click.option("--hold", default=0, hidden=True, help="Start no batch before N wait (tests).")
def serve(
    targets: tuple[str, ...],
    settings: Settings,
    echo: bool,
    as_json: bool,
    batching: bool,
    xla: bool,
    **options: Any,
) -> int:
    """Serve models and Services over HTTP and to Python clients.

    MODEL is `name` for the newest version, or `name:version`; MODULE:SERVICE names a Service
    in a Python module, whose models are served with it.
    """
    limits = {name: options.pop(name) for name in LIMITS}
    for name, value in limits.items():
        check_positive(f"--{name.replace('_', '-')}", value)
    bounds = Bounds(**{name: options.pop(name) for name in BOUNDS})
    for name in BOUNDS:
        least = 0.001 if isinstance(getattr(DEFAULTS, name), float) else 1
        check_positive(f"--{name.replace('_', '-')}", getattr(bounds, name), least=least)
    check_positive("--timeout", options["timeout"], least=0.001)
    check_positive("--api-workers", options["api_workers"])
    for name in ("recycle_requests", "recycle_memory", "spares"):
        check_positive(f"--{name.replace('_', '-')}", options[name], least=0)
    if options["record"]:
        options["record"] = start_recording(options["record"])
    options["direct"] = tuple(fix_port(address) for address in options["direct"])
    found = echo_targets(targets) if echo else resolve(targets, Store(config.home()))
    if not found.models and not found.services:
        raise ConfigError("say what to serve: `tfrunner serve MODEL`; `tfrunner models list`.")
    configure_logging(options["log_level"], "supervisor")
    server = ServerConfig(
        models=tuple(
            serve_model(target, settings, limits={**limits, "xla": xla}, batching=batching)
            for target in found.models
        ),
        services=found.services,
        runners=runner_layers(found.models, settings),
        model_options={
            target.spec.tag: tuple(layers)
            for target in found.models
            if (layers := settings.of_model(target.spec.tag))
        },
        bounds=bounds,
        **options,
    )
    demands = [demand(target, settings) for target in found.models]
    return run(server, demands, [model.spec for model in found.models], as_json=as_json)


def start_recording(path: str) -> str:
    """Empty the file of a recording; return its whole path: processes are started elsewhere.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        Path(path).write_bytes(b"")
    except OSError as exc:
        raise ConfigError(f"requests cannot be recorded in {path}: {exc.strerror}.") from exc
    return str(Path(path).resolve())


def run(
    server: ServerConfig, demands: Sequence[Demand], specs: Sequence[ModelSpec], *, as_json: bool
) -> int:
    """Place the workers, and run the server until its end; return the exit code."""
    uses_gpu = any(each.uses_gpu for each in demands)
    placements = place(
        demands,
        workers=server.workers,
        workers_per_gpu=server.workers_per_gpu,
        gpus=find_gpus(config.visible_gpus(), nvidia_smi) if uses_gpu else (),
        cores=count_cores(),
    )
    audience = Progress(Console(stderr=True), models=specs, as_json=as_json)
    return run_server(server, placements, root=config.run_root(), audience=audience)
