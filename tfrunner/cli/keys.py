"""`tfrunner keys`: make, list and delete the API keys that a server asks for."""

from __future__ import annotations

from pathlib import Path

import click

from tfrunner import config
from tfrunner.api.key_file import add_key, delete_key, make_key, read_keys
from tfrunner.cli.model_views import print_data
from tfrunner.cli.models import form_option
from tfrunner.cli.naming import SuggestingGroup
from tfrunner.cli.tables import print_table

COLUMNS = ("name", "id", "requests/s", "in flight", "created (UTC)")

file_option = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Else $TFRUNNER_API_KEYS, else keys.json in $TFRUNNER_HOME.",
)


@click.group(cls=SuggestingGroup)
def keys() -> None:
    """Make, list and delete API keys; `tfrunner serve --api-keys FILE` asks for them.

    A running server takes over what changes within a second.
    """


@keys.command()
@click.argument("name")
@click.option("--rate", type=float, help="Most requests a second.")
@click.option("--in-flight", type=int, help="Most requests at a time.")
@file_option
def create(name: str, rate: float | None, in_flight: int | None, file: Path | None) -> None:
    """Make a key, and print it: once, as only a hash of it is kept."""
    path = file or config.api_keys_file()
    made = make_key(name, rate=rate, in_flight=in_flight)
    add_key(path, made.stored)
    click.echo(made.text)
    click.echo(f"Kept as a hash in {path}; this is the only time that it is shown.", err=True)


@keys.command("list")
@file_option
@form_option()
def list_keys(file: Path | None, form: str) -> None:
    """List the keys: whose they are, and what they may use."""
    found = read_keys(file or config.api_keys_file())
    if form != "table":
        fields = ("name", "id", "rate", "in_flight", "created")
        print_data([{name: getattr(each, name) for name in fields} for each in found], form)
        return
    rows = [
        (each.name, each.id, _text(each.rate), _text(each.in_flight), each.created[:19])
        for each in found
    ]
    print_table("API keys", COLUMNS, rows, numbers=COLUMNS[2:4])


@keys.command()
@click.argument("name")
@file_option
def delete(name: str, file: Path | None) -> None:
    """Delete a key: it is refused from now on."""
    delete_key(file or config.api_keys_file(), name)
    click.echo(f"deleted {name}")


def _text(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:g}"
