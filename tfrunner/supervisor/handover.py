"""How a child process gets its configuration, however long it is.

A short one stands on the command line, where `ps` shows it. One argument has room for 128 KB, and
nobody wants to read so much: a longer one lies in a file without a name, which the process
inherits. Its argument is then `<process>@<descriptor>`; `config.from_argument` reads both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from tfrunner.config import INHERITED, to_argument

log = logging.getLogger("tfrunner.supervisor")

SHORT = 8192
"""Characters of an argument that may stand on a command line."""


class Argument(NamedTuple):
    """The argument of a process, and the descriptors that it must inherit to read it."""

    text: str
    descriptors: tuple[int, ...] = ()


@contextlib.contextmanager
def handed_over(config: msgspec.Struct, process: str) -> Iterator[Argument]:
    """Give the argument with which a process is started; it inherits inside the block.

    Where there can be no such file, a long one stands on the command line too, which has room for
    most.

    Args:
        config: What the process is started with.
        process: Its name.
    """
    text = to_argument(config)
    descriptor = None if len(text) <= SHORT else _file_with(text, process)
    if descriptor is None:
        yield Argument(text)
        return
    try:
        yield Argument(f"{process}{INHERITED}{descriptor}", (descriptor,))
    finally:
        os.close(descriptor)


class Letterbox:
    """A file that a waiting process inherits: what it is to read later, when it is told so."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def put(self, config: msgspec.Struct, process: str) -> str:
        """Return the line that a process is told; what is longer than a line lies here then.

        Raises:
            OSError: There is no room.
        """
        text = to_argument(config)
        if len(text) <= SHORT:
            return text
        _write(self.descriptor, text.encode())
        return f"{process}{INHERITED}{self.descriptor}"

    def close(self) -> None:
        """Close our end."""
        os.close(self.descriptor)


def nameless_file() -> int:
    """Return the descriptor of an empty file without a name, in memory where the system can.

    Raises:
        OSError: There can be none.
    """
    if sys.platform == "linux":
        return os.memfd_create("tfrunner-config")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _file_with(text: str, process: str) -> int | None:
    """Return a file that holds a text, None if there can be none."""
    try:
        descriptor = nameless_file()
    except OSError as exc:
        log.warning("the configuration of %s lies in no file: %s", process, exc)
        return None
    try:
        _write(descriptor, text.encode())
    except OSError as exc:
        os.close(descriptor)
        log.warning("the configuration of %s lies in no file: %s", process, exc)
        return None
    return descriptor


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
