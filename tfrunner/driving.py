"""An event loop for threads that has no thread of its own: whoever waits drives it.

A thread that waits for its answer polls the socket itself, if nobody does yet; the others wait
until it has theirs as well. (Measured: to hand a lone request over to a thread that owns the
socket, and its answer back, cost 110 us of 580.) One more thread, the keeper, drives while
something is due and nobody waits: Hellos, deadlines, answers of futures that nobody asks yet.

1. Everything of the gateway is touched under `lock` only, between `begin` and `end`.
2. One thread at a time has the seat: it takes turns, and polls without the lock in between.
   Others may send under the lock meanwhile, and read what came, since sending may take the
   edge of the socket's descriptor; whoever waits is woken by its future.
3. Futures are set outside of the lock, by `deliver`: they call users' code.
4. A caller takes the seat from the keeper, if no other waits; never from another caller.
   Who leaves it tells the keeper to go on, where there is something to do.
5. Any thread may be interrupted by an exception anywhere (a signal's handler, in the main
   thread). A turn that was cut short is noticed by the next one, which calls `restore`.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple, Protocol

from tfrunner.errors import StateError

GRACE_SECONDS = 0.005
"""So long the keeper lets alone what somebody will probably wait for himself.

With 1 ms it came in between while a thread submitted and read 64 requests at a time.
"""

LONGEST_SECONDS = 3600.0
FOREVER = float("inf")

log = logging.getLogger(__name__)


class Awaited(Protocol):
    """A future, as the thread that waits for it sees it."""

    def done(self) -> bool:
        """Whether it is set."""

    def follow(self, timeout: float | None) -> None:
        """Wait until it is set, or for so many seconds; another thread drives."""


class Hooks(NamedTuple):
    """What is driven.

    Args:
        flush: Sends what the turn brought. Called with the lock, as `restore` is.
        restore: Begins anew after a turn that was cut short.
        deliver: Sets the futures that have an answer, and says whether there was one. Called
            without the lock.
        is_settled: Whether no answer is awaited.
    """

    flush: Callable[[], None]
    restore: Callable[[], None]
    deliver: Callable[[], bool]
    is_settled: Callable[[], bool]


class Alarm:
    """A callback that is due at some moment."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class Seat:
    """What the thread that drives sleeps on."""

    def __init__(self) -> None:
        self.thread = 0
        self.version = -1
        self.readable: list[int] = []
        self._is_rung = False
        self._ends: tuple[int, ...] = ()
        self._poll = select.poll()

    def open(self) -> None:
        """Make the bell."""
        self._ends = os.pipe()

    def watch(self, descriptors: list[int], version: int) -> None:
        """Watch these descriptors from now on."""
        self.version = version
        self._poll = select.poll()
        for each in (self._ends[0], *descriptors):
            self._poll.register(each, select.POLLIN)

    def ring(self) -> None:
        """Wake who sleeps here."""
        if self._ends and not self._is_rung:
            self._is_rung = True
            os.write(self._ends[1], b"\0")

    def begin(self, thread: int) -> None:
        """Note who sits here now; an interrupted one may have left the bell as it was."""
        self.thread = thread
        self.readable = []
        self._is_rung = False

    def sleep(self, until: float) -> None:
        """Sleep until a moment, the bell, or something to read, which `readable` then names."""
        seconds = min(until - monotonic(), LONGEST_SECONDS)
        timeout = max(0, math.ceil(seconds * 1000))
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout)]
        if self._ends[0] in ready:
            ready.remove(self._ends[0])
            os.read(self._ends[0], 64)
            self._is_rung = False
        self.readable = ready

    def take_readable(self) -> list[int]:
        """Return what the last sleep found."""
        found, self.readable = self.readable, []
        return found

    def close(self) -> None:
        """Close the bell."""
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)


