"""`python -m tfrunner.api.deploy module:service`: a Service's deployment hooks, called once.

The `serve` command asks, before it starts anything: it never imports users' code itself.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Sequence

from tfrunner.api.hooks import hook_failed
from tfrunner.errors import ConfigError
from tfrunner.processes import CONFIG_ERROR
from tfrunner.service import Service
from tfrunner.service_module import load_service


def deploy(service: Service) -> None:
    """Call the hooks in their order.

    Raises:
        ConfigError: One raised.
    """
    for hook in service.deployment_hooks:
        try:
            if inspect.iscoroutinefunction(hook):
                asyncio.run(hook())
            else:
                hook()
        except Exception as exc:
            traceback.print_exc()
            raise ConfigError(hook_failed("deployment", hook, service, exc)) from exc


def main(arguments: Sequence[str]) -> int:
    """Run the process; return its exit status."""
    if len(arguments) != 1:
        print("usage: python -m tfrunner.api.deploy module:service", file=sys.stderr)
        return CONFIG_ERROR
    try:
        deploy(load_service(arguments[0]))
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
