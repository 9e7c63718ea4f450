"""A gateway's line to the dispatcher: the socket on an event loop, Hellos, status, counters.

The dispatcher's life is named by its epoch. A new one means, in this order: say Hello with
that epoch, then send every unanswered request again. The dispatcher passes over what comes
before that Hello, so it sees each request once, also where ZeroMQ had kept one for it.

A dispatcher that does not answer is given up with its socket: what ZeroMQ keeps for it goes
too, so that nothing piles up while none is there, and nothing old reaches the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from tfrunner.errors import ProtocolError, StateError, TFRunnerError, Unavailable, WorkerLost
from tfrunner.liveness import LOST_SECONDS, Liveness
from tfrunner.protocol import (
    Ask,
    Buffer,
    Count,
    Decoder,
    Failures,
    Hello,
    Message,
    Request,
    Results,
    Status,
    ToGateway,
    Welcome,
    encode,
)
from tfrunner.specs import ModelSpec, decode_spec
from tfrunner.transport import Dealer, check_address

DRAIN_LIMIT = 256
"""Messages read in one turn of the event loop; others get their turn before the next."""

CLOSE_SECONDS = 0.5
"""So long a closing link waits for its last words to leave, in a thread of its own."""

log = logging.getLogger(__name__)


class Link:
    """The line of one gateway, for one event loop.

    Args:
        address: Where the dispatcher listens.
        name: What the dispatcher calls this peer.
        take: Called with every Results and Failures.
        renew: Called with the models (by tag) of a new epoch, after our Hello with that epoch.
        lose: Called when a dispatcher that was there has been silent for LOST_SECONDS.
        find: Says where the dispatcher listens by now, asked while it does not answer; None:
            it stays where it is.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        take: Callable[[Results | Failures], None],
        renew: Callable[[dict[str, ModelSpec]], None],
        lose: Callable[[], None],
        find: Callable[[], str] | None = None,
    ) -> None:
        self.address = address
        self.name = name
        self.epoch = ""
        self.liveness = Liveness()
        self._take = take
        self._renew = renew
        self._lose = lose
        self._find = find
        self._dealer = Dealer(name)
        self._decoder = Decoder(ToGateway)
        self._last_ask = 0
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._amounts: dict[tuple[str, str], float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._welcomed: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Link {self.address} [{self.liveness!r} | epoch {self.epoch}]>"

    @property
    def identity(self) -> str:
        """What the logs of the server call this peer."""
        return self._dealer.identity.decode()

    async def open(self, timeout: float) -> None:
        """Connect, and wait `timeout` seconds for the first Welcome.

        Raises:
            ConfigError: The address is refused.
            Unavailable: No dispatcher answered in time.
        """
        self._loop = asyncio.get_running_loop()
        self._welcomed = asyncio.Event()
        try:
            self._connect()
            self._beat()
            await asyncio.wait_for(self._welcomed.wait(), timeout)
        except asyncio.TimeoutError as exc:
            self._stop()
            self._dealer.close()
            raise Unavailable(
                f"no dispatcher answered at {self.address} within {timeout:g} s; "
                "is the server running?"
            ) from exc
        except BaseException:
            self._stop()
            self._dealer.close()
            raise

    async def close(self) -> None:
        """Send the last counters, and close the socket; nobody else waits for that."""
        loop = self._loop
        if loop is None:
            return
        if self.liveness.is_connected:
            self._send_counts()
        self._stop()
        if self.liveness.is_connected:
            await loop.run_in_executor(None, self._dealer.close, CLOSE_SECONDS)
        else:
            self._dealer.close()

    def _connect(self) -> None:
        assert self._loop is not None
        self._dealer.open()
        self._dealer.connect(self.address)
        self._loop.add_reader(self._dealer.fileno(), self.drain)

    def _reconnect(self) -> None:
        """Give the socket up, with all that it has not sent, and take another."""
        if self._loop is not None:
            self._loop.remove_reader(self._dealer.fileno())
            self._dealer.close()
            self._dealer = Dealer(self.name)
            self._connect()
            self.liveness.forget()

    def _stop(self) -> None:
        """Read nothing more; what still waits here fails."""
        if self._loop is None:
            return
        if self._dealer.is_open:
            self._loop.remove_reader(self._dealer.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None
        self._fail_asked(Unavailable("the gateway was closed before an answer came"))

    def _fail_asked(self, error: Unavailable) -> None:
        for future in self._asked.values():
            if not future.done():
                future.set_exception(error)

    def send(self, message: Message) -> None:
        """Send a message; call `drain` after the last one (transport rule 4)."""
        self._dealer.send(encode(message))

    def drain(self) -> None:
        """Read until nothing is left, or take another turn."""
        if self._loop is None:
            return
        received = self._dealer.receive(DRAIN_LIMIT)
        if len(received) == DRAIN_LIMIT:
            self._loop.call_soon(self.drain)
        for each in received:
            self._handle(each.frames)

    async def ask(self, timeout: float) -> dict[str, Any]:
        """Return the dispatcher's state; see `Gateway.ask`."""
        if self._loop is None:
            raise StateError("the gateway is not open; call `await gateway.open()` first")
        if not self.liveness.is_connected:
            raise no_dispatcher()
        self._last_ask = id = self._last_ask + 1
        future = self._asked[id] = self._loop.create_future()
        self.send(Ask(id))
        self.drain()
        try:
            return await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError as exc:
            raise Unavailable(f"the dispatcher gave no status within {timeout:g} s") from exc
        finally:
            del self._asked[id]

    def count(self, name: str, label: str, amount: float) -> None:
        """Add to a counter; the dispatcher is told with the next Hello."""
        key = name, label
        self._amounts[key] = self._amounts.get(key, 0) + amount

    def _send_counts(self) -> None:
        if self._amounts:
            amounts, self._amounts = self._amounts, {}
            self.send(Count(tuple((*key, amount) for key, amount in amounts.items())))

    def _beat(self) -> None:
        """Say Hello, and notice a dispatcher that does not answer."""
        if self._loop is None:
            return
        self.drain()  # a Welcome may lie there: this event loop itself may have stood still
        now = monotonic()
        self._look_again(now)
        if self.liveness.is_connected:
            self._send_counts()
        if self.liveness.hello_is_due(now):
            self.send(Hello(self.name, self.epoch))
            self.liveness.asked(now)
        self.drain()
        delay = max(0.001, self.liveness.next_beat(now) - now)
        self._timer = self._loop.call_later(delay, self._beat)

    def _look_again(self, now: float) -> None:
        """Give up a dispatcher that does not answer, or that listens elsewhere by now."""
        if not self.liveness.is_asking:
            return
        has_moved = self._has_moved()
        if self.liveness.becomes_lost(now):
            log.warning("the dispatcher has not answered for %g s", LOST_SECONDS)
            self._reconnect()
            self._fail_asked(no_dispatcher())
            self._lose()
        elif has_moved or (not self.liveness.is_connected and self.liveness.hello_is_due(now)):
            self._reconnect()

    def _has_moved(self) -> bool:
        """Return whether there is another address now; take it if so."""
        if self._find is None:
            return False
        try:
            found = check_address(self._find())
        except TFRunnerError:  # no server runs now, or several do
            return False
        has_moved, self.address = found != self.address, found
        return has_moved

    def _handle(self, frames: Sequence[Buffer]) -> None:
        """Act on one message; one that is refused ends nothing but itself."""
        try:
            message = self._decoder.decode(frames)
            match message:
                case Results() | Failures():
                    self._take(message)
                case Welcome():
                    self._take_welcome(message)
                case Status(id=id, state=state):
                    asked = self._asked.get(id)
                    if asked is not None and not asked.done():
                        asked.set_result(state)
        except ProtocolError as exc:
            log.error("a message from the dispatcher was refused: %s", exc)

    def _take_welcome(self, message: Welcome) -> None:
        if message.epoch != self.epoch:
            models = {spec.tag: spec for spec in map(decode_spec, message.models)}
            self.send(Hello(self.name, message.epoch))
            self._renew(models)
            for id in self._asked:
                self.send(Ask(id))
            self.epoch = message.epoch
            log.info("connected to the dispatcher, epoch %s", message.epoch)
            if self._loop is not None:
                self._loop.call_soon(self.drain)
        self.liveness.heard()
        if self._welcomed is not None:
            self._welcomed.set()


def may_have_run(request: Request) -> WorkerLost:
    """Return the error of a request that a lost dispatcher held and that must not run twice."""
    return WorkerLost(
        f"the dispatcher was lost while it held this request, and method {request.method!r} of "
        f"{request.model} must not run twice: it may have run, and was not sent again.",
        retry_after=1.0,
    )


def no_dispatcher() -> Unavailable:
    """Return the error of a request that nobody can be asked for now."""
    return Unavailable(
        f"no dispatcher has answered for {LOST_SECONDS:g} s; a server that runs restarts it. "
        "Try again.",
        retry_after=1.0,
    )
