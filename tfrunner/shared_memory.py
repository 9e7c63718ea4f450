"""Large bodies in shared memory, the gateway's end: one segment, its slots, and who holds them.

A segment is an anonymous memory file that cannot shrink, grow, or lose these seals. Nothing is
ever named in a file system; the kernel frees it with its last user, also after kill -9.

1. A segment serves one connection to one life of the dispatcher. With any other the gateway
   begins another one, and never writes to the old one again: nobody has to find out what a
   worker of an earlier life still reads.
2. Fence, then reuse: a slot is free once the dispatcher has *released* its request, and by
   nothing else. It does so when the outcome is known and no worker holds it any more: its
   batch is done or failed, or its worker was reaped. Timeouts, cancellation and lost callers
   free nothing.
3. Pages are allocated before they are written, in steps: memory that cannot be had is no room,
   never a SIGBUS.
4. Where there is no room, or no such memory, bodies travel as frames.
5. What a large request took beyond KEPT_BYTES is given back to the system with its slot.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tfrunner.protocol import Buffer, Place, Segment
from tfrunner.shared_memory_slots import Slots

LEND_FROM = 65536
"""Bytes of a body from which it is lent (measured: docs/performance.md)."""

SEGMENT_BYTES = 2**30
"""Bytes of a segment: room for the largest requests, which would otherwise travel, whole, with
each of the batches that they are run in. Memory is allocated as it is needed."""

KEPT_BYTES = 64 * 2**20
STEP_BYTES = 2**20
"""So much of it stays allocated, for the next bodies; and by so much it is allocated."""

SEALS = 0x0001 | 0x0002 | 0x0004
"""F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW (fcntl(2)); Python 3.10 has no names for them."""

ADD_SEALS = 1033
"""F_ADD_SEALS."""


class Memory:
    """A segment of this process: its file, its mapping, its free slots.

    Args:
        segment: As workers are told of it.
        mapping: All of it.

    Attributes:
        allocated: All bytes before this one have pages.
    """

    def __init__(self, segment: Segment, mapping: mmap.mmap) -> None:
        self.segment = segment
        self.mapping = mapping
        self.slots = Slots(segment.size)
        self.allocated = 0

    def put(self, body: Buffer) -> Place | None:
        """Copy a body into a slot; None: there is no room, or no memory."""
        length = len(body)
        offset = self.slots.take(length)
        if offset is None:
            return None
        if not self._allocate(offset + length):
            self.slots.give_back(offset)
            return None
        self.mapping[offset : offset + length] = body
        return Place(offset, length)

    def give_back(self, offset: int) -> None:
        """Free a slot; of the memory behind all others give back what is more than KEPT_BYTES."""
        self.slots.give_back(offset)
        if self.allocated > KEPT_BYTES:
            start = max(KEPT_BYTES, -(-self.slots.top // STEP_BYTES) * STEP_BYTES)
            if start < self.allocated:
                self._free(start)

    def _free(self, start: int) -> None:
        """Give back the pages from `start` on; where the system cannot, they stay."""
        try:
            self.mapping.madvise(mmap.MADV_REMOVE, start, self.allocated - start)
        except OSError:
            return
        self.allocated = start

    def _allocate(self, stop: int) -> bool:
        """See to it that all bytes before `stop` have pages; return whether they have."""
        if stop <= self.allocated:
            return True
        until = min(self.segment.size, -(-stop // STEP_BYTES) * STEP_BYTES)
        start = self.allocated
        try:
            os.posix_fallocate(self.segment.descriptor, start, until - start)
        except OSError:
            return False
        self.allocated = until
        return True

    def close(self) -> None:
        """Close the file, if it still is that one; the mapping ends with its last user.

        In a process that was forked the number may mean another file by now.
        """
        descriptor = self.segment.descriptor
        try:
            if self.segment.name in os.readlink(f"/proc/self/fd/{descriptor}"):
                os.close(descriptor)
        except OSError:
            return


class Lent(NamedTuple):
    """The slots of one request, and the segment that they are in."""

    memory: Memory
    offsets: list[int]


class Lender:
    """The bodies that a gateway has put into shared memory.

    Args:
        size: Bytes of a segment; 0: nothing is lent.
        owns: Whether bodies that are not lent are copied where their bytes may change: their
            owner may write to an array as soon as it stops waiting, before they have left.
        count: Told for each large body which way it goes: "shared", "no_room" or "unavailable".
    """

    def __init__(self, size: int, *, owns: bool, count: Callable[[str], None]) -> None:
        self._count = count
        self._size = size if sys.platform == "linux" else 0
        self._owns = owns
        self._begun = 0
        self._memory: Memory | None = None
        self._lent: dict[int, Lent] = {}

    def __repr__(self) -> str:
        return f"<Lender [{len(self._lent)} requests | {self._memory and self._memory.slots}]>"

    def begin(self, identity: str) -> Segment | None:
        """Begin a new segment, and never write to the one before again.

        Args:
            identity: That of the connection; it is part of the segment's name.

        Returns:
            What workers must know of it; None: there is no shared memory here.
        """
        self._end()
        self._begun += 1
        name = f"tfrunner:{identity}:{self._begun}"
        self._memory = create(name, self._size) or create(name, min(self._size, KEPT_BYTES))
        return None if self._memory is None else self._memory.segment

    def lend(self, id: int, bodies: Iterable[Buffer]) -> tuple[Buffer | Place, ...]:
        """Return the bodies of a request, each large one as the place where it lies now.

        What there is no room for stays as it is.
        """
        memory, offsets = self._memory, []
        lent: list[Buffer | Place] = []
        for body in bodies:
            place = None
            if len(body) >= LEND_FROM:
                place = None if memory is None else memory.put(body)
                self._count("shared" if place else "no_room" if memory else "unavailable")
            if place is not None:
                offsets.append(place.offset)
                lent.append(place)
            else:
                lent.append(bytes(body) if self._owns else body)
        if offsets and memory is not None:
            self._lent[id] = Lent(memory, offsets)
        return tuple(lent)

    def give_back(self, ids: Iterable[int]) -> None:
        """Free the slots of requests that no worker holds."""
        for id in ids:
            lent = self._lent.pop(id, None)
            if lent is not None:
                for offset in lent.offsets:
                    lent.memory.give_back(offset)

    def copy_out(self, id: int, bodies: Iterable[Buffer | Place]) -> tuple[Buffer, ...]:
        """Return the bodies of a request as bytes of their own; its slots stay as they are."""
        lent = self._lent.get(id)
        if lent is None:
            return tuple(bodies)  # type: ignore[arg-type]
        mapping = lent.memory.mapping
        return tuple(
            mapping[body.offset : body.offset + body.length] if isinstance(body, Place) else body
            for body in bodies
        )

    def has(self, id: int) -> bool:
        """Whether a request has slots."""
        return id in self._lent

    @property
    def requests(self) -> list[int]:
        """The requests that have slots."""
        return list(self._lent)

    def forget(self) -> None:
        """Forget who holds what: the segment serves nobody any more."""
        self._end()
        self._lent = {}

    def stop(self) -> bool:
        """Lend nothing any more: workers cannot read it. Return whether anything was lent."""
        was_on, self._size = bool(self._size), 0
        self._end()
        return was_on

    def _end(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()


def create(name: str, size: int) -> Memory | None:
    """Return a new, sealed segment; None where there can be none."""
    if not size or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError, ValueError):
        return None
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, ADD_SEALS, SEALS)
        mapping = mmap.mmap(descriptor, size)
    except (OSError, ValueError):
        os.close(descriptor)
        return None
    return Memory(Segment(name, os.getpid(), descriptor, size), mapping)
