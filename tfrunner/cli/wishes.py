"""From what is asked for a model to how it is served: whose word counts, and who contradicts whom.

For each bound, the first of: the runner's own options, the configuration of that runner, the
configuration of the model, the option of the command, the default.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tfrunner.cli.targets import Target
from tfrunner.config import ServedModel
from tfrunner.errors import ConfigError, did_you_mean
from tfrunner.options import Needs, RunnerOptions, check_methods, find_size
from tfrunner.settings import Settings
from tfrunner.specs import ModelSpec, encode_spec
from tfrunner.supervisor.placement import Demand

log = logging.getLogger("tfrunner.supervisor")

GPU, CPU = "nvidia.com/gpu", "cpu"

Layers = tuple[RunnerOptions, ...]


def serve_model(
    target: Target, settings: Settings, *, limits: Mapping[str, Any], batching: bool
) -> ServedModel:
    """Return a model as it is served.

    Args:
        target: The model, and the runners that call it.
        settings: The configuration file.
        limits: Options of the command that hold for each model.
        batching: Whether methods may be batched where nobody says otherwise.

    Raises:
        ConfigError: Two runners contradict each other, or a method does not exist.
    """
    asked = _Asked(target, settings)
    largest = asked.find("max_batch_size", find_size) or limits["max_batch_size"]
    sizes: dict[str, int] = {}
    for method in target.spec.methods:
        size = asked.find(f"max_batch_size of {method}", lambda layers: find_size(layers, method))  # noqa: B023
        if (size or largest) != largest:
            sizes[method] = size or largest
    merges = asked.find("batching", _find_batching)
    spec = (
        target.spec if (batching if merges is None else merges) else without_batching(target.spec)
    )
    return ServedModel(
        spec.tag,
        encode_spec(spec),
        path=target.path,
        kind=target.kind,
        runnable=target.runnable.source if target.runnable else None,
        method_sizes=sizes,
        **{**limits, "max_batch_size": largest},
    )


def demand(target: Target, settings: Settings) -> Demand:
    """Return what the model's workers need.

    Raises:
        ConfigError: Two runners contradict each other.
    """
    workers = _Asked(target, settings).find("workers", _find_workers) or 0
    if target.kind == "echo":
        return Demand(target.spec.tag, workers, uses_gpu=False)
    needs = target.runnable
    if needs is None:
        return Demand(target.spec.tag, workers)
    return Demand(
        target.spec.tag,
        workers,
        uses_gpu=GPU in needs.resources,
        needs_gpu=CPU not in needs.resources,
        is_multithreaded=needs.is_multithreaded,
    )


def runner_layers(targets: Iterable[Target], settings: Settings) -> dict[str, Layers]:
    """Return by runner what the configuration asks for it; says which names mean nobody."""
    listed = list(targets)
    names = {each.runner: target.spec.tag for target in listed for each in target.runners}
    models = {target.spec.tag for target in listed} | {target.spec.name for target in listed}
    for kind, given, known in (
        ("runners", settings.runners, set(names) | set(settings.runners) & models),
        ("models", settings.models, models),
    ):
        for name in given:
            if name not in known:
                log.warning(
                    "[%s.%s] means nothing that is served.%s", kind, name, did_you_mean(name, known)
                )
    return {
        name: (settings.of_runner(name), *settings.of_model(tag)) for name, tag in names.items()
    }


def without_batching(spec: ModelSpec) -> ModelSpec:
    """Return a model of which no method merges the rows of different requests."""
    methods = {
        name: msgspec.structs.replace(method, batchable=False)
        for name, method in spec.methods.items()
    }
    return msgspec.structs.replace(spec, methods=methods)


class _Asked:
    """What is asked for one model, by its runners and by the configuration."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._tag = target.spec.tag
        self._runners: list[tuple[Needs, Layers]] = [
            (needs, (needs.options, settings.of_runner(needs.runner))) for needs in target.runners
        ]
        self._model = tuple(settings.of_model(self._tag))
        for needs, layers in self._runners:
            check_methods(
                layers[1], target.spec.methods, at=f"[runners.{needs.runner}]: {self._tag}"
            )
        for options in self._model:
            check_methods(options, target.spec.methods, at=f"[models]: {self._tag}")

    def find(self, what: str, find: Callable[[Layers], Any]) -> Any:
        """Return what counts, None where nobody asked.

        Raises:
            ConfigError: Two runners ask for different things.
        """
        found = [(needs.runner, find(layers)) for needs, layers in self._runners]
        given = [(runner, value) for runner, value in found if value is not None]
        for runner, value in given:
            if value != given[0][1]:
                raise ConfigError(
                    f"runners {given[0][0]!r} and {runner!r} of {self._tag} contradict each other: "
                    f"{what} {given[0][1]} and {value}. They share its workers; give both the same."
                )
        return given[0][1] if given else find(self._model)


def _find_batching(layers: Layers) -> bool | None:
    return next((each.batching for each in layers if each.batching is not None), None)


def _find_workers(layers: Layers) -> int | None:
    return next((each.workers for each in layers if each.workers is not None), None)
