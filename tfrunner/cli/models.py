"""`tfrunner models`: look at saved models, delete, copy, export and import them.

Imports TensorFlow only to import what TensorFlow or Keras wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tfrunner import config
from tfrunner import models as saved
from tfrunner.archives import Format, OnProgress, no_progress
from tfrunner.cli.meter import Meter
from tfrunner.cli.model_views import (
    brief,
    learned_data,
    print_data,
    print_learned,
    print_model,
    print_models,
    whole,
)
from tfrunner.cli.naming import SuggestingGroup
from tfrunner.cli.tables import bytes_text, json_option, print_json
from tfrunner.custom_objects import CUSTOM_OBJECTS_FILE
from tfrunner.entry import Model
from tfrunner.errors import CorruptModel
from tfrunner.framework import without_chatter
from tfrunner.learned_file import read_all
from tfrunner.rundir import running_servers
from tfrunner.store import Store
from tfrunner.tags import Tag

yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def form_option(*more: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what gives a command `-o table|json|yaml` and more, and `--json` for short."""
    output = click.option(
        "--output",
        "-o",
        "form",
        type=click.Choice(["table", "json", "yaml", *more]),
        default="table",
        show_default=True,
        help="How it is printed.",
    )
    short = click.option("--json", "form", flag_value="json", help="The same as -o json.")
    return lambda command: output(short(command))


@click.group(cls=SuggestingGroup)
def models() -> None:
    """List, show, delete, copy, export and import saved models."""


@models.command("list")
@click.argument("name", required=False)
@form_option()
def list_models(name: str | None, form: str) -> None:
    """List the saved models, or the versions of one, the newest first."""
    store = Store(config.home())
    found = store.list(name)
    if name and ":" in name and not found:
        found = [store.get(name)]  # a serial, a beginning; else says what there is
    if form != "table":
        print_data([brief(model) for model in found], form)
    elif not found:
        click.echo(f"No model is saved in {store.models}.")
    else:
        print_models(f"models in {store.models}", found)
    for problem in store.problems(found[0].tag.name if name and found else None):
        click.echo(f"Warning: {problem.message}", err=True)


@models.command("get")
@click.argument("tag")
@form_option("path")
def get_model(tag: str, form: str) -> None:
    """Show one model: its methods with what they take and give, and the plans that they run in."""
    model = Store(config.home()).get(tag)
    if form == "path":
        click.echo(str(model.path))
        return
    learned = list(read_all(config.home(), str(model.tag)))
    if form == "table":
        print_model(model)
        print_learned(learned)
    else:
        print_data({**whole(model), "plans": learned_data(learned)}, form)


