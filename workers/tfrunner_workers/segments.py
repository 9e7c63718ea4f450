"""Large bodies in shared memory, the worker's end: the gateways' segments, opened and checked.

What a gateway says of its segment is believed only once the kernel says the same: that it is
that very memory file, of this user, with seals that let it neither shrink nor grow, and of that
size. So nothing that a gateway does later ends a worker that reads.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from collections.abc import Sequence

from tfrunner.errors import ProtocolError
from tfrunner.protocol import Buffer, Part, PartsOf, Place, RunBatch, Segment
from tfrunner.shared_memory import SEALS

GET_SEALS = 1034
"""F_GET_SEALS (fcntl(2)); Python 3.10 has no name for it."""

LOOK_SECONDS = 0.5
"""So often a worker looks which segments are still there."""

logger = logging.getLogger("tfrunner.worker")


class SegmentRefused(ProtocolError):
    """Bodies of these gateways cannot be read."""

    def __init__(self, gateways: Sequence[bytes], reason: str) -> None:
        super().__init__(reason)
        self.gateways = tuple(gateways)


def has_shared(batch: RunBatch) -> bool:
    """Return whether bodies of a batch lie in shared memory."""
    return any([group.segment is not None for group in batch.groups])


class Segments:
    """The segments that this worker has mapped; at most one of each gateway."""

    def __init__(self) -> None:
        self._next_look = 0.0
        self._views: dict[bytes, tuple[Segment, memoryview]] = {}
        self._refused: dict[bytes, tuple[Segment, str]] = {}

    def __repr__(self) -> str:
        return f"<Segments [{len(self._views)} mapped | {len(self._refused)} refused]>"

    def open(self, batch: RunBatch, *, copies: bool = False, whole: bool = False) -> RunBatch:
        """Return the batch with every body in place, those in shared memory as read-only views.

        Args:
            batch: What the dispatcher sent.
            copies: As bytes of their own instead: what reads them may keep them. Not those of a
                part that is rows of a larger request: all of it would be copied for each part.
            whole: Copy those too.

        Raises:
            SegmentRefused: Some cannot be read.
        """
        groups, refused, reasons = [], [], []
        for group in batch.groups:
            try:
                groups.append(self._open_group(group, copies, whole))
            except ProtocolError as exc:
                refused.append(group.gateway)
                reasons.append(exc.message)
        if refused:
            raise SegmentRefused(refused, "; ".join(reasons))
        return RunBatch(
            batch.batch, batch.attempt, batch.method, batch.layout, batch.rows, tuple(groups)
        )

    def _open_group(self, group: PartsOf, copies: bool, whole: bool) -> PartsOf:
        if group.segment is None:
            return group
        view = self._view(group.gateway, group.segment)
        parts = tuple(
            [
                _open_part(part, view, copies and (whole or part.stop - part.start == part.rows))
                for part in group.parts
            ]
        )
        return PartsOf(group.gateway, parts)

    def _view(self, gateway: bytes, segment: Segment) -> memoryview:
        """Return the bytes of a segment; it is opened once."""
        known = self._views.get(gateway)
        if known is not None and known[0] == segment:
            return known[1]
        refused = self._refused.get(gateway)
        if refused is None or refused[0] != segment:
            try:
                view = _map(gateway, segment)
            except (OSError, ValueError) as exc:
                refused = segment, f"shared memory of {_text(gateway)} was refused: {exc}"
                self._refused[gateway] = refused
                logger.warning("%s", refused[1])
            else:
                self._views[gateway] = segment, view
                return view
        raise ProtocolError(refused[1])

    def drop_dead(self, now: float) -> None:
        """Now and then, let go of segments that their gateways closed, or that died with them."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        for known in (self._views, self._refused):
            for gateway, (segment, _) in list(known.items()):
                if not _is_there(segment):
                    known.pop(gateway)

    def drop_all(self) -> None:
        """Let go of every segment: another life of the dispatcher has others."""
        self._views.clear()
        self._refused.clear()


def _open_part(part: Part, view: memoryview, copies: bool) -> Part:
    if not any([type(body) is Place for body in part.bodies]):
        return part
    bodies = tuple([_open_body(body, view, copies) for body in part.bodies])
    return Part(part.request, part.start, part.stop, part.rows, bodies)


def _open_body(body: Buffer | Place, view: memoryview, copies: bool) -> Buffer:
    if not isinstance(body, Place):
        return body
    stop = body.offset + body.length
    if stop > len(view):
        text = f"a body lies at {body.offset} to {stop} in shared memory of {len(view)} bytes"
        raise ProtocolError(text)
    found = view[body.offset : stop]
    return bytes(found) if copies else found


def _map(gateway: bytes, segment: Segment) -> memoryview:
    """Return all of a segment, read-only; its descriptor is not kept.

    Raises:
        OSError: It cannot be opened or mapped.
        ValueError: It is not what the gateway says.
    """
    if not segment.name.startswith(f"tfrunner:{_text(gateway)}:"):
        raise ValueError(f"{segment.name!r} is not its own")
    if not _is_there(segment):  # nothing else is opened: to open a device or a pipe has effects
        raise ValueError(f"descriptor {segment.descriptor} of process {segment.pid} is not it")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(f"/proc/{segment.pid}/fd/{segment.descriptor}", flags)
    try:
        _check(descriptor, segment)
        size = segment.size
        return memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(descriptor)


def _check(descriptor: int, segment: Segment) -> None:
    """Check what was opened: it may be another file than a moment before."""
    if os.readlink(f"/proc/self/fd/{descriptor}") != _link(segment):
        raise ValueError(f"descriptor {segment.descriptor} of process {segment.pid} is not it")
    seals = fcntl.fcntl(descriptor, GET_SEALS)
    if seals & SEALS != SEALS:
        raise ValueError(f"its seals are {seals:#x}; expected {SEALS:#x}: it could shrink")
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise ValueError(f"it belongs to user {found.st_uid}; expected {os.geteuid()}")
    if found.st_size != segment.size or not segment.size:
        raise ValueError(f"it has {found.st_size} bytes; {segment.size} were announced")


def _is_there(segment: Segment) -> bool:
    """Whether the gateway's process still holds the segment open."""
    try:
        found = os.readlink(f"/proc/{segment.pid}/fd/{segment.descriptor}")
    except OSError:
        return False
    return found == _link(segment)


def _link(segment: Segment) -> str:
    return f"/memfd:{segment.name} (deleted)"


def _text(gateway: bytes) -> str:
    return gateway.decode(errors="replace")
