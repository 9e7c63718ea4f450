"""What a link needs of an event loop, and of the futures in it. Declarations only.

asyncio's loops and futures offer it, and so do `agenda.Agenda` and those of `promises`, the
ones for threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A callback that is due at some moment."""

    def cancel(self) -> None:
        """Do not call it."""


class Turns(Protocol):
    """An event loop. Everything in it happens in turns, one after the other."""

    def call_soon(self, callback: Callable[[], Any], /) -> object:
        """Call back in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], Any], /) -> Timer:
        """Call back after so many seconds."""

    def add_reader(self, fd: int, callback: Callable[[], Any], /) -> object:
        """Call back whenever a descriptor can be read."""

    def remove_reader(self, fd: int, /) -> object:
        """Watch the descriptor no more."""


class Reply(Protocol):
    """A future: where an answer is put."""

    def done(self) -> bool:
        """Whether it is set, or nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Put the answer in."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Put an error in."""
