"""`python -m tfrunner.api '<ApiConfig as JSON>'`: one api process.

Serves the socket that it inherits until SIGTERM or SIGINT; server.py has how it ends: with 0,
after what is in flight, and at once with a second signal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence

import msgspec
import uvloop

from tfrunner.api.app import Application
from tfrunner.api.connection import SURPLUS
from tfrunner.api.guard import make_guard
from tfrunner.api.import_watch import watch_imports
from tfrunner.api.observing import observed
from tfrunner.api.server import Server
from tfrunner.api.state import ProcessState
from tfrunner.api.tls import Certificate
from tfrunner.config import ApiConfig, Bounds, from_argument
from tfrunner.errors import ConfigError, TFRunnerError
from tfrunner.gateway import Gateway
from tfrunner.processes import (
    CONFIG_ERROR,
    configure_logging,
    die_with_parent,
    raise_descriptor_limit,
)
from tfrunner.service import Service
from tfrunner.service_module import load_service

OWN_DESCRIPTORS = 64
"""Files and sockets that the process itself may need beside its connections."""

THREAD_SECONDS = 0.1
"""For an idle thread to end."""

logger = logging.getLogger("tfrunner.api")


async def serve(config: ApiConfig, services: Sequence[Service]) -> None:
    """Serve until a signal comes.

    Raises:
        Unavailable: No dispatcher answers.
        ConfigError: Two Services have the same name or route, or a start-up hook raised.
    """
    tls = config.entrance.tls
    async with Gateway(config.frontend, name=config.name) as gateway:
        for service in services:
            for runner in service.runners:
                options = config.runners.get(runner.name, ())
                runner.attach(gateway, timeout=config.timeout, options=options)
        state = ProcessState(fit(config.bounds), count=gateway.count)
        app = Application(
            gateway,
            timeout=config.timeout,
            state=state,
            services=services,
            options=config.model_options,
        )
        with observed(config, gateway, app) as noted:
            server = Server(
                noted,
                state=state,
                grace=config.grace,
                give_up=gateway.close,
                direct=app.direct,
                guard=make_guard(config.entrance),
                certificate=None if tls is None else Certificate(tls),
                local=None if config.local_fd < 0 else socket.socket(fileno=config.local_fd),
            )
            await app.life.start()
            logger.info("ready, process %d", os.getpid())
            try:
                await server.serve(sockets=[socket.socket(fileno=config.fd)])
            finally:
                await app.life.stop()


def fit(bounds: Bounds) -> Bounds:
    """Return bounds that leave the process descriptors of its own.

    Raises:
        ConfigError: There are hardly any descriptors.
    """
    limit = raise_descriptor_limit()
    room = limit - OWN_DESCRIPTORS - SURPLUS
    if room >= bounds.max_connections:
        return bounds
    if room < 1:
        raise ConfigError(
            f"a process may open {limit} files; an api process needs more than "
            f"{OWN_DESCRIPTORS + SURPLUS}. Raise the limit with `ulimit -n`."
        )
    logger.warning("at most %d connections, as a process may open %d files", room, limit)
    return msgspec.structs.replace(bounds, max_connections=room)


def leave_threads(status: int) -> None:
    """End at once if something of a Service still runs in a thread: Python would wait for it.

    Args:
        status: The exit status.
    """
    threads = [each for each in threading.enumerate() if not each.daemon]
    threads.remove(threading.main_thread())
    for each in threads:
        each.join(THREAD_SECONDS)
    running = sum(each.is_alive() for each in threads)
    if running:
        logger.warning("%d threads of Services were still running", running)
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        os._exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run the process; return its exit status, or end with it, whatever threads still run."""
    try:
        status = work(arguments)
    except SystemExit as exc:  # of a Service's module or hook
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        logger.critical("the process failed", exc_info=True)
        status = 1
    leave_threads(status)
    return status


def work(arguments: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit status."""
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m tfrunner.api '<ApiConfig as JSON>'")
        config = from_argument(ApiConfig, arguments[0])
        die_with_parent(config.parent)
        configure_logging(config.log_level, config.name)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        watch_imports()
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