class Driver:
    """The event loop. The methods that `Turns` names are called with the lock held."""

    def __init__(self, hooks: Hooks) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._hooks = hooks
        self._readers: dict[int, Callable[[], Any]] = {}
        self._version = 0
        self._soon: deque[Callable[[], Any]] = deque()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._caller = Seat()
        self._keeper = Seat()
        self._driving: Seat | None = None
        self._is_asleep = False
        self._wakes_at = FOREVER
        self._followers = 0
        self._is_torn = False
        self._is_closed = False
        self._wish = FOREVER
        self._keeper_wakes_at = FOREVER
        self._thread = threading.Thread(target=self._keep, name="tfrunner-gateway", daemon=True)

    def __repr__(self) -> str:
        names = {None: "nobody", self._caller: "a caller", self._keeper: "the keeper"}
        return f"<Driver [{names[self._driving]} drives | {self._followers} follow]>"

    def start(self) -> None:
        """Start the keeper."""
        self._caller.open()
        self._keeper.open()
        self._thread.start()

    # --- as an event loop -----------------------------------------------------------------

    def call_soon(self, callback: Callable[[], Any], /) -> None:
        """Call back in the next turn."""
        self._soon.append(callback)
        self._wake_by(0.0)

    def call_later(self, delay: float, callback: Callable[[], Any], /) -> Alarm:
        """Call back after so many seconds."""
        alarm = Alarm(callback)
        moment = monotonic() + delay
        heapq.heappush(self._alarms, (moment, next(self._numbers), alarm))
        self._wake_by(moment)
        return alarm

    def add_reader(self, fd: int, callback: Callable[[], Any], /) -> None:
        """Call back whenever a descriptor can be read."""
        self._readers[fd] = callback
        self._version += 1
        self._wake_by(0.0)

    def remove_reader(self, fd: int, /) -> None:
        """Watch the descriptor no more."""
        self._readers.pop(fd, None)
        self._version += 1

    # --- for whoever uses what is driven ----------------------------------------------------

    def begin(self) -> None:
        """Begin to touch what is driven; with the lock held."""
        if self._is_torn:
            self._soon.clear()
            self._alarms.clear()
            self._readers.clear()
            self._version += 1
            self._hooks.restore()
        self._is_torn = True

    def end(self) -> None:
        """End what `begin` began. Where an exception prevents that, the next one restores."""
        self._is_torn = False

    def push(self, *, is_due: bool) -> None:
        """See to it that what waits to be flushed leaves; with the lock held, after `begin`.

        Args:
            is_due: At once. Otherwise more may come that it can leave together with.
        """
        if self._driving is None:
            if is_due:
                self._hooks.flush()
            self._ask_keeper(monotonic() + GRACE_SECONDS)
        elif self._is_asleep:
            if is_due:
                self._hooks.flush()
            else:
                self._driving.ring()

    def deliver(self) -> None:
        """Set the futures that have an answer; without the lock, and not by who drives."""
        if self._hooks.deliver():
            with self.lock:
                if self._driving is not None:
                    self._driving.ring()  # it may be the one that he waits for

    def hasten(self) -> None:
        """Let the keeper drive at once, if nobody does: who waits for a future cannot."""
        if self._driving is None:
            with self.lock:
                self._ask_keeper(0.0)

    def drive(self, awaited: Awaited, timeout: float | None = None) -> None:
        """Wait until the future is set, at most so many seconds; drive if nobody else does."""
        until = FOREVER if timeout is None else monotonic() + timeout
        with self.lock:
            leads = self._take_seat()
            if not leads:
                self._followers += 1
                if self._is_asleep:
                    self.begin()
                    self._hooks.flush()
                    self.end()
        if leads:
            try:
                self._lead(self._caller, awaited.done, until)
            finally:
                self._leave(self._caller)
            return
        try:
            self.deliver()
            awaited.follow(None if timeout is None else max(0.0, until - monotonic()))
        finally:
            with self.lock:
                self._followers -= 1

    def close(self, stop: Callable[[], float]) -> float:
        """End; nobody drives any more when this returns.

        Args:
            stop: Ends what is driven; called with the lock held.

        Returns:
            What `stop` did.
        """
        with self.lock:
            self.begin()
            outcome = stop()
            self.end()
            self._is_closed = True
            if self._driving is not None:
                self._driving.ring()
            self._changed.notify_all()
        self.deliver()
        me = threading.get_ident()
        with self.lock:
            while self._driving is self._caller and self._caller.thread != me:
                self._changed.wait()
        if self._thread.ident not in (me, None):
            self._thread.join()
            self._keeper.close()
            if self._caller.thread != me:
                self._caller.close()
        return outcome

    # --- the seat ---------------------------------------------------------------------------

    def _take_seat(self) -> bool:
        if self._is_closed or self._driving is self._caller:
            return False
        if self._driving is self._keeper:
            if self._followers:
                return False
            self._keeper.ring()
        self._driving = self._caller
        self._caller.begin(threading.get_ident())
        self._is_asleep = False
        self._wish = FOREVER
        return True

    def _lead(self, seat: Seat, is_done: Callable[[], bool], until: float) -> None:
        """Take turns until something is done, a moment has come, or the seat is lost."""
        while True:
            wakes_at = self._turn(seat, until)
            self._hooks.deliver()
            if wakes_at is None or is_done() or until <= monotonic():
                return
            seat.sleep(wakes_at)

    def _turn(self, seat: Seat, until: float) -> float | None:
        """Do what is due; return when to wake up again, None if the seat is another's."""
        with self.lock:
            if self._driving is not seat or self._is_closed:
                return None
            self._is_asleep = False
            self.begin()
            for descriptor in seat.take_readable():
                if descriptor in self._readers:
                    self._readers[descriptor]()
            if self._soon or (self._alarms and self._alarms[0][0] <= monotonic()):
                self._call_due()
            self._hooks.flush()
            while self._soon:
                self._soon.popleft()()
            if seat.version != self._version:
                seat.watch(list(self._readers), self._version)
            self._wakes_at = min(until, self._next_alarm())
            self._is_asleep = True
            self.end()
            return self._wakes_at

    def _leave(self, seat: Seat) -> None:
        with self.lock:
            if self._driving is not seat:
                return
            self._driving = None
            seat.thread = 0
            self._is_asleep = False
            if self._is_closed:
                self._changed.notify_all()
            elif self._followers or self._is_torn:
                self._ask_keeper(0.0)
            elif self._soon or not self._hooks.is_settled():
                self._ask_keeper(monotonic() + GRACE_SECONDS)
            else:
                self._ask_keeper(FOREVER)

    # --- what is due ------------------------------------------------------------------------

    def _call_due(self) -> None:
        while self._soon:
            self._soon.popleft()()
        now = monotonic()
        while self._alarms and self._alarms[0][0] <= now:
            callback = heapq.heappop(self._alarms)[2].callback
            if callback is not None:
                callback()

    def _next_alarm(self) -> float:
        while self._alarms and self._alarms[0][2].callback is None:
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else FOREVER

    def _wake_by(self, moment: float) -> None:
        """See to it that somebody takes a turn at a moment, or before."""
        if self._driving is None:
            self._ask_keeper(self._wish)
        elif self._is_asleep and moment < self._wakes_at:
            self._driving.ring()

    # --- the keeper -------------------------------------------------------------------------

    def _ask_keeper(self, moment: float) -> None:
        """Let the keeper drive from a moment on, unless somebody else does."""
        self._wish = min(self._wish, moment)
        if min(self._wish, 0.0 if self._soon else self._next_alarm()) < self._keeper_wakes_at:
            self._changed.notify_all()

    def _keep(self) -> None:
        """Drive whenever something is due and nobody does; runs in a thread of its own."""
        while self._await_need():
            try:
                self._lead(self._keeper, self._has_nothing_to_do, FOREVER)
            except Exception:
                log.exception("the connection to the dispatcher is made anew")
            finally:
                self._leave(self._keeper)

    def _await_need(self) -> bool:
        """Wait until the keeper is needed, and take the seat; False: it is over."""
        with self.lock:
            while not self._is_closed:
                now = monotonic()
                due = min(self._wish, 0.0 if self._soon else self._next_alarm())
                if self._driving is None and due <= now:
                    self._driving = self._keeper
                    self._keeper.begin(threading.get_ident())
                    self._wish = FOREVER
                    return True
                if self._driving is not None:  # who drives says when he leaves
                    due = max(self._next_alarm(), now + GRACE_SECONDS)
                self._keeper_wakes_at = due
                self._changed.wait(min(due - now, LONGEST_SECONDS))
                self._keeper_wakes_at = -FOREVER
        return False

    def _has_nothing_to_do(self) -> bool:
        return not self._followers and self._hooks.is_settled()


def closed() -> StateError:
    """Return the error of a call that comes too early or too late."""
    return StateError("The connection is not open: call start() first.")
