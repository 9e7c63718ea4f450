"""What a worker believes of a gateway's shared memory, and what it refuses."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.shared_memory_world import open_files
from tests.waiting import wait_for
from tfrunner.protocol import SEGMENT_REFUSED, Part, PartsOf, Place, RunBatch, Segment
from tfrunner.shared_memory import ADD_SEALS, SEALS, Lender, Memory, create
from tfrunner.tensors import Layout, Leaf, encode_layout
from tfrunner_workers.answering import answer, entries
from tfrunner_workers.echo import EchoModel
from tfrunner_workers.segments import LOOK_SECONDS, SegmentRefused, Segments
from tfrunner_workers.warmup import declared

SIZE = 2**20
LAYOUT = encode_layout(Layout((Leaf("float32", (None, 2)),)))
ROWS = 1000
"""Of a request: 8000 bytes."""


@pytest.fixture
def memory() -> Iterator[Memory]:
    """A segment of the gateway `g`."""
    made = create("tfrunner:g:1", SIZE)
    assert made is not None
    yield made
    made.close()


def body(number: int) -> bytes:
    """Return the bytes of a request that consists of one number."""
    return np.full((ROWS, 2), number, np.float32).tobytes()


def batch(*groups: PartsOf) -> RunBatch:
    """Return a batch."""
    rows = sum(part.stop - part.start for group in groups for part in group.parts)
    return RunBatch(1, 1, "__call__", LAYOUT, rows, groups)


def part(place: object, *, request: int = 1, start: int = 0, stop: int = ROWS) -> Part:
    """Return rows of a request whose body is, or lies, there."""
    return Part(request, start, stop, ROWS, (place,))


def group(memory: Memory, *parts: Part, gateway: bytes = b"g", **lies: Any) -> PartsOf:
    """Return the parts of a gateway, whose segment is not what it says if there are lies."""
    return PartsOf(gateway, parts, msgspec.structs.replace(memory.segment, **lies))


def table(*, borrows: bool = True):
    """Return the echo model's methods."""
    model = EchoModel()
    return entries(model, declared(model), borrows=borrows)


def run(given: RunBatch, segments: Segments, *, borrows: bool = True) -> list[float]:
    """Return the first number of each row that the echo model answers with."""
    done = answer(table(borrows=borrows), given, segments)
    return [
        number
        for each in done.blocks
        for number in np.frombuffer(each.block.bodies[0], np.float32)[::2].tolist()
    ]


def test_bodies_are_read_where_they_lie(memory):
    """Two requests in shared memory, a range of one, and one inside the message make a batch."""
    places = [memory.put(body(number)) for number in (1, 2)]
    given = batch(
        group(memory, part(places[0]), part(places[1], request=2, start=10, stop=20)),
        PartsOf(b"other", (part(body(3)),)),
    )
    assert run(given, Segments()) == [1] * ROWS + [2] * 10 + [3] * ROWS


@pytest.mark.parametrize("borrows", [True, False], ids=["borrows", "may keep its inputs"])
def test_a_lone_request_is_copied_only_for_what_may_keep_it(memory, borrows):
    """What a model keeps must not change when the slot is used again."""
    kept = []
    entry = table(borrows=borrows)["__call__"]
    keeping = {"__call__": entry._replace(run=lambda arrays: kept.extend(arrays) or entry.run([]))}
    place = memory.put(body(1))
    answer(keeping, batch(group(memory, part(place))), Segments())
    memory.slots.give_back(place.offset)
    assert memory.put(body(2)) == place
    assert kept[0][0, 0] == (2 if borrows else 1)
    assert not kept[0].flags.writeable


def test_merged_requests_are_copied_once_into_a_buffer_of_the_worker_s(memory):
    """A batch of several is no view of anything."""
    places = [memory.put(body(number)) for number in (1, 2)]
    kept = []
    entry = table()["__call__"]
    keeping = {"__call__": entry._replace(run=lambda arrays: kept.extend(arrays) or entry.run([]))}
    parts = [part(place, request=number) for number, place in enumerate(places)]
    answer(keeping, batch(group(memory, *parts)), Segments())
    memory.mapping[: 4 * ROWS] = bytes(4 * ROWS)
    assert kept[0][:ROWS].min() == 1 and kept[0][ROWS:].min() == 2


