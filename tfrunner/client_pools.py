"""Many small pools of connections in place of a large one.

httpcore looks at every connection of a pool twice for each request: with 64 calls in flight
one pool of 64 answered 228 calls a second, pools of 4 answer 505 (one run, one core).

1. A process that was forked has pools of its own: two processes on one connection would read
   each other's answers.
2. The main thread has pools of its own too. A signal's handler may raise in it anywhere, even
   where it holds a pool's lock; such a pool is not used again, and nobody else waits for it.
3. Pools may be closed while calls are under way: their connections are shut, so that the calls
   end, and who is the last to leave a pool closes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from tfrunner.client_models import client_closed
from tfrunner.forks import OfProcess

POOLS = 25
POOL_CONNECTIONS = 4

P = TypeVar("P")


class _Place(Generic[P]):
    """A pool, and how many exchanges use it now."""

    def __init__(self, pool: P) -> None:
        self.pool = pool
        self.users = 0
        self.is_over = False


class _Places(Generic[P]):
    """Pools that some threads of this process share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.all: list[_Place[P]] = []


class _Own(Generic[P]):
    """The pools of one process."""

    def __init__(self) -> None:
        self.of_main: _Places[P] = _Places()
        self.of_others: _Places[P] = _Places()

    def mine(self) -> _Places[P]:
        """Return the pools that the calling thread uses."""
        is_main = threading.get_ident() == threading.main_thread().ident
        return self.of_main if is_main else self.of_others


class Pools(Generic[P]):
    """Small pools of connections to one server; each exchange uses the one with least to do.

    Args:
        make: Makes a pool.
        close: Closes a pool that nobody uses any more.
        harmless: What an exchange may raise without leaving its pool as nobody knows.
    """

    def __init__(
        self,
        make: Callable[[], P],
        *,
        close: Callable[[P], None],
        harmless: tuple[type[BaseException], ...],
    ) -> None:
        self._make = make
        self._close = close
        self._harmless = harmless
        self._own: OfProcess[_Own[P]] = OfProcess(_Own)
        self.is_closed = False

    def use(self) -> Use[P]:
        """Return a context that gives a pool, and counts it as busy meanwhile.

        Raises:
            StateError: They are closed; said by the context when it begins.
        """
        return Use(self)

    def enter(self) -> tuple[_Places[P], _Place[P]]:
        """Begin to use a pool."""
        places = self._own.get().mine()
        return places, self._take(places)

    def leave(self, places: _Places[P], place: _Place[P], kind: type[BaseException] | None) -> None:
        """End it, with an exception of a kind or without."""
        with places.lock:
            if kind is not None and not issubclass(kind, self._harmless):
                _drop(places, place)
            place.users -= 1
            is_last = place.is_over and not place.users
        if is_last:
            self._close(place.pool)

    def _take(self, places: _Places[P]) -> _Place[P]:
        with places.lock:
            if self.is_closed:
                raise client_closed()
            place = places.all[0] if places.all else None
            if place is not None and place.users:
                place = min(places.all, key=lambda each: each.users)
            is_full = place is None or place.users >= POOL_CONNECTIONS
            if place is None or (is_full and len(places.all) < POOLS):
                place = _Place(self._make())
                places.all.append(place)
            place.users += 1
            return place

    def end(self) -> list[P]:
        """Use the pools of this process no more; close those that nobody uses now.

        Returns:
            The others: who is the last to leave one closes it.
        """
        self.is_closed = True
        own, busy = self._own.get(), []
        for places in (own.of_main, own.of_others):
            with places.lock:
                for place in list(places.all):
                    _drop(places, place)
                    if place.users:
                        busy.append(place.pool)
                    else:
                        self._close(place.pool)
        return busy


def _drop(places: _Places[P], place: _Place[P]) -> None:
    """Let nobody else use a pool."""
    place.is_over = True
    if place in places.all:
        places.all.remove(place)


class Use(Generic[P]):
    """One use of a pool; a class of its own is cheaper than a generator for each exchange."""

    __slots__ = ("_place", "_places", "_pools")

    def __init__(self, pools: Pools[P]) -> None:
        self._pools = pools

    def __enter__(self) -> P:
        self._places, self._place = self._pools.enter()
        return self._place.pool

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pools.leave(self._places, self._place, kind)
