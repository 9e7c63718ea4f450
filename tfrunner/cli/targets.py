"""What `tfrunner serve` is told to serve: models of the store, and Services."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from tfrunner.config import child_environment
from tfrunner.entry import Model
from tfrunner.errors import ConfigError, InvalidInput, NotFound
from tfrunner.specs import ModelSpec
from tfrunner.store import Store

DESCRIBE_SECONDS = 120.0


class Target(msgspec.Struct, frozen=True):
    """A model that is to be served; `path` is its folder, "" for the echo model."""

    spec: ModelSpec
    path: str


class Targets(msgspec.Struct, frozen=True):
    """What the words on the command line mean.

    Args:
        models: Each once, those of the Services included.
        services: Targets `module:attribute`.
    """

    models: tuple[Target, ...]
    services: tuple[str, ...]


def resolve(words: Sequence[str], store: Store) -> Targets:
    """Return what is meant. A tag of the store wins over a Service of the same name.

    Args:
        words: `name`, `name:version`, or `module:attribute` of a Service.
        store: Where models are looked up; reads YAML only.

    Raises:
        NotFound: There is no such model or Service.
        CorruptModel: The model's entry cannot be read.
        ConfigError: The Service's module cannot be imported.
    """
    models: dict[str, Model] = {}
    services: list[str] = []
    for word in words:
        found, is_service = _resolve_one(word, store)
        if is_service and word not in services:
            services.append(word)
        models |= {str(model.tag): model for model in found}
    chosen = tuple(Target(model.spec, str(model.path)) for model in models.values())
    return Targets(chosen, tuple(services))


def _resolve_one(word: str, store: Store) -> tuple[list[Model], bool]:
    try:
        return [store.get(word)], False
    except (NotFound, InvalidInput):
        if ":" not in word or _is_name(word.partition(":")[0], store):
            raise
    return [store.get(tag) for tag in models_of_service(word)], True


def _is_name(name: str, store: Store) -> bool:
    """Return whether the store has the name: then a wrong version was meant, not a Service."""
    try:
        store.get(name)
    except (NotFound, InvalidInput):
        return False
    return True


def models_of_service(target: str) -> list[str]:
    """Return the tags of a Service's models. Imports the user's module in a process of its own.

    Raises:
        ConfigError: The module cannot be imported, or has no such Service.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tfrunner.api.describe", target],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=DESCRIBE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise ConfigError(f"{target!r} is neither a saved model nor a Service: {lines[-1]}")
    return [str(tag) for tag in json.loads(done.stdout)["models"]]


def echo_targets(words: Sequence[str]) -> Targets:
    """Return the echo model, for tests; words with a colon are taken as Services.

    A word without one names an echo model; "echo" where there is none.
    """
    from tfrunner_workers import echo

    services = tuple(word for word in words if ":" in word)
    names = [word for word in words if ":" not in word] or ["echo"]
    return Targets(tuple(Target(echo.spec(name), "") for name in names), services)
