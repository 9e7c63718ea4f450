"""`python -m tfrunner.api.describe module:service`: what a Service needs and offers, as JSON.

The supervisor asks, so that it never imports users' code itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import msgspec

from tfrunner.errors import ConfigError
from tfrunner.options import Needs
from tfrunner.processes import CONFIG_ERROR
from tfrunner.service import Service, load_service


class Description(msgspec.Struct, frozen=True):
    """A Service: its name, what its runners need, its routes."""

    name: str
    runners: tuple[Needs, ...]
    routes: tuple[str, ...]


def describe(service: Service) -> Description:
    """Return what a Service needs and offers.

    Raises:
        ConfigError: A runner is of a class that workers cannot import.
    """
    return Description(
        name=service.name,
        runners=tuple(runner.needs() for runner in service.runners),
        routes=tuple(endpoint.route for endpoint in service.endpoints.values()),
    )


def main(arguments: Sequence[str]) -> int:
    """Print the description; what the user's module prints goes to stderr."""
    if len(arguments) != 1:
        print("usage: python -m tfrunner.api.describe module:service", file=sys.stderr)
        return CONFIG_ERROR
    try:
        with contextlib.redirect_stdout(sys.stderr):
            description = describe(load_service(arguments[0]))
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    print(msgspec.json.encode(description).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
