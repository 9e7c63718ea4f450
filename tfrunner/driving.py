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

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple, Protocol

from tfrunner.agenda import FOREVER, LONGEST_SECONDS, Agenda, Seat

GRACE_SECONDS = 0.005
"""So long the keeper lets alone what somebody will probably wait for himself.

With 1 ms it came in between while a thread submitted and read 64 requests at a time.
"""

GATHER_SECONDS = 0.001
"""So long what is submitted while the dispatcher has work waits for more to leave with it."""

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


class Driver:
    """Who drives, and when; `agenda` is the event loop, and is touched with the lock only."""

    def __init__(self, hooks: Hooks) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._hooks = hooks
        self.agenda = Agenda(self._wake_by)
        self._caller = Seat()
        self._keeper = Seat()
        self._driving: Seat | None = None
        self._is_asleep = False
        self._wakes_at = FOREVER
        self._followers: set[int] = set()
        self._is_torn = False
        self._is_closed = False
        self._wish = FOREVER
        self._keeper_wakes_at = FOREVER
        self._holds = False
        self._flushed_at = -FOREVER
        self._farewell: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._keep, name="tfrunner-gateway", daemon=True)

    def __repr__(self) -> str:
        names = {None: "nobody", self._caller: "a caller", self._keeper: "the keeper"}
        return f"<Driver [{names[self._driving]} drives | {len(self._followers)} follow]>"

    @property
    def is_closed(self) -> bool:
        """Whether nobody drives any more."""
        return self._is_closed

    def start(self) -> None:
        """Start the keeper."""
        self._caller.open()
        self._keeper.open()
        self._thread.start()

    # --- for whoever uses what is driven ----------------------------------------------------

    def begin(self) -> None:
        """Begin to touch what is driven; with the lock held."""
        if self._is_torn:
            self.agenda.clear()
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
        self._holds = not is_due
        if is_due and (self._driving is None or self._is_asleep):
            self._hooks.flush()
            self._flushed_at = monotonic()
        if self._driving is None:
            if self._wish == FOREVER:  # else he was asked for an earlier moment
                self._ask_keeper(monotonic() + GRACE_SECONDS)
        elif self._holds and self._is_asleep and self._wakes_at > monotonic() + GATHER_SECONDS:
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
        me = threading.get_ident()
        if self._driving is self._caller and self._caller.thread == me:  # a callback of its own
            self._lead(self._caller, awaited.done, until)
            return
        follows = False
        try:
            with self.lock:
                if not self._take_seat(me):
                    self._followers.add(me)
                    follows = True
                    if self._is_asleep:
                        self.begin()
                        self._hooks.flush()
                        self.end()
            if follows:
                self.deliver()
                awaited.follow(None if timeout is None else max(0.0, until - monotonic()))
            else:
                self._lead(self._caller, awaited.done, until)
        finally:
            try:
                self._leave(self._caller, me)
            except BaseException:
                self._leave(self._caller, me)
                raise

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

    def abandon(self, farewell: Callable[[], None]) -> None:
        """Note that nobody will use or close this any more; takes no lock.

        Args:
            farewell: Closes everything; called by the keeper when it next wakes up, at the
                latest to say Hello.
        """
        self._farewell = farewell

    # --- the seat ---------------------------------------------------------------------------

    def _take_seat(self, me: int) -> bool:
        if self._is_closed or self._driving is self._caller:
            return False
        if self._driving is self._keeper:
            if self._followers and self._keeper.thread != me:
                return False
            self._keeper.ring()
        self._caller.begin(me)
        self._driving = self._caller
        self._is_asleep = self._holds = False
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
            self.agenda.take_turn(seat.take_readable())
            held_until = self._flush_held()
            if seat.version != self.agenda.version:
                seat.watch(self.agenda.descriptors, self.agenda.version)
            self._wakes_at = min(until, held_until, self.agenda.next())
            self._is_asleep = True
            self.end()
            return self._wakes_at

    def _flush_held(self) -> float:
        """Flush; return when to do so at the latest, where more is still gathered."""
        if self._holds:
            now = monotonic()
            if self._flushed_at + GATHER_SECONDS > now:
                return self._flushed_at + GATHER_SECONDS
            self._holds, self._flushed_at = False, now
        self._hooks.flush()
        return FOREVER

    def _leave(self, seat: Seat, me: int) -> None:
        with self.lock:
            self._followers.discard(me)
            if self._driving is not seat or seat.thread != me:
                return
            self._driving = None
            seat.thread = 0
            self._is_asleep = False
            if self._is_closed:
                self._changed.notify_all()
            elif self._followers or self._is_torn:
                self._ask_keeper(0.0)
            elif not self._hooks.is_settled():
                self._ask_keeper(monotonic() + GRACE_SECONDS)
            else:
                self._ask_keeper(FOREVER)

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
        if min(self._wish, self.agenda.next()) < self._keeper_wakes_at:
            self._changed.notify_all()

    def _keep(self) -> None:
        """Drive whenever something is due and nobody does; runs in a thread of its own."""
        while self._await_need():
            try:
                self._lead(self._keeper, self._has_nothing_to_do, FOREVER)
            except Exception:
                log.exception("the connection to the dispatcher is made anew")
            finally:
                self._leave(self._keeper, threading.get_ident())
        if self._farewell is not None:
            self._farewell()
            self._caller.close()
        self._keeper.close()

    def _await_need(self) -> bool:
        """Wait until the keeper is needed, and take the seat; False: it is over."""
        with self.lock:
            while not self._is_closed and self._farewell is None:
                now = monotonic()
                due = min(self._wish, self.agenda.next())
                if self._driving is None and due <= now:
                    self._driving = self._keeper
                    self._keeper.begin(threading.get_ident())
                    self._wish = FOREVER
                    return True
                if self._driving is not None:  # who drives says when he leaves
                    due = max(self.agenda.next(), now + GRACE_SECONDS)
                self._keeper_wakes_at = due
                self._changed.wait(min(due - now, LONGEST_SECONDS))
                self._keeper_wakes_at = -FOREVER
        return False

    def _has_nothing_to_do(self) -> bool:
        return not self._followers and self._hooks.is_settled()
