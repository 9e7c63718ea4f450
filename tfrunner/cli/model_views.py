"""How saved models look: as data for programs, as tables for people.

Names, labels and shapes may come out of somebody else's archive: what a terminal would obey
is shown as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import yaml
from rich.markup import escape

from tfrunner.cli.tables import bytes_text, print_json, print_table
from tfrunner.custom_objects import CUSTOM_OBJECTS_FILE
from tfrunner.entry import Model
from tfrunner.learned_file import Kept
from tfrunner.specs import MethodSpec, TensorSpec, leaves, shape_text

LIST_COLUMNS = ("tag", "serial", "methods", "size", "saved (UTC)")
METHOD_COLUMNS = ("method", "takes", "gives", "batching")
PLAN_COLUMNS = ("method", "plan", "gain", "on")


def print_data(data: Any, form: str) -> None:
    """Print plain data as "json" or "yaml"."""
    if form == "json":
        print_json(data)
    else:
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


def print_models(title: str, models: Sequence[Model]) -> None:
    """Print a table of models."""
    print_table(title, LIST_COLUMNS, [_row(model) for model in models], numbers=("serial", "size"))


def print_model(model: Model) -> None:
    """Print what one model is, and its methods."""
    click.echo(f"{model.tag} (serial {model.spec.serial}), saved {_date(model)} UTC")
    click.echo(f"{model.path} ({bytes_text(model.size)})")
    if model.info.imported:
        click.echo(f"imported{_untrusted(model)}")
    for key, value in {**model.labels, **model.metadata}.items():
        click.echo(f"{printable(key)}: {printable(str(value))}")
    rows = [
        tuple(map(_cell, (method.name, _inputs(method), _outputs(method), _batching(method))))
        for method in model.spec.methods.values()
    ]
    print_table("methods", METHOD_COLUMNS, rows)


def print_learned(learned: Sequence[Kept]) -> None:
    """Print how workers execute a model's methods, where it was served before."""
    rows = [
        tuple(
            map(
                _cell,
                (name, plan.name, f"{plan.gain:.1f}x" if plan.gain else "-", kept.device_class),
            )
        )
        for kept in learned
        for name, plan in kept.plans.items()
    ]
    if rows:
        print_table("plans", PLAN_COLUMNS, rows)
    for kept in learned:
        for name, plan in kept.plans.items():
            click.echo(printable(f"{name} on {kept.device_class}: {plan.reason}"))


def learned_data(learned: Sequence[Kept]) -> list[dict[str, Any]]:
    """Return the same for programs."""
    return [
        {
            "device_class": kept.device_class,
            "method": name,
            "plan": plan.name,
            "gain": plan.gain,
            "reason": plan.reason,
        }
        for kept in learned
        for name, plan in kept.plans.items()
    ]


def brief(model: Model) -> dict[str, Any]:
    """Return what `models list` says about a model."""
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


def whole(model: Model) -> dict[str, Any]:
    """Return what `models get` says about a model."""
    methods = {
        method.name: {
            "takes": _inputs(method),
            "gives": _outputs(method),
            "batchable": method.batchable,
            "batch_dim": list(method.batch_dim),
        }
        for method in model.spec.methods.values()
    }
    return {
        **brief(model),
        "methods": methods,
        "labels": model.labels,
        "metadata": model.metadata,
        "module": model.info.module,
        "imported": model.info.imported,
        "framework": model.info.framework,
    }


def printable(text: str) -> str:
    """Return a text on one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _untrusted(model: Model) -> str:
    """Return what is not read of an imported model."""
    if CUSTOM_OBJECTS_FILE not in model.info.files:
        return ""
    return "; its custom objects are code, and not read unless you say that you trust them"


def _cell(text: str) -> str:
    return escape(printable(text))


def _row(model: Model) -> tuple[str, ...]:
    methods = _cell(", ".join(model.spec.methods))
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
