"""`tfrunner serve`: start a server and stay with it until it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from tfrunner import config
from tfrunner.cli.arrange import Arrangement, arrange
from tfrunner.cli.plan import print_plan
from tfrunner.cli.progress import Progress
from tfrunner.cli.reload import watching
from tfrunner.cli.serve_options import serve_options
from tfrunner.cli.settings import Reading, misspelt
from tfrunner.cli.targets import deploy
from tfrunner.config import ServerConfig
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.processes import CONFIG_ERROR, configure_logging
from tfrunner.supervisor.supervisor import serve as run_server

log = logging.getLogger("tfrunner.supervisor")


@click.command()
@serve_options
def serve(targets: tuple[str, ...], settings: Reading, **options: Any) -> int:
    """Serve models and Services over HTTP and to Python clients.

    MODEL is `name` for the newest version, or `name:version`; MODULE:SERVICE names a Service
    in a Python module, whose models are served with it.
    """
    context = click.get_current_context()
    configure_logging(options["log_level"], "supervisor")
    for line in misspelt(config.option_variables(), context.command):
        log.warning(line)
    if options["dry_run"]:
        return rehearse(context, targets, settings, options)
    settings.check()
    sources = settings.sources_of(context)
    arrangement = arrange(targets, options, settings.settings, sources=sources)
    deploy(arrangement.targets.deployments)
    return run(arrangement, words=targets, options=options, reading=settings)


def rehearse(
    context: click.Context, words: tuple[str, ...], reading: Reading, options: Mapping[str, Any]
) -> int:
    """Print what would be served; return the exit code: 2 if that cannot be."""
    try:
        reading.check()
        sources = reading.sources_of(context)
        arrangement = arrange(words, options, reading.settings, sources=sources)
    except TFRunnerError as exc:
        click.echo(f"Error: {' '.join(exc.message.split())}", err=True)
        return CONFIG_ERROR
    print_plan(arrangement, options, sources, settings=reading.settings, form=options["output"])
    return 0


def run(
    arrangement: Arrangement,
    *,
    words: tuple[str, ...],
    options: Mapping[str, Any],
    reading: Reading,
) -> int:
    """Run the server until its end; return the exit code."""
    server = with_recording(arrangement.server)
    audience = Progress(
        Console(stderr=True),
        models=arrangement.specs,
        routes=arrangement.targets.routes,
        as_json=options["as_json"],
    )
    if not options["reload"]:
        return run_server(server, arrangement.placements, root=config.run_root(), audience=audience)

    def again() -> Arrangement:
        found = arrange(words, {**options, "direct": server.direct}, reading.settings)
        audience.learn(found.specs)
        same = msgspec.structs.replace(found.server, record=server.record)
        return found._replace(server=same)

    with watching(arrangement, again, include=options["reload_include"]) as changes:
        return run_server(
            server,
            arrangement.placements,
            root=config.run_root(),
            audience=audience,
            changes=changes,
        )


def with_recording(server: ServerConfig) -> ServerConfig:
    """Return a server whose recording, if it makes one, is empty and named by its whole path.

    Processes are started elsewhere.

    Raises:
        ConfigError: It cannot be written.
    """
    if not server.record:
        return server
    try:
        Path(server.record).write_bytes(b"")
    except OSError as exc:
        raise ConfigError(
            f"requests cannot be recorded in {server.record}: {exc.strerror}."
        ) from exc
    return msgspec.structs.replace(server, record=str(Path(server.record).resolve()))
