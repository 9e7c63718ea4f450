"""`tfrunner predict` and `tfrunner status`: commands that call a running server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tfrunner.cli.status import print_status
from tfrunner.cli.tables import json_option, print_json, to_plain
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
    """Run a model on an input, with the running server.

    Prints the output as JSON. INPUT is JSON: a nested list for one input, an object for inputs
    by name. It may be @FILE, or - to read it from stdin.
    """
    value = read_input(input_)
    with Client(address, retries=False) as client:
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
    with Client(address, retries=False) as client:
        state = client.status()
        where = client.address
    if as_json:
        print_json(state)
        return
    print_status(state, where)
