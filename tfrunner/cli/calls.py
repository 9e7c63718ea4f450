"""`tfrunner predict` and `tfrunner status`: commands that call a running server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tfrunner.cli.tables import bytes_text, json_option, print_json, print_table, to_plain
from tfrunner.client import Client
from tfrunner.config import DEFAULTS
from tfrunner.errors import InvalidInput

at_address = click.option(
    "--address", help="Server to call: http://host:port; the running one by default."
)


@click.command()
@click.argument("model")
@click.argument("input_", metavar="INPUT", default="-")
@click.option("--method", help="Method to run; the model's default one if not given.")
@click.option("--timeout", default=DEFAULTS.timeout, show_default=True, help="Seconds.")
@at_address
def predict(
    model: str, input_: str, method: str | None, timeout: float, address: str | None
) -> None:
    """Run MODEL on INPUT with the running server; prints the output as JSON.

    INPUT is JSON: a nested list for one input, an object for inputs by name. It may be
    @FILE, or - to read it from stdin.
    """
    value = read_input(input_)
    with Client(address) as client:
        output = client.predict(model, value, method=method, timeout=timeout)
    print_json(to_plain(output), indent=None)


def read_input(text: str) -> Any:
    """Return the value that a JSON text, `@file`, or `-` for stdin stands for.

    Raises:
        InvalidInput: It is no JSON, or the file cannot be read.
    """
    source = "the input"
    if text == "-":
        source, text = "stdin", sys.stdin.read()
    elif text.startswith("@"):
        source = text[1:]
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{source} cannot be read: {exc}") from exc
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidInput(f"{source} is no JSON: {exc}. Expected e.g. '[[1, 2, 3]]'.") from exc


@click.command()
@at_address
@json_option
def status(address: str | None, as_json: bool) -> None:
    """Show the running server: its models, its workers, its processes."""
    with Client(address) as client:
        state = client.status()
        where = client.address
    if as_json:
        print_json(state)
        return
    print_table(f"models at {where}", MODEL_COLUMNS, _model_rows(state))
    print_table("processes", PROCESS_COLUMNS, _process_rows(state))


MODEL_COLUMNS = ("model", "state", "workers", "queued", "answered", "failed", "rows per batch")
PROCESS_COLUMNS = ("process", "pid", "state", "device", "batches", "memory", "CPU", "restarts")


def _model_rows(state: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for tag, model in state["models"].items():
        requests = model["requests"]
        failed = sum(count for outcome, count in requests.items() if outcome != "ok")
        mean = model["rows"] / model["batches"] if model["batches"] else 0.0
        what = model["state"] + (f": {model['reason']}" if model["reason"] else "")
        counts = (model["workers"], model["queued_requests"], requests.get("ok", 0), failed)
        rows.append((tag, what, *map(str, counts), f"{mean:.1f}"))
    return rows


def _process_rows(state: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for process in state["processes"]:
        worker = state["workers"].get(process["name"], {})
        what = worker.get("state", process["state"])
        if worker.get("last_error"):
            what += f" (last error: {worker['last_error']})"
        rows.append(
            (
                process["name"],
                str(process["pid"] or "-"),
                what,
                worker.get("device", ""),
                str(worker.get("batches", "")),
                bytes_text(process["rss"]),
                f"{process['cpu_seconds']:.1f} s",
                str(process["restarts"]),
            )
        )
    return rows
