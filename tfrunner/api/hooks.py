"""Services as one api process has them: their state, and the hooks at its begin and its end."""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tfrunner.api.calls import Calls
from tfrunner.context import Context
from tfrunner.errors import ConfigError
from tfrunner.service import Service

logger = logging.getLogger("tfrunner.api")


class Served:
    """One Service in this process.

    Args:
        service: Declared by the user.

    Attributes:
        state: What its hooks and endpoints share.
        calls: Runs its functions.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.state: dict[str, Any] = {}
        self.calls = Calls(service)

    def __repr__(self) -> str:
        return f"<Served {self.service!r} {self.calls!r}>"


class Life:
    """Begins and ends the Services of a process: start-up hooks in order, then shutdown hooks.

    Args:
        served: The Services.
    """

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = tuple(served)
        self._starting: asyncio.Future[None] | None = None
        self._has_ended = False

    def __repr__(self) -> str:
        done = self._starting is not None and self._starting.done()
        state = "ended" if self._has_ended else "begun" if done else "not begun"
        return f"<Life [{len(self._served)} Services | {state}]>"

    @property
    def is_begun(self) -> bool:
        """Whether the start-up hooks have run."""
        starting = self._starting
        return starting is not None and starting.done() and starting.exception() is None

    async def start(self) -> None:
        """Call the start-up hooks, once, whoever asks and however often.

        Raises:
            ConfigError: One raised.
        """
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        for each in self._served:
            for hook in each.service.startup_hooks:
                try:
                    await call_hook(hook, each)
                except Exception as exc:
                    logger.exception("a start-up hook failed")
                    raise ConfigError(hook_failed("start-up", hook, each.service, exc)) from exc

    async def stop(self) -> None:
        """Call the shutdown hooks if the start-up hooks have run, once; log what one raises."""
        if self._has_ended:
            return
        self._has_ended = True
        for each in self._served:
            for hook in each.service.shutdown_hooks if self.is_begun else ():
                try:
                    await call_hook(hook, each)
                except Exception as exc:
                    text = hook_failed("shutdown", hook, each.service, exc)
                    logger.error("%s", text, exc_info=exc)
            each.calls.close()


async def call_hook(hook: Callable[..., Any], served: Served) -> None:
    """Call a hook: in the event loop if it is async, else in a thread, where `run` works."""
    arguments = (Context(served.state),) if inspect.signature(hook).parameters else ()
    if inspect.iscoroutinefunction(hook):
        await hook(*arguments)
    else:
        await asyncio.to_thread(hook, *arguments)


def hook_failed(kind: str, hook: Callable[..., Any], service: Service, exc: BaseException) -> str:
    """Return one line about a hook that raised, with the place in the user's code."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = f"{type(exc).__name__}: {exc}".splitlines()[0]
    name = getattr(hook, "__name__", repr(hook))
    return f"Service {service.name!r}: the {kind} hook {name} failed: {text}{where}"
