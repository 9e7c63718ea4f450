"""The worker's loop: receive batches, have them run, answer in their order. One thread.

A method that splits its batches runs them in threads of its own: the next batch is begun while
the one before still runs, so that no thread waits for the loop. Answers keep the batches' order:
to the dispatcher it is as if one ran after the other. Of two that ran when a worker died it takes
the first for the likely cause; the other runs again first, and is found out if it was to blame.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tfrunner.protocol import BatchDone, BatchFailed, Message, RunBatch, Stop, Welcome
from tfrunner_workers.answering import Entry, Ran, answer, failed, finish, prepare
from tfrunner_workers.ranges import Ranges
from tfrunner_workers.segments import Segments
from tfrunner_workers.splitting import Running, Split

AHEAD = 2
"""So many batches may be begun at a time."""


class Link(Protocol):
    """What the loop needs of a Connection."""

    def receive(self, *, block: bool, wakers: Sequence[int] = ()) -> list[Message]:
        """Return what arrived; wait for it, or for a descriptor, where `block` is true."""

    def send(self, message: Message) -> None:
        """Send a message."""


class Bell:
    """Wakes the loop from another thread."""

    def __init__(self) -> None:
        self._ends: tuple[int, ...] = ()

    def __enter__(self) -> Bell:
        self._ends = os.pipe()
        for end in self._ends:
            os.set_blocking(end, False)
        return self

    def __exit__(self, *_: object) -> None:
        ends, self._ends = self._ends, ()
        for end in ends:
            os.close(end)

    def fileno(self) -> int:
        """Return the descriptor that is readable once the bell rang."""
        return self._ends[0]

    def ring(self) -> None:
        """Wake the loop. One that is full has rung."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._ends[1], b"\0")

    def still(self) -> None:
        """Let it not be readable any more."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._ends[0], 4096)


class Begun(NamedTuple):
    """A batch that was begun.

    Args:
        answer: Returns what to send for it.
        running: Its run, None if it could not be run.
    """

    answer: Callable[[], BatchDone | BatchFailed]
    running: Running | None = None

    @property
    def is_done(self) -> bool:
        """Whether its answer is there."""
        return self.running is None or self.running.is_done


class Loop:
    """Runs batches until it is stopped.

    Args:
        link: Where batches come from and answers go to.
        table: The methods by name.
    """

    def __init__(self, link: Link, table: dict[str, Entry]) -> None:
        self._link = link
        self._table = table
        self._held: deque[RunBatch] = deque()
        self._begun: deque[Begun] = deque()
        self._bell = Bell()
        self._segments = Segments()
        self._ranges = Ranges()
        self._stopping = False

    def __repr__(self) -> str:
        held = len(self._held) + len(self._begun)
        return f"<Loop [{held} held{' | stopping' * self._stopping}]>"

    def stop(self) -> None:
        """Finish what is held, then return from `run`. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Answer batches until a Stop comes."""
        with self._bell:
            wakers = [self._bell.fileno()] if any(e.split for e in self._table.values()) else []
            while self._held or self._begun or not self._stopping:
                for message in self._link.receive(block=not self._has_work, wakers=wakers):
                    self._record(message)
                if wakers:
                    self._bell.still()
                self._segments.drop_dead(time.monotonic())
                self._work()

    @property
    def _has_work(self) -> bool:
        """Whether there is something to do at once."""
        if self._begun and self._begun[0].is_done:
            return True
        if not self._held:
            return self._stopping and not self._begun
        return not self._begun or (len(self._begun) < AHEAD and self._next_split is not None)

    @property
    def _next_split(self) -> Split | None:
        """What runs the next batch in threads of its own, None where nothing does."""
        entry = self._table.get(self._held[0].method)
        return entry.split if entry is not None else None

    def _work(self) -> None:
        """Send what is done, then begin a batch, or run one."""
        while self._begun and self._begun[0].is_done:
            self._link.send(self._begun.popleft().answer())
        if not self._held or len(self._begun) == AHEAD:
            return
        split = self._next_split
        if split is not None:
            self._begin(split, self._held.popleft())
        elif not self._begun:
            batch = self._held.popleft()
            self._link.send(answer(self._table, batch, self._segments, self._ranges))

    def _begin(self, split: Split, batch: RunBatch) -> None:
        ready = prepare(self._table, batch, self._segments, self._ranges)
        if isinstance(ready, BatchFailed):
            self._begun.append(Begun(lambda: ready))
            return
        alone = not self._begun and not self._held
        try:
            running = split.start(ready.arrays, alone=alone, then=self._bell.ring)
        except Exception as exc:
            failure = failed(batch, exc)
            self._begun.append(Begun(lambda: failure))
            return

        def ran() -> Ran:
            output = running.result()
            return Ran(output, running.ended - running.started, running.busy / split.threads)

        self._begun.append(Begun(lambda: finish(ready, ran), running))

    def _record(self, message: Message) -> None:
        match message:
            case RunBatch():
                self._held.append(message)
            case Welcome():  # another life of the dispatcher: it knows none of these batches
                self._held.clear()
                self._drop_begun()
                self._segments.drop_all()
            case Stop():
                self.stop()

    def _drop_begun(self) -> None:
        """Wait for what runs; nobody wants it."""
        while self._begun:
            if (running := self._begun.popleft().running) is not None:
                running.wait()