@models.command("delete")
@click.argument("tags", nargs=-1, required=True)
@yes_option
@json_option
def delete_models(tags: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete models: a version by its tag, all versions by the bare name.

    Nothing is deleted if one of the tags is wrong.
    """
    store = Store(config.home())
    words = [word for tag in tags for word in tag.split(",") if word]
    gone = list(dict.fromkeys(each for word in words for each in store.meant(word)))
    _delete(store, gone, yes=yes, as_json=as_json)


@models.command("prune")
@click.argument("name", required=False)
@click.option("--keep", type=click.IntRange(1), required=True, help="How many versions stay.")
@yes_option
@json_option
def prune_models(name: str | None, keep: int, yes: bool, as_json: bool) -> None:
    """Delete all but the newest versions of a model, or of each."""
    store = Store(config.home())
    gone = [model.tag for model in store.surplus(name, keep)]
    if gone:
        _delete(store, gone, yes=yes, as_json=as_json)
    elif as_json:
        print_json({"deleted": []})
    else:
        click.echo(f"There is nothing to delete: no model has more than {keep} versions.")


@models.command("copy")
@click.argument("tag")
@click.argument("new_tag")
@json_option
def copy_model(tag: str, new_tag: str, as_json: bool) -> None:
    """Copy a model to another name, which keeps the version, or to another name:version."""
    with _meter(f"copying {tag}") as meter:
        model = saved.copy(tag, new_tag, on_progress=meter)
    _tell(model, "copied to", as_json)


@models.command("export")
@click.argument("tag")
@click.argument("path", default=".")
@click.option(
    "--format",
    "-f",
    "form",
    type=click.Choice([each.value for each in Format]),
    help="By default what PATH ends in; tar.gz in a folder.",
)
@json_option
def export_model(tag: str, path: str, form: str | None, as_json: bool) -> None:
    """Write a model as an archive.

    PATH is a new file that ends in .tar.gz, .tgz, .tar.xz, .txz, .tar or .zip, or a folder; by
    default this one.
    """
    with _meter(f"exporting {tag}") as meter:
        target = saved.export_model(tag, path, form, on_progress=meter)
    if as_json:
        print_json({"exported": str(target)})
        return
    size = "" if target.is_dir() else f" ({bytes_text(target.stat().st_size)})"
    click.echo(f"exported to {target}{size}")


@models.command("import")
@click.argument("path")
@click.argument("name", required=False)
@click.option("--trust", is_flag=True, help="You know its author: its custom objects may be read.")
@json_option
def import_model(path: str, name: str | None, trust: bool, as_json: bool) -> None:
    """Take an archive, a SavedModel folder, or a .keras or .h5 file into the store.

    A folder of BentoML's store keeps its tag, and what is batchable. An archive is what `models
    export` wrote; it keeps its tag unless NAME gives another. A model is a program: serve only
    those whose author you trust.
    """
    console = Console(stderr=True)
    is_foreign = saved.is_foreign(Path(path))
    if console.is_terminal and is_foreign:
        console.print(f"saving {path} (5 to 15 s: TensorFlow is imported first)", markup=False)
    with _quiet_tensorflow() if is_foreign else _meter(f"importing {path}") as meter:
        model = saved.import_model(path, name=name, trust=trust, on_progress=meter)
    _tell(model, "imported", as_json)
    if as_json:
        return
    if model.info.imported and CUSTOM_OBJECTS_FILE in model.info.files:
        click.echo("Its custom objects are code; nothing reads them unless you say so in Python.")
    if not any(method.batchable for method in model.spec.methods.values()):
        click.echo("None of its methods is batchable: requests are run one by one.")


def _delete(store: Store, tags: list[Tag], *, yes: bool, as_json: bool) -> None:
    """Delete versions, once that is confirmed."""
    if not yes:
        _confirm(store, tags)
    for tag in tags:
        store.delete(tag)
    if as_json:
        print_json({"deleted": [str(tag) for tag in tags]})
    else:
        click.echo(f"deleted {', '.join(map(str, tags))}")


def _confirm(store: Store, tags: list[Tag]) -> None:
    """Ask whether these versions shall be deleted; end if not.

    Raises:
        click.ClickException: There is nobody to ask.
        click.Abort: The answer is no.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.ClickException(
            f"{', '.join(map(str, tags))} would be deleted, but there is no terminal to ask in. "
            "Add -y to delete without being asked."
        )
    served = {tag for server in running_servers(config.run_root()) for tag in server.models}
    for tag in tags:
        remark = ", served now: its workers could not start again" if str(tag) in served else ""
        click.echo(f"  {tag} ({_size(store, tag)}{remark})", err=True)
    question = f"Delete {tags[0]}?" if len(tags) == 1 else f"Delete these {len(tags)} versions?"
    click.confirm(question, abort=True, err=True)


def _size(store: Store, tag: Tag) -> str:
    try:
        return bytes_text(store.get(tag).size)
    except CorruptModel:
        return "cannot be read"


def _tell(model: Model, what: str, as_json: bool) -> None:
    """Say what there is now."""
    if as_json:
        print_json(brief(model))
    else:
        click.echo(f"{what} {model.tag} (serial {model.spec.serial}, {bytes_text(model.size)})")


@contextmanager
def _quiet_tensorflow() -> Iterator[OnProgress]:
    """Keep what TensorFlow says of itself at its start from standard error."""
    config.set_default_environment(TF_CPP_MIN_LOG_LEVEL="2")
    with without_chatter():
        yield no_progress


def _meter(text: str) -> Meter:
    return Meter(Console(stderr=True), text)
