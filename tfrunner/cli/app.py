"""The `tfrunner` command: its groups, and how errors reach people."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import click

from tfrunner.cli.calls import predict, status
from tfrunner.cli.demo import demo
from tfrunner.cli.keys import keys
from tfrunner.cli.models import models
from tfrunner.cli.naming import SuggestingGroup
from tfrunner.cli.serve import serve
from tfrunner.cli.simulate import simulate
from tfrunner.errors import TFRunnerError

INTERRUPTED = 130


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tfrunner", message="tfrunner %(version)s")
def commands() -> None:
    """Answer TensorFlow models fast from Python: save, serve, call."""


for command in (serve, models, keys, predict, status, simulate, demo):
    commands.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, or 1 after one line on stderr, or 2 for wrong usage."""
    # Without it Python prints warnings of ours that the commands report themselves.
    logging.getLogger("tfrunner").addHandler(logging.NullHandler())
    try:
        code = commands.main(arguments, prog_name="tfrunner", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except TFRunnerError as exc:
        click.echo(f"Error: {' '.join(exc.message.split())}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `tfrunner models list | head`
        sys.stdout = None  # nothing is left to flush at exit
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
