"""A gateway that lies about its shared memory, in one batch with one that does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from tests.faults import server as s
from tests.shared_memory_world import BODY, PATIENCE, caller, row
from tests.waiting import wait_for
from tfrunner import protocol as p
from tfrunner.casting import cast
from tfrunner.errors import ProtocolError
from tfrunner.shared_memory import Memory, create
from tfrunner.testing import ServedClient, serve
from tfrunner.transport import Dealer, wait

M = TypeVar("M")

SIZE = 2**20


class Liar:
    """A peer at `frontend` that says what it likes.

    Args:
        address: The dispatcher's frontend.
    """

    def __init__(self, address: str) -> None:
        self._dealer = Dealer("liar")
        self._decoder = p.Decoder(p.ToGateway)
        self._heard: list[Any] = []
        self._address = address
        self.epoch = ""

    def __enter__(self) -> Liar:
        self._dealer.open()
        self._dealer.connect(self._address)
        self.send(p.Hello("liar"))
        self.epoch = self.next(p.Welcome).epoch
        return self

    def __exit__(self, *exc: object) -> None:
        self._dealer.close()

    @property
    def identity(self) -> str:
        """What the dispatcher and workers call it."""
        return self._dealer.identity.decode()

    def send(self, message: p.Message) -> None:
        """Send anything."""
        self._dealer.send(p.encode(message))

    def next(self, kind: type[M]) -> M:
        """Return the next message of a kind; others are passed over."""
        until = monotonic() + PATIENCE
        while monotonic() < until:
            while self._heard:
                message = self._heard.pop(0)
                if isinstance(message, kind):
                    return message
            wait([self._dealer], 0.5)
            self._heard += [self._decoder.decode(each.frames) for each in self._dealer.receive()]
        raise AssertionError(f"no {kind} came")


@pytest.fixture(scope="module")
def server() -> Iterator[ServedClient]:
    """Serve with batches that leave once two requests are there."""
    with serve("echo", echo=True, hold=2) as started:
        yield started


def memory_of(identity: str) -> Memory:
    """Return a sealed segment of a gateway."""
    made = create(f"tfrunner:{identity}:1", SIZE)
    assert made is not None
    return made


LIES = {
    "wrong size": ({"size": SIZE + 4096}, p.Place(0, BODY)),
    "another process": ({"pid": 1}, p.Place(0, BODY)),
    "another descriptor": ({"descriptor": 0}, p.Place(0, BODY)),
    "another's memory": ({"name": "tfrunner:client.0:1"}, p.Place(0, BODY)),
    "out of bounds": ({}, p.Place(SIZE - 4096, BODY)),
    "far out of bounds": ({}, p.Place(2**48, BODY)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_liar_is_refused_and_its_neighbour_is_answered(server: ServedClient, lie: str):
    """They share a batch; the neighbour's part of it is run, by the same worker."""
    lies, place = LIES[lie]
    (worker,) = s.processes(server, "worker")
    refusals = refused(server)
    with Liar(server.address) as liar, caller(server, rows=4) as it:
        memory = memory_of(liar.identity)
        segment = msgspec.structs.replace(memory.segment, **lies)
        liar.send(p.Hello("liar", liar.epoch, segment))
        spec = it.gateway.find("echo")
        call = cast(spec.methods["work"], (row(1.0),), {})
        request = p.Request(7, spec.tag, "work", call.layout, 1, 30.0, "", (place,))
        liar.send(p.Submit((request,)))
        future = it.submit(row(2.0))
        (failure,) = liar.next(p.Failures).failures
        assert (failure.request, failure.code) == (7, p.SEGMENT_REFUSED)
        assert liar.next(p.Results) == p.Results((), (7,))
        assert np.array_equal(future.result(PATIENCE), row(2.0))
        assert [each.pid for each in s.processes(server, "worker")] == [worker.pid]
        wait_for(lambda: len(refused(server)) == len(refusals) + 1)
        os.close(memory.segment.descriptor)


def refused(server: ServedClient) -> list[str]:
    """Return the dispatcher's lines about what was refused."""
    lines = server.log.read_text().splitlines()
    return [line for line in lines if " dispatcher " in line and "in shared memory of" in line] + [
        line for line in lines if " dispatcher " in line and "was refused" in line
    ]


def test_a_place_without_a_segment_is_refused_at_once(server: ServedClient):
    """No worker ever sees it."""
    with Liar(server.address) as liar:
        liar.send(p.Hello("liar", liar.epoch))
        request = p.Request(7, "echo:1", "work", b"L", 1, 30.0, "", (p.Place(0, BODY),))
        liar.send(p.Submit((request,)))
        (failure,) = liar.next(p.Failures).failures
        assert failure.code == p.SEGMENT_REFUSED and "not announced" in failure.message


@pytest.mark.parametrize("length", [-1, 2**48 + 1, 2**64 - 1, "100"])
def test_a_place_that_is_none_is_refused_by_the_protocol(length: Any):
    """The dispatcher adds lengths up; they are numbers that can be added."""
    lying = p.Place(0, 0)
    msgspec.structs.force_setattr(lying, "length", length)
    request = p.Request(7, "echo:1", "work", b"L", 1, 30.0, "", (lying,))
    frames = [msgspec.msgpack.encode(p.Submit((request,)))]
    with pytest.raises(ProtocolError):
        p.Decoder(p.FromGateway).decode(frames)
