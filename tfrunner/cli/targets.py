"""What `tfrunner serve` is told to serve: models of the store, and Services."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import msgspec

from tfrunner.api.describe import Description
from tfrunner.config import child_environment
from tfrunner.errors import ConfigError, InvalidInput, NotFound
from tfrunner.options import Needs
from tfrunner.service import check_services
from tfrunner.specs import ModelSpec, decode_spec
from tfrunner.store import Store

DESCRIBE_SECONDS = 120.0


class Target(msgspec.Struct, frozen=True):
    """A model that is to be served.

    Args:
        spec: As callers see it.
        path: Its folder, "" for one that has none.
        kind: What its workers host: "tensorflow", "runnable" or "echo".
        runners: Runners of Services that call it, and what they ask for.
    """

    spec: ModelSpec
    path: str
    kind: str = "tensorflow"
    runners: tuple[Needs, ...] = ()

    @property
    def runnable(self) -> Needs | None:
        """The runner of the class that workers host, None for a saved model."""
        return self.runners[0] if self.kind == "runnable" else None


class Targets(msgspec.Struct, frozen=True):
    """What the words on the command line mean.

    Args:
        models: Each once, those of the Services included.
        services: Targets `module:attribute`.
        deployments: Those of the Services that have hooks to be called before all else.
        files: The Services' modules.
        routes: Paths that the Services answer.
    """

    models: tuple[Target, ...]
    services: tuple[str, ...]
    deployments: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def resolve(words: Sequence[str], store: Store) -> Targets:
    """Return what is meant. A tag of the store wins over a Service of the same name.

    Args:
        words: `name`, `name:version`, or `module:attribute` or a file of a Service.
        store: Where models are looked up; reads YAML only.

    Raises:
        NotFound: There is no such model or Service.
        CorruptModel: The model's entry cannot be read.
        ConfigError: A Service's module cannot be imported, or two Services or Runnables have
            one name, or two Services one route.
    """
    found: dict[str, Target] = {}
    services: dict[str, Description] = {}
    for word in words:
        target = _find_model(word, store)
        if target is not None:
            found.setdefault(target.spec.tag, target)
        elif word not in services:
            services[word] = describe_service(word)
            for needs in services[word].runners:
                _add(found, needs, store)
    targets = tuple(found.values())
    _check_names(targets)
    check_services(services.values())
    deployments = tuple(word for word, each in services.items() if each.has_deployment)
    files = tuple(each.file for each in services.values() if each.file)
    routes = tuple(route for each in services.values() for route in each.routes)
    return Targets(targets, tuple(services), deployments, files, routes)


def _find_model(word: str, store: Store) -> Target | None:
    """Return the saved model that a word means, None where it must mean a Service."""
    try:
        model = store.get(word)
    except (NotFound, InvalidInput):
        is_service = ":" in word or word.endswith(".py")
        if not is_service or _is_name(word.partition(":")[0], store):
            raise
        return None
    return Target(model.spec, str(model.path))


def _add(found: dict[str, Target], needs: Needs, store: Store) -> None:
    """Add the model that a runner of a Service calls."""
    if needs.kind == "runnable":
        target = Target(decode_spec(needs.spec), "", needs.kind)
    else:
        model = store.get(needs.tag)
        target = Target(model.spec, str(model.path))
    if needs.embedded:
        return
    known = found.get(target.spec.tag, target)
    if known.kind != target.kind or any(each.source != needs.source for each in known.runners):
        raise ConfigError(
            f"two Services have a runner {needs.runner!r}, each of another model or Runnable: "
            "give one another name, `name=...`."
        )
    found[target.spec.tag] = msgspec.structs.replace(known, runners=(*known.runners, needs))


def _check_names(targets: Sequence[Target]) -> None:
    """Refuse a Runnable that has the name of a saved model: callers could not tell them apart."""
    saved = {target.spec.name for target in targets if target.kind != "runnable"}
    for target in targets:
        if target.kind == "runnable" and target.spec.name in saved:
            raise ConfigError(
                f"runner {target.spec.name!r} of a Runnable has the name of a saved model that is "
                "served too: give it another, `Runner(..., name=...)`."
            )


def _is_name(name: str, store: Store) -> bool:
    """Return whether the store has the name: then a wrong version was meant, not a Service."""
    try:
        store.get(name)
    except (NotFound, InvalidInput):
        return False
    return True


def describe_service(target: str) -> Description:
    """Return what a Service needs. Imports the user's module in a process of its own.

    Raises:
        ConfigError: The module cannot be imported, or has no such Service, or one of its
            runners cannot be served.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tfrunner.api.describe", target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=child_environment(),
            timeout=DESCRIBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(
            f"the module of {target!r} was not imported within {DESCRIBE_SECONDS:g} s."
        ) from exc
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it ended without a word"
        raise ConfigError(f"{target!r} is neither a saved model nor a Service: {said}")
    return msgspec.json.decode(done.stdout, type=Description)


def deploy(services: Sequence[str]) -> None:
    """Have the deployment hooks of Services called, each Service's in a process of its own.

    Raises:
        ConfigError: One failed; the lines above say why.
    """
    for target in services:
        command = [sys.executable, "-m", "tfrunner.api.deploy", target]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, env=child_environment(), check=False
        )
        if done.returncode != 0:
            raise ConfigError(f"{target!r} is not served: its deployment failed.")


def echo_targets(words: Sequence[str]) -> Targets:
    """Return the echo model, for tests; words with a colon are taken as Services.

    A word without one names an echo model; "echo" where there is none.
    """
    from tfrunner_workers import echo

    services = tuple(word for word in words if ":" in word)
    names = [word for word in words if ":" not in word] or ["echo"]
    return Targets(tuple(Target(echo.spec(name), "", "echo") for name in names), services)
