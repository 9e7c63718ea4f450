"""The options of `tfrunner serve`, in the order in which its help shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from tfrunner.cli import observing
from tfrunner.cli.settings import read_config
from tfrunner.config import DEFAULTS

LEVELS = click.Choice(["debug", "info", "warning", "error"])
ACCESS_LOGS = ("off", "text", "json")
METRICS_ACCESSES = ("key", "open", "off")

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("targets", nargs=-1, metavar="MODEL... | MODULE:SERVICE"),
    click.option(
        "--config",
        "settings",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        is_eager=True,
        callback=read_config,
        help="TOML file with these options, and those of single runners; else $TFRUNNER_CONFIG.",
    ),
    click.option("--host", default=DEFAULTS.host, show_default=True, help="Address to listen on."),
    click.option("--port", default=DEFAULTS.port, show_default=True, help="0: any free one."),
    click.option(
        "--workers", default=DEFAULTS.workers, help="Workers of each model; 1 per GPU, else 1."
    ),
    click.option(
        "--workers-per-gpu",
        default=DEFAULTS.workers_per_gpu,
        show_default=True,
        help="Workers of each model on each GPU.",
    ),
    click.option(
        "--api-workers", default=DEFAULTS.api_workers, show_default=True, help="HTTP processes."
    ),
    click.option(
        "--max-batch-size", default=DEFAULTS.max_batch_size, show_default=True, help="Rows."
    ),
    click.option(
        "--batching/--no-batching",
        default=DEFAULTS.batching,
        show_default=True,
        help="Whether rows of different requests are run together.",
    ),
    click.option(
        "--timeout", default=DEFAULTS.timeout, show_default=True, help="Seconds for a request."
    ),
    click.option(
        "--body-limit", default=DEFAULTS.body_limit, show_default=True, help="Bytes of a request."
    ),
    click.option(
        "--queue-requests",
        default=DEFAULTS.queue_requests,
        show_default=True,
        help="Requests of a model that may wait; further ones are refused.",
    ),
    click.option(
        "--queue-bytes", default=DEFAULTS.queue_bytes, show_default=True, help="The same in bytes."
    ),
    click.option(
        "--max-connections",
        default=DEFAULTS.max_connections,
        show_default=True,
        help="HTTP connections of each api process; further ones are answered 503.",
    ),
    click.option(
        "--header-limit",
        default=DEFAULTS.header_limit,
        show_default=True,
        help="Bytes of a request's headers.",
    ),
    click.option(
        "--buffer-limit",
        default=DEFAULTS.buffer_limit,
        show_default=True,
        help="Bytes that each api process holds of bodies, and of answers nobody reads.",
    ),
    click.option(
        "--receive-timeout",
        default=DEFAULTS.receive_timeout,
        show_default=True,
        help="Seconds to wait for the headers, and for each next 64 KiB.",
    ),
    click.option(
        "--send-timeout",
        default=DEFAULTS.send_timeout,
        show_default=True,
        help="Seconds that a client has to take each next 64 KiB.",
    ),
    click.option(
        "--keep-alive",
        default=DEFAULTS.keep_alive,
        show_default=True,
        help="Seconds that a connection may be idle.",
    ),
    click.option("--grace", default=DEFAULTS.grace, show_default=True, help="Seconds to end in."),
    click.option(
        "--direct",
        multiple=True,
        metavar="tcp://127.0.0.1:PORT",
        help="Also for Python clients; *: any port.",
    ),
    click.option(
        "--recycle-requests",
        default=DEFAULTS.recycle_requests,
        help="Replace a worker after so many answers.",
    ),
    click.option(
        "--recycle-memory",
        default=DEFAULTS.recycle_memory,
        metavar="MB",
        help="Replace a worker when so much is resident.",
    ),
    click.option(
        "--spares",
        default=DEFAULTS.spares,
        help="Processes with TensorFlow imported that wait to replace a worker.",
    ),
    click.option(
        "--record",
        default="",
        metavar="FILE",
        help="Record when requests come, without contents, for `tfrunner simulate`.",
    ),
    click.option("--xla", is_flag=True, help="Try XLA too when plans are chosen."),
    click.option("--strict", is_flag=True, help="End if a model cannot be served."),
    click.option(
        "--access-log",
        type=click.Choice(ACCESS_LOGS),
        default=DEFAULTS.access_log,
        show_default=True,
        help="Write a line for each request.",
    ),
    click.option(
        "--access-log-file", default="", metavar="FILE", help="Where to, if not to stderr."
    ),
    click.option("--ssl-certfile", default="", metavar="FILE", help="Certificate: answer HTTPS."),
    click.option(
        "--ssl-keyfile", default="", metavar="FILE", help="Its key, if it is in another file."
    ),
    click.option(
        "--ssl-password-file",
        default="",
        metavar="FILE",
        help="Holds the key's password; else $TFRUNNER_SSL_PASSWORD.",
    ),
    click.option(
        "--ssl-ca-certs",
        default="",
        metavar="FILE",
        help="Answer only clients with a certificate of these authorities.",
    ),
    click.option(
        "--cors-origin",
        multiple=True,
        metavar="ORIGIN",
        help="Let pages of this origin call the server; *: of all. May be given several times.",
    ),
    click.option(
        "--api-keys",
        default="",
        metavar="FILE",
        help="Answer only requests with a key of this file: `tfrunner keys create`.",
    ),
    click.option(
        "--metrics-access",
        type=click.Choice(METRICS_ACCESSES),
        default=DEFAULTS.metrics_access,
        show_default=True,
        help="Who may read /metrics where there are API keys.",
    ),
    click.option(
        "--reload",
        is_flag=True,
        help="Serve a Service's module anew when it changes (development).",
    ),
    click.option(
        "--reload-include",
        multiple=True,
        metavar="PATTERN",
        help="Files beside it that count as well, as `*.yaml`.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print what would be served and how; start nothing."
    ),
    click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="How --dry-run prints it.",
    ),
    *observing.OPTIONS,
    click.option(
        "--log-level",
        type=LEVELS,
        default=DEFAULTS.log_level,
        show_default=True,
        help="Least important lines that are written.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Say as JSON that the server is ready."),
    click.option("--echo", is_flag=True, hidden=True, help="Serve the echo model (tests)."),
    click.option("--hold", default=0, hidden=True, help="Start no batch before N wait (tests)."),
)


def serve_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
