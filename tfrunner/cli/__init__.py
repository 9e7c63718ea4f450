"""The door: the `tfrunner` command.

One module for each group of commands; `targets` and `inputs` read what people type,
`progress` and `tables` are what they see.
"""

from tfrunner.cli.app import main

__all__ = ["main"]
