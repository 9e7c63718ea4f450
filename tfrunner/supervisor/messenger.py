"""What the dispatcher is told, and when: hellos, questions, deaths, models without a worker. Pure.

A dispatcher that starts anew is told everything that the one before it knew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from tfrunner import protocol

REMEMBERED_DEATHS = 100


class Messenger:
    """Composes the supervisor's messages; sends none.

    Args:
        name: What the dispatcher knows the supervisor by.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._epoch = ""
        self._next_hello = 0.0
        self._next_ask = 0.0
        self._asked = 0
        self._tell_from = 0  # first Status that knows of the latest trouble
        self._told: dict[str, str] = {}  # model -> reason
        self._gone: deque[protocol.WorkerGone] = deque(maxlen=REMEMBERED_DEATHS)

    def next_wakeup(self) -> float:
        """Return the monotonic moment at which something is to be said."""
        return min(self._next_hello, self._next_ask)

    def regular(self, now: float, *, pause: float) -> list[protocol.Message]:
        """Return the hello and the question for the state, each when it is due.

        Args:
            now: Monotonic moment.
            pause: Seconds until the next question.
        """
        due: list[protocol.Message] = []
        if now >= self._next_hello:
            self._next_hello = now + protocol.HELLO_SECONDS
            due.append(protocol.SupervisorHello(self._name, self._epoch))
        if now >= self._next_ask:
            self._next_ask = now + pause
            self._asked += 1
            due.append(protocol.Ask(self._asked))
        return due

    def ask_soon(self, now: float) -> None:
        """Ask for the state with the next message."""
        self._next_ask = now

    def gone(self, process: str, reason: str) -> protocol.WorkerGone:
        """Return the message about a reaped worker; remember it for the next dispatcher."""
        message = protocol.WorkerGone(process, reason)
        self._gone.append(message)
        return message

    def has_trouble(self, now: float) -> None:
        """Take note that a worker had trouble: only a state asked for from now on knows it."""
        self._tell_from = self._asked + 1
        self.ask_soon(now)

    def welcomed(self, epoch: str) -> list[protocol.Message]:
        """Return what a dispatcher must be told that has just said its epoch."""
        if epoch == self._epoch:
            return []
        self._epoch = epoch
        self._told.clear()
        self._tell_from = self._asked + 1
        return list(self._gone)

    def news(
        self, status: protocol.Status, troubles: Mapping[str, str]
    ) -> list[protocol.ModelUnavailable]:
        """Return what has changed about the models that cannot be served.

        Args:
            status: The dispatcher's state; the reasons in it came from the workers themselves.
            troubles: Why each model has no worker, "" where it may have one.
        """
        if status.id < self._tell_from:
            return []
        known: dict[str, Any] = status.state.get("models", {})
        changed = []
        for model, trouble in troubles.items():
            if self._told.get(model, "") == trouble:
                continue
            self._told[model] = trouble
            said = str(known.get(model, {}).get("reason") or trouble) if trouble else ""
            changed.append(protocol.ModelUnavailable(model, said))
        return changed
