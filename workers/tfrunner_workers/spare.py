"""A spare: `python -m tfrunner_workers.spare '<SpareConfig as JSON>'`.

It imports what takes long, and holds no model. One line on its standard input, a NewRole as
JSON, makes it a worker: its environment is set before TensorFlow looks for devices, its threads
before TensorFlow starts any. Standard input that ends without a line ends it.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys

from tfrunner.config import NewRole, SpareConfig, change_environment, from_argument
from tfrunner.errors import ConfigError
from tfrunner.processes import CONFIG_ERROR, LOAD_ERROR, configure_logging, die_with_parent
from tfrunner_workers.__main__ import work
from tfrunner_workers.devices import load_tensorflow

logger = logging.getLogger("tfrunner.worker")


def main() -> int:
    """Wait, become a worker, and serve until stopped; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = from_argument(SpareConfig, sys.argv[1] if len(sys.argv) == 2 else "")
        die_with_parent(config.parent)
        configure_logging(config.log_level, config.name)
        prepare(config.kind)
        line = sys.stdin.readline()
        if not line:
            return 0
        role = from_argument(NewRole, line)
    except ConfigError as exc:
        print(exc.message, file=sys.stderr)
        return LOAD_ERROR if "TensorFlow" in exc.message else CONFIG_ERROR
    change_environment(**role.environment)
    return work(role.config)


def prepare(kind: str) -> None:
    """Import what a worker of this kind needs.

    Raises:
        ConfigError: TensorFlow cannot be imported.
    """
    if kind == "tensorflow":
        load_tensorflow()
        importlib.import_module("tfrunner_workers.savedmodel")
    logger.info("ready to take a worker's place")


if __name__ == "__main__":
    sys.exit(main())
