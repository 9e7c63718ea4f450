"""`python -m tfrunner.api '<ApiConfig as JSON>'`: one api process.

Serves the socket that it inherits until SIGTERM or SIGINT: then it takes no new connections,
answers what is in flight within the grace period, and exits with 0. A second signal ends it
at once.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
import uvloop

from tfrunner.api.app import Application
from tfrunner.config import ApiConfig, from_argument
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.gateway import Gateway
from tfrunner.processes import CONFIG_ERROR, configure_logging, die_with_parent
from tfrunner.service import Service, load_service

STOPPED_AT_ONCE = 130
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays: longer than clients' pools usually keep one."""

logger = logging.getLogger("tfrunner.api")


class Server(uvicorn.Server):
    """uvicorn's server, with our meaning of signals: one drains, two stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remember the signal; the server's loop looks ten times a second."""
        if self.should_exit:
            os._exit(STOPPED_AT_ONCE)
        self.should_exit = True


async def serve(config: ApiConfig, services: Sequence[Service]) -> None:
    """Serve until a signal comes.

    Raises:
        Unavailable: No dispatcher answers.
        ConfigError: Two Services have the same route.
    """
    async with Gateway(config.frontend, name=config.name) as gateway:
        for service in services:
            for runner in service.runners:
                runner.attach(gateway)
        app = Application(
            gateway, timeout=config.timeout, body_limit=config.body_limit, services=services
        )
        server = Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                access_log=False,
                log_config=None,
                timeout_graceful_shutdown=max(1, round(config.grace)),
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                proxy_headers=False,
            )
        )
        logger.info("ready, process %d", os.getpid())
        await server.serve(sockets=[socket.socket(fileno=config.fd)])


def main(arguments: Sequence[str]) -> int:
    """Run the process; return its exit status."""
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m tfrunner.api '<ApiConfig as JSON>'")
        config = from_argument(ApiConfig, arguments[0])
        die_with_parent(config.parent)
        configure_logging(config.log_level, config.name)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        services = [load_service(target) for target in config.services]
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return CONFIG_ERROR
    try:
        uvloop.run(serve(config, services))
    except ConfigError as exc:
        logger.error("%s", exc.message)
        return CONFIG_ERROR
    except TFRunnerError as exc:
        logger.error("%s", exc.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
