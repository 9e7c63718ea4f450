"""A gateway's line to the dispatcher: the socket in an event loop, Hellos, status, counters.

The dispatcher's life is named by its epoch. A new one means, in this order: say Hello with
that epoch, then send every unanswered request again. The dispatcher passes over what comes
before that Hello, so it sees each request once, also where ZeroMQ had kept one for it.

A dispatcher that does not answer is given up with its socket: what ZeroMQ keeps for it goes
too, so that nothing piles up while none is there, and nothing old reaches the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic

from tfrunner.errors import ProtocolError, TFRunnerError, Unavailable, WorkerLost
from tfrunner.liveness import LOST_SECONDS, Liveness
from tfrunner.metric_series import Reporter
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
    Segment,
    Status,
    ToGateway,
    Welcome,
    encode,
)
from tfrunner.specs import ModelSpec, decode_spec
from tfrunner.transport import Dealer, check_address
from tfrunner.turns import Reply, Timer, Turns

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

    Attributes:
        segment: The shared memory that was announced on this connection to this dispatcher.
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
        self.segment: Segment | None = None
        self.liveness = Liveness()
        self._take = take
        self._renew = renew
        self._lose = lose
        self._find = find
        self._dealer = Dealer(name)
        self._decoder = Decoder(ToGateway)
        self._last_ask = 0
        self._asked: dict[int, tuple[Reply, bool]] = {}
        self._amounts: dict[tuple[str, str], float] = {}
        self.reporter: Reporter | None = None
        self._turns: Turns | None = None
        self._opened: Reply | None = None
        self._timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<Link {self.address} [{self.liveness!r} | epoch {self.epoch}]>"

    @property
    def identity(self) -> str:
        """What the logs of the server call this peer."""
        return self._dealer.identity.decode()

    def open(self, turns: Turns, opened: Reply) -> None:
        """Connect, and say Hello.

        Args:
            turns: The event loop that this link lives in.
            opened: Set with the first Welcome.

        Raises:
            ConfigError: The address is refused.
        """
        self._turns = turns
        self._opened = opened
        try:
            self._connect()
            self._beat()
        except BaseException:
            self.stop()
            self.close(0.0)
            raise

    def stop(self) -> float:
        """Send the last counters; read and send nothing more. What still waits here fails.

        Returns:
            How many seconds `close` may take, so that what was sent leaves.
        """
        if self._turns is None:
            return 0.0
        linger = CLOSE_SECONDS if self.liveness.is_connected else 0.0
        if linger:
            self._send_counts()
        if self._dealer.is_open:
            self._turns.remove_reader(self._dealer.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._turns = None
        error = Unavailable("the gateway was closed before an answer came")
        self._fail_asked(error)
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
        return linger

    def close(self, linger: float) -> None:
        """Close the socket, after `stop`; may wait, and may be called in any thread."""
        self._dealer.close(linger)

    def restore(self) -> None:
        """Begin anew, as with another dispatcher: nobody knows what a cut turn has left."""
        if self._timer is not None:
            self._timer.cancel()
        self.epoch = ""
        self._reconnect()
        self._beat()

    def _connect(self) -> None:
        assert self._turns is not None
        self._dealer.open()
        self._dealer.connect(self.address)
        self._turns.add_reader(self._dealer.fileno(), self.drain)

    def _reconnect(self) -> None:
        """Give the socket up, with all that it has not sent, and take another."""
        if self._turns is not None:
            if self._dealer.is_open:
                self._turns.remove_reader(self._dealer.fileno())
            self._dealer.close()
            self.segment = None
            self._dealer = Dealer(self.name)
            self._connect()
            self.liveness.forget()

    def _fail_asked(self, error: Unavailable) -> None:
        for reply, _ in self._asked.values():
            if not reply.done():
                reply.set_exception(error)

    def send(self, message: Message) -> None:
        """Send a message; call `drain` after the last one (transport rule 4)."""
        self._dealer.send(encode(message))

    def announce(self, segment: Segment) -> None:
        """Tell the dispatcher where bodies lie from now on, for as long as it is this one."""
        self.segment = segment
        self.send(Hello(self.name, self.epoch, segment))

    def drain(self) -> None:
        """Read until nothing is left, or take another turn."""
        if self._turns is None:
            return
        received = self._dealer.receive(DRAIN_LIMIT)
        if len(received) == DRAIN_LIMIT:
            self._turns.call_soon(self.drain)
        for each in received:
            self._handle(each.frames)

    @property
    def is_asking(self) -> bool:
        """Whether an answer of the dispatcher itself is awaited."""
        return bool(self._asked) or self.liveness.is_asking

    def ask(self, reply: Reply, *, told: bool = False) -> int:
        """Ask for the dispatcher's state; return the number to `forget`.

        Args:
            reply: Where it is put.
            told: With users' own metrics, those of this process as they are now.

        Raises:
            Unavailable: It does not answer at all now.
        """
        if not self.liveness.is_connected:
            raise no_dispatcher()
        self._last_ask = id = self._last_ask + 1
        self._asked[id] = reply, told
        if told:
            self._send_counts()
        self.send(Ask(id, told))
        self.drain()
        return id

    def forget(self, id: int) -> None:
        """Note that nobody waits for that state any more."""
        self._asked.pop(id, None)

    def count(self, name: str, label: str, amount: float) -> None:
        """Add to a counter; the dispatcher is told with the next Hello."""
        key = name, label
        self._amounts[key] = self._amounts.get(key, 0) + amount

    def _send_counts(self) -> None:
        if self._amounts:
            amounts, self._amounts = self._amounts, {}
            self.send(Count(tuple((*key, amount) for key, amount in amounts.items())))
        if self.reporter is not None:
            report = self.reporter.report(self.epoch, self._dealer.identity)
            if report is not None:
                self.send(report)

    def _beat(self) -> None:
        """Say Hello, and notice a dispatcher that does not answer."""
        if self._turns is None:
            return
        self.drain()  # a Welcome may lie there: this event loop itself may have stood still
        now = monotonic()
        self._look_again(now)
        if self.liveness.is_connected:
            self._send_counts()
        if self.liveness.hello_is_due(now):
            self._say_hello(now)
        self.drain()
        delay = max(0.001, self.liveness.next_beat(now) - now)
        self._timer = self._turns.call_later(delay, self._beat)

    def _say_hello(self, now: float) -> None:
        self.send(Hello(self.name, self.epoch, self.segment))
        self.liveness.asked(now)

    def refresh(self) -> None:
        """Say Hello if that is overdue: this event loop stood still, and may be forgotten.

        The dispatcher passes over requests of a gateway that it does not know.
        """
        now = monotonic()
        if self.liveness.is_stale(now):
            self._say_hello(now)

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
                    if asked is not None and not asked[0].done():
                        asked[0].set_result(state)
        except ProtocolError as exc:
            log.error("a message from the dispatcher was refused: %s", exc)

    def _take_welcome(self, message: Welcome) -> None:
        if message.epoch != self.epoch:
            models = {spec.tag: spec for spec in map(decode_spec, message.models)}
            self.segment = None
            self.send(Hello(self.name, message.epoch))
            self._renew(models)
            for id, (_, told) in self._asked.items():
                self.send(Ask(id, told))
            self.epoch = message.epoch
            log.info("connected to the dispatcher, epoch %s", message.epoch)
            if self._turns is not None:
                self._turns.call_soon(self.drain)
        self.liveness.heard()
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)


def may_have_run(request: Request) -> WorkerLost:
    """Return the error of a request that a lost dispatcher held and that must not run twice."""
    return WorkerLost(
        f"the dispatcher was lost while it held this request, and method {request.method!r} of "
        f"{request.model} must not run twice: it may have run, and was not sent again.",
        retry_after=1.0,
    )


def nobody_there(address: str, timeout: float) -> Unavailable:
    """Return the error of a gateway that cannot be opened."""
    return Unavailable(
        f"no dispatcher answered at {address} within {timeout:g} s; is the server running?"
    )


def no_status(timeout: float) -> Unavailable:
    """Return the error of a question that was not answered."""
    return Unavailable(f"the dispatcher gave no status within {timeout:g} s")


def no_dispatcher() -> Unavailable:
    """Return the error of a request that nobody can be asked for now."""
    return Unavailable(
        f"no dispatcher has answered for {LOST_SECONDS:g} s; a server that runs restarts it. "
        "Try again.",
        retry_after=1.0,
    )
