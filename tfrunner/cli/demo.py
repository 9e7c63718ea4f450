"""`tfrunner demo`: train, serve and check a model of handwritten digits."""

from __future__ import annotations

import click

from tfrunner.config import DEFAULTS


@click.command()
@click.option("--check-only", is_flag=True, help="Exit after the check instead of serving on.")
@click.option("--port", type=int, help=f"By default {DEFAULTS.port}; 0: any free one.")
def demo(check_only: bool, port: int | None) -> int:
    """Train, serve and check a model of handwritten digits."""
    from tfrunner.demo import run

    return run(check_only=check_only, port=port)
