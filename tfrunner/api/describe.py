"""`python -m tfrunner.api.describe module:service`: what a Service needs and offers, as JSON.

The supervisor asks, so that it never imports users' code itself.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from tfrunner.errors import ConfigError
from tfrunner.processes import CONFIG_ERROR
from tfrunner.service import Service, load_service


def describe(service: Service) -> dict[str, object]:
    """Return the Service's name, the tags of the models that its runners use, its routes."""
    return {
        "name": service.name,
        "models": [str(runner.tag) for runner in service.runners],
        "routes": [endpoint.route for endpoint in service.endpoints.values()],
    }


def main(arguments: Sequence[str]) -> int:
    """Print the description; what the user's module prints goes to stderr."""
    if len(arguments) != 1:
        print("usage: python -m tfrunner.api.describe module:service", file=sys.stderr)
        return CONFIG_ERROR
    try:
        with contextlib.redirect_stdout(sys.stderr):
            service = load_service(arguments[0])
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    print(json.dumps(describe(service)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
