"""What `tfrunner serve --dry-run` prints: what would be served, how, and why so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tfrunner import config
from tfrunner.cli.arrange import Arrangement
from tfrunner.cli.model_views import print_data
from tfrunner.cli.tables import print_table
from tfrunner.settings import Settings
from tfrunner.specs import decode_spec
from tfrunner.supervisor.listener import url

MODELS = ("model", "kind", "rows", "batched", "workers", "devices", "threads", "path", "sections")
SETTINGS = ("setting", "value", "from")
UNSHOWN = frozenset(("settings", "dry_run", "output", "echo", "hold", "as_json", "targets"))
"""Parameters of the command that say nothing about the server."""

Data = dict[str, Any]


def print_plan(
    arrangement: Arrangement,
    options: Mapping[str, Any],
    sources: Mapping[str, str],
    *,
    settings: Settings,
    form: str,
) -> None:
    """Print a plan.

    Args:
        arrangement: What would be served.
        options: Those of the command, by name.
        sources: Where the value of each comes from.
        settings: The configuration file.
        form: "table", "json" or "yaml".
    """
    plan = make_plan(arrangement, options, sources, settings=settings)
    if form != "table":
        print_data(plan, form)
        return
    models = [
        tuple(_text(_rows(each) if column == "rows" else each[column]) for column in MODELS)
        for each in plan["models"]
    ]
    print_table("models", MODELS, models, numbers=("rows", "workers"))
    facts = [
        *(("service", each) for each in plan["services"]),
        *((f"{kind} processes", _text(count)) for kind, count in plan["processes"].items()),
        *((name, _text(address)) for name, address in plan["addresses"].items()),
    ]
    print_table("server", ("what", "value"), facts)
    rows = [(each["setting"], _text(each["value"]), each["from"]) for each in plan["settings"]]
    print_table("settings", SETTINGS, rows)
    print("Nothing was started.")


def make_plan(
    arrangement: Arrangement,
    options: Mapping[str, Any],
    sources: Mapping[str, str],
    *,
    settings: Settings,
) -> Data:
    """Return what would be served as plain data; see `print_plan`."""
    server = arrangement.server
    processes = {"api": server.api_workers, "worker": len(arrangement.placements), "dispatcher": 1}
    scheme = "http" if server.entrance.tls is None else "https"
    return {
        "models": list(_models(arrangement, settings)),
        "services": list(server.services),
        "processes": {**processes, "spare": server.spares},
        "addresses": {
            "http": url(server.host, server.port, scheme=scheme),
            "python": f"ipc://{config.run_root()}/<server>/frontend",
            "direct": list(options["direct"]),
        },
        "settings": list(_settings(options, sources)),
    }


def _models(arrangement: Arrangement, settings: Settings) -> Iterator[Data]:
    for model, target in zip(arrangement.server.models, arrangement.targets.models, strict=True):
        placements = [each for each in arrangement.placements if each.model == model.tag]
        methods = decode_spec(model.spec).methods  # as they are served: perhaps not batched
        yield {
            "model": model.tag,
            "kind": model.kind,
            "rows": model.max_batch_size,
            "method_rows": model.method_sizes,
            "batched": [name for name, each in methods.items() if each.batchable],
            "methods": list(methods),
            "runners": [each.runner for each in target.runners],
            "workers": len(placements),
            "devices": sorted({each.device for each in placements}),
            "threads": [each.threads for each in placements],
            "path": model.path,
            "sections": [
                *(f"runners.{r.runner}" for r in target.runners if r.runner in settings.runners),
                *(f"models.{n}" for n in (model.tag, target.spec.name) if n in settings.models),
            ],
        }


def _settings(options: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[Data]:
    for name in sorted(set(options) - UNSHOWN):
        value = options[name]
        yield {
            "setting": name,
            "value": list(value) if isinstance(value, tuple) else value,
            "from": sources[name],
        }


def _rows(model: Data) -> str:
    """Return the most rows of a batch, and those of methods that have other bounds."""
    return ", ".join([str(model["rows"]), *(f"{k} {v}" for k, v in model["method_rows"].items())])


def _text(value: Any) -> str:
    """Return a value as it stands in a cell."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "-"
