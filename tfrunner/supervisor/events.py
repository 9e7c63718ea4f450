"""What the supervisor's core is told, and what it wants done."""

from __future__ import annotations

from typing import Union

import msgspec

from tfrunner import protocol


class Exited(msgspec.Struct, frozen=True):
    """The process of a slot was reaped; `code` is negative where a signal ended it."""

    slot: str
    code: int


class StopAsked(msgspec.Struct, frozen=True):
    """Somebody wants the server to end: the number of the signal."""

    signal: int


class Renew(msgspec.Struct, frozen=True):
    """What Services are made of has changed: these api processes shall replace the others."""

    slots: tuple[str, ...]


class Renewed(msgspec.Struct, frozen=True):
    """All api processes that shall replace the others answer."""


class Answered(msgspec.Struct, frozen=True):
    """An api process answered the probe with this HTTP status."""

    status: int


class Start(msgspec.Struct, frozen=True):
    """Start the process of a slot under this name."""

    slot: str
    process: str


class Give(msgspec.Struct, frozen=True):
    """Give the process of a spare's slot to a worker's slot, under this name."""

    spare: str
    slot: str
    process: str


class Signal(msgspec.Struct, frozen=True):
    """Send a signal to the process of a slot."""

    slot: str
    signal: int


class Send(msgspec.Struct, frozen=True):
    """Send a message to the dispatcher."""

    message: protocol.Message


class CloseListener(msgspec.Struct, frozen=True):
    """Close our copy of the listening socket: the api processes close theirs."""


class Publish(msgspec.Struct, frozen=True):
    """Let clients find the server: an api process listens."""


class Announce(msgspec.Struct, frozen=True):
    """Tell people that the server is ready."""


class Report(msgspec.Struct, frozen=True):
    """Write one line into the log."""

    text: str


Event = Union[
    Exited,
    StopAsked,
    Answered,
    Renew,
    Renewed,
    protocol.Welcome,
    protocol.Fence,
    protocol.Status,
]
Action = Union[Start, Give, Signal, Send, CloseListener, Publish, Announce, Report]
