"""Which of the served models a name and a version mean."""

from __future__ import annotations

from collections.abc import Iterable

from tfrunner.errors import NotFound, did_you_mean
from tfrunner.specs import ModelSpec

LATEST = "latest"


def find_model(models: Iterable[ModelSpec], name: str, version: str | None = None) -> ModelSpec:
    """Return the model that is meant.

    Args:
        models: All that are served.
        name: Name, or tag `name:version`.
        version: In this order: a version, a serial number, a unique prefix of a version;
            "latest" or None: the highest serial number.

    Raises:
        NotFound: There is none, or several; the message names what there is.
    """
    served = list(models)
    if version is None and ":" in name:
        name, version = name.split(":", 1)
    versions = {model.version: model for model in served if model.name == name}
    if not versions:
        near = did_you_mean(name, {model.name for model in served})
        raise NotFound(f"no model {name!r} is served.{near}")
    if version is None or version == LATEST:
        return max(versions.values(), key=lambda model: model.serial)
    if version in versions:
        return versions[version]
    if version.isdecimal():
        for model in versions.values():
            if model.serial == int(version):
                return model
    return _find_prefix(versions, name, version)


def _find_prefix(versions: dict[str, ModelSpec], name: str, prefix: str) -> ModelSpec:
    """Return the one version that starts so."""
    matching = [known for known in versions if prefix and known.startswith(prefix)]
    if len(matching) == 1:
        return versions[matching[0]]
    if matching:
        found = ", ".join(sorted(matching))
        raise NotFound(f"{len(matching)} versions of {name!r} start with {prefix!r}: {found}.")
    near = did_you_mean(prefix, versions)
    raise NotFound(f"no version {prefix!r} of {name!r} is served.{near}")