def unsealed() -> Memory:
    """Return a segment that its gateway can still shrink."""
    descriptor = os.memfd_create("tfrunner:g:1", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    segment = Segment("tfrunner:g:1", os.getpid(), descriptor, SIZE)
    return Memory(segment, mmap.mmap(descriptor, SIZE))


def half_sealed() -> Memory:
    """Return a segment that can grow, and lose no seal."""
    memory = unsealed()
    fcntl.fcntl(memory.segment.descriptor, ADD_SEALS, SEALS & ~0x0004)
    return memory


def of_another() -> Memory:
    """Return the segment of another gateway."""
    memory = create("tfrunner:victim:1", SIZE)
    assert memory is not None
    return memory


def plain_file() -> Memory:
    """Return a file that is no memory file, under a name that says so."""
    descriptor = os.open("/proc/self/exe", os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    return Memory(Segment("tfrunner:g:1", os.getpid(), descriptor, size), mmap.mmap(-1, SIZE))


def honest() -> Memory:
    """Return a segment that is all right."""
    memory = create("tfrunner:g:1", SIZE)
    assert memory is not None
    return memory


@pytest.mark.parametrize(
    ("make", "lies", "why"),
    [
        (honest, {"size": SIZE - 4096}, "it has 1048576 bytes; 1044480 were announced"),
        (honest, {"size": 2 * SIZE}, "it has 1048576 bytes; 2097152 were announced"),
        (honest, {"pid": 1}, "of process 1 is not it"),
        (honest, {"pid": 2**31}, "is not it"),
        (honest, {"descriptor": 0}, "descriptor 0 of process"),
        (honest, {"name": "tfrunner:g:2"}, "is not it"),
        (unsealed, {}, "its seals are 0x0; expected 0x7: it could shrink"),
        (half_sealed, {}, "its seals are 0x3; expected 0x7"),
        (of_another, {}, "'tfrunner:victim:1' is not its own"),
        (of_another, {"name": "tfrunner:g:1"}, "is not it"),
        (plain_file, {}, "is not it"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_segment_that_is_not_what_it_says_is_refused(
    make: Callable[[], Memory], lies: dict[str, Any], why: str, caplog
):
    """With one line in the log, however many batches come; no descriptor is left open."""
    memory, segments = make(), Segments()
    try:
        given = batch(group(memory, part(Place(0, len(body(0)))), **lies))
        said = given.groups[0].segment
        target = os.readlink(f"/proc/self/fd/{said.descriptor}")
        before = open_files().count(target)
        for _ in range(3):
            failed = answer(table(), given, segments)
            assert failed.code == SEGMENT_REFUSED and failed.gateways == (b"g",)
            assert why in failed.message
        assert open_files().count(target) <= before  # of other tests' files some may be closed now
        (line,) = (each for each in caplog.messages if "shared memory" in each)
        assert line.startswith("shared memory of g was refused: ")
    finally:
        os.close(memory.segment.descriptor)


@pytest.mark.parametrize(
    "place",
    [Place(SIZE - 4000, 8000), Place(SIZE, 8000), Place(2**48, 8000), Place(0, SIZE + 1)],
    ids=["over the end", "behind it", "far away", "too long"],
)
def test_a_body_outside_of_its_segment_is_refused(memory, place):
    """Nothing is read there."""
    with pytest.raises(SegmentRefused, match="in shared memory of 1048576 bytes") as refused:
        Segments().open(batch(group(memory, part(place))))
    assert refused.value.gateways == (b"g",)


def test_only_the_gateway_that_lies_is_named(memory):
    """The dispatcher runs the neighbours' requests at once."""
    good, bad = memory.put(body(1)), Place(SIZE, 8000)
    other = create("tfrunner:h:1", SIZE)
    assert other is not None
    given = batch(
        group(memory, part(good)),
        group(other, part(bad), gateway=b"h"),
        PartsOf(b"plain", (part(body(2)),)),
    )
    failed = answer(table(), given, Segments())
    assert failed.gateways == (b"h",)
    other.close()


def test_a_segment_cannot_be_shrunk_under_a_worker_that_reads():
    """Its owner is refused by the kernel: no SIGBUS."""
    memory = honest()
    for size in (0, SIZE - 4096, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.segment.descriptor, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory.segment.descriptor, ADD_SEALS, 0x0008)
    memory.close()


GATEWAY = """
import sys
from tfrunner.shared_memory import Lender
lender = Lender(2**20, owns=False, count=lambda way: None)
segment = lender.begin("dying")
(place,) = lender.lend(1, (b"x" * 70_000,))
print(segment.pid, segment.descriptor, place.offset, flush=True)
sys.stdin.read()
"""


@contextmanager
def gateway_process() -> Iterator[tuple[subprocess.Popen[str], Segment]]:
    """Run another process that lends a body of x."""
    process = subprocess.Popen(
        [sys.executable, "-c", GATEWAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        pid, descriptor, _ = map(int, process.stdout.readline().split())
        yield process, Segment("tfrunner:dying:1", pid, descriptor, 2**20)
    finally:
        process.kill()
        process.communicate()


def test_the_mapping_outlives_its_gateway_and_is_dropped_then():
    """A gateway dies of kill -9: what a worker reads stays, and the kernel frees it after."""
    with gateway_process() as (process, segment):
        given = batch(PartsOf(b"dying", (Part(1, 0, 1, 1, (Place(0, 70_000),)),), segment))
        segments = Segments()
        view = segments.open(given).groups[0].parts[0].bodies[0]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert bytes(view) == b"x" * 70_000
        segments.drop_dead(LOOK_SECONDS)
        assert repr(segments) == "<Segments [0 mapped | 0 refused]>"
        assert "tfrunner:dying:1" in read_maps()
        del view, given
        wait_for(lambda: "tfrunner:dying:1" not in read_maps())
        assert not [link for link in open_files() if "tfrunner:dying" in link]


def read_maps() -> str:
    """Return what this process has mapped."""
    with open("/proc/self/maps") as maps:
        return maps.read()


def test_a_new_segment_of_a_gateway_replaces_the_old_one():
    """After a restart of the dispatcher nothing is read where the old bodies lay."""
    lender, segments = Lender(SIZE, owns=False, count=lambda way: None), Segments()
    seen = []
    for number in (1, 2):
        segment = lender.begin("g")
        (place,) = lender.lend(number, (bytes([number]) * 70_000,))
        given = batch(PartsOf(b"g", (Part(number, 0, 1, 1, (place,)),), segment))
        seen.append(segments.open(given).groups[0].parts[0].bodies[0])
    assert [bytes(view[:1]) for view in seen] == [b"\1", b"\2"]
    assert repr(segments) == "<Segments [1 mapped | 0 refused]>"
    lender.forget()
    segments.drop_all()
    assert repr(segments) == "<Segments [0 mapped | 0 refused]>"
