"""`python -m tfrunner.api.describe module:service`: what a Service needs and offers, as JSON.

The supervisor asks, so that it never imports users' code itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tfrunner.errors import ConfigError
from tfrunner.options import Needs
from tfrunner.processes import CONFIG_ERROR
from tfrunner.service import Service
from tfrunner.service_module import load_service


class Description(msgspec.Struct, frozen=True):
    """A Service: its name, what its runners need, its routes, whether it prepares something.

    `file` is that of its module.
    """

    name: str
    runners: tuple[Needs, ...]
    routes: tuple[str, ...]
    has_deployment: bool = False
    file: str = ""


def describe(service: Service, *, file: str = "") -> Description:
    """Return what a Service needs and offers.

    Args:
        service: The Service.
        file: Where its module is.

    Raises:
        ConfigError: A runner is of a class that workers cannot import.
    """
    return Description(
        name=service.name,
        runners=tuple(runner.needs() for runner in service.runners),
        routes=service.routes,
        has_deployment=bool(service.deployment_hooks),
        file=file,
    )


def module_file(target: str) -> str:
    """Return the file of the module, imported before, that a target names; "" if it has none."""
    name = target.partition(":")[0]
    module = sys.modules.get(Path(name).stem if name.endswith(".py") else name)
    file = getattr(module, "__file__", None)
    return str(Path(file).resolve()) if file else ""


def main(arguments: Sequence[str]) -> int:
    """Print the description; what the user's module prints goes to stderr."""
    if len(arguments) != 1:
        print("usage: python -m tfrunner.api.describe module:service", file=sys.stderr)
        return CONFIG_ERROR
    try:
        with contextlib.redirect_stdout(sys.stderr):
            service = load_service(arguments[0])
            description = describe(service, file=module_file(arguments[0]))
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    print(msgspec.json.encode(description).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
