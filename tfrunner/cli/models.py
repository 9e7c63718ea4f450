"""`tfrunner models`: list, get and delete saved models. Never imports TensorFlow."""

from __future__ import annotations

from typing import Any

import click

from tfrunner import config
from tfrunner.cli.naming import SuggestingGroup
from tfrunner.cli.tables import bytes_text, json_option, print_json, print_table
from tfrunner.entry import Model
from tfrunner.specs import MethodSpec, TensorSpec, leaves, shape_text
from tfrunner.store import Store


@click.group(cls=SuggestingGroup)
def models() -> None:
    """List, show and delete saved models."""


@models.command("list")
@click.argument("name", required=False)
@json_option
def list_models(name: str | None, as_json: bool) -> None:
    """List the saved models, or the versions of one, the newest first."""
    store = Store(config.home())
    found = store.list(name)
    if as_json:
        print_json([_brief(model) for model in found])
    elif not found:
        click.echo(f"No model is saved in {store.models}.")
    else:
        columns = ("tag", "serial", "methods", "size", "saved (UTC)")
        print_table(f"models in {store.models}", columns, [_row(model) for model in found])
    for problem in store.problems(found[0].tag.name if name and found else None):
        click.echo(f"Warning: {problem.message}", err=True)


@models.command("get")
@click.argument("tag")
@json_option
def get_model(tag: str, as_json: bool) -> None:
    """Show one model: its methods with what they take and give."""
    model = Store(config.home()).get(tag)
    if as_json:
        print_json(_whole(model))
        return
    click.echo(f"{model.tag} (serial {model.spec.serial}), saved {_date(model)} UTC")
    click.echo(f"{model.path} ({bytes_text(model.size)})")
    for key, value in {**model.labels, **model.metadata}.items():
        click.echo(f"{key}: {value}")
    rows = [
        (method.name, _inputs(method), _outputs(method), _batching(method))
        for method in model.spec.methods.values()
    ]
    print_table("methods", ("method", "takes", "gives", "batching"), rows)


@models.command("delete")
@click.argument("tags", nargs=-1, required=True)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def delete_models(tags: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete models: a version by its tag, all versions by the bare name."""
    store = Store(config.home())
    gone = []
    for tag in tags:
        if not yes:
            click.confirm(f"Delete {_extent(tag, store)}?", abort=True, err=as_json)
        deleted = [str(each) for each in store.delete(tag)]
        gone += deleted
        if not as_json:
            click.echo(f"deleted {', '.join(deleted)}")
    if as_json:
        print_json({"deleted": gone})


def _extent(tag: str, store: Store) -> str:
    """Return what deleting the tag means, in words."""
    if ":" in tag:
        return tag
    versions = store.list(tag)
    return f"all {len(versions)} versions of {tag}" if len(versions) > 1 else tag


def _brief(model: Model) -> dict[str, Any]:
    return {
        "tag": str(model.tag),
        "name": model.tag.name,
        "version": model.tag.version,
        "serial": model.spec.serial,
        "methods": list(model.spec.methods),
        "size": model.size,
        "creation_time": model.info.creation_time,
        "path": str(model.path),
    }


def _whole(model: Model) -> dict[str, Any]:
    methods = {
        method.name: {
            "takes": _inputs(method),
            "gives": _outputs(method),
            "batchable": method.batchable,
            "batch_dim": list(method.batch_dim),
        }
        for method in model.spec.methods.values()
    }
    details = {"labels": model.labels, "metadata": model.metadata}
    return {**_brief(model), "methods": methods, **details, "framework": model.info.framework}


def _row(model: Model) -> tuple[str, ...]:
    methods = ", ".join(model.spec.methods)
    return str(model.tag), str(model.spec.serial), methods, bytes_text(model.size), _date(model)


def _date(model: Model) -> str:
    return model.creation_time.strftime("%Y-%m-%d %H:%M")


def _tensor(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype} {shape_text(tensor.shape)}".strip()


def _inputs(method: MethodSpec) -> str:
    return ", ".join(_tensor(leaf) for each in method.arguments for leaf in leaves(each.spec))


def _outputs(method: MethodSpec) -> str:
    if method.output is None:
        return "not known"
    return ", ".join(_tensor(leaf) for leaf in leaves(method.output))


def _batching(method: MethodSpec) -> str:
    if not method.batchable:
        return "no"
    return f"axis {method.batch_dim[0]} in, axis {method.batch_dim[1]} out"
