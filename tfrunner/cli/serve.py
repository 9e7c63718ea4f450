"""`tfrunner serve`: start a server and stay with it until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console

from tfrunner import config
from tfrunner.cli.progress import Progress
from tfrunner.cli.targets import echo_targets, resolve
from tfrunner.config import DEFAULTS, ServedModel, ServerConfig, check_positive
from tfrunner.errors import ConfigError
from tfrunner.processes import configure_logging
from tfrunner.specs import ModelSpec, encode_spec
from tfrunner.store import Store
from tfrunner.supervisor.machine import count_cores, find_gpus, nvidia_smi
from tfrunner.supervisor.placement import place
from tfrunner.supervisor.supervisor import serve as run_server
from tfrunner.transport import check_address

LEVELS = click.Choice(["debug", "info", "warning", "error"])


@click.command()
@click.argument("targets", nargs=-1, metavar="MODEL... | MODULE:SERVICE")
@click.option("--host", default=DEFAULTS.host, show_default=True, help="Address to listen on.")
@click.option("--port", default=DEFAULTS.port, show_default=True, help="0: any free one.")
@click.option(
    "--workers", default=DEFAULTS.workers, help="Workers of each model; 1 per GPU, else 1."
)
@click.option("--workers-per-gpu", default=DEFAULTS.workers_per_gpu, show_default=True)
@click.option(
    "--api-workers", default=DEFAULTS.api_workers, show_default=True, help="HTTP processes."
)
@click.option("--max-batch-size", default=DEFAULTS.max_batch_size, show_default=True, help="Rows.")
@click.option(
    "--timeout", default=DEFAULTS.timeout, show_default=True, help="Seconds for a request."
)
@click.option(
    "--body-limit", default=DEFAULTS.body_limit, show_default=True, help="Bytes of a request."
)
@click.option("--grace", default=DEFAULTS.grace, show_default=True, help="Seconds to end in.")
@click.option(
    "--direct", multiple=True, metavar="tcp://127.0.0.1:PORT", help="Also for Python clients."
)
@click.option("--strict", is_flag=True, help="End if a model cannot be served.")
@click.option("--log-level", type=LEVELS, default=DEFAULTS.log_level, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Say as JSON that the server is ready.")
@click.option("--echo", is_flag=True, hidden=True, help="Serve the echo model (tests).")
@click.option("--hold", default=0, hidden=True, help="Start no batch before N wait (tests).")
def serve(targets: tuple[str, ...], echo: bool, as_json: bool, **options: Any) -> int:
    """Serve saved models, and Services, over HTTP and to Python clients.

    MODEL is `name` for the newest version, or `name:version`; MODULE:SERVICE names a Service
    in a Python module, whose models are served with it.
    """
    max_batch_size = options.pop("max_batch_size")
    check_positive("--max-batch-size", max_batch_size)
    check_positive("--timeout", options["timeout"], least=0.001)
    check_positive("--api-workers", options["api_workers"])
    for address in options["direct"]:
        if not check_address(address).startswith("tcp://") or address.endswith((":0", ":*")):
            raise ConfigError(f"--direct is {address!r}; expected tcp://127.0.0.1:PORT.")
    found = echo_targets(targets) if echo else resolve(targets, Store(config.home()))
    if not found.models and not found.services:
        raise ConfigError("say what to serve: `tfrunner serve MODEL`; `tfrunner models list`.")
    models = tuple(
        ServedModel(
            model.spec.tag, encode_spec(model.spec), path=model.path, max_batch_size=max_batch_size
        )
        for model in found.models
    )
    kind = "echo" if echo else "tensorflow"
    server = ServerConfig(models=models, services=found.services, kind=kind, **options)
    return run(server, [model.spec for model in found.models], as_json=as_json)


def run(server: ServerConfig, specs: Sequence[ModelSpec], *, as_json: bool) -> int:
    """Place the workers, and run the server until its end; return the exit code."""
    configure_logging(server.log_level, "supervisor")
    placements = place(
        [model.tag for model in server.models],
        workers=server.workers,
        workers_per_gpu=server.workers_per_gpu,
        gpus=() if server.kind == "echo" else find_gpus(config.visible_gpus(), nvidia_smi),
        cores=count_cores(),
    )
    audience = Progress(Console(stderr=True), models=specs, as_json=as_json)
    return run_server(server, placements, root=config.run_root(), audience=audience)
