"""Every transport rule, each with a test that fails without it."""

from __future__ import annotations

import os
import pickle
import select
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from tfrunner.errors import ConfigError, ProtocolError
from tfrunner.protocol import (
    Decoder,
    FromBackend,
    FromGateway,
    FromWorker,
    ToGateway,
    ToSupervisor,
    ToWorker,
)
from tfrunner.transport import IPC_PATH_LIMIT, Dealer, Received, Router, check_address, wait

LIMIT = 20.0  # seconds, for what takes milliseconds


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="tfr-") as path:
        yield Path(path)


@pytest.fixture
def router(folder: Path) -> Iterator[Router]:
    """Give a bound router."""
    router = Router("router")
    router.open()
    router.bind(f"ipc://{folder}/s")
    yield router
    router.close()


def connected(folder: Path, name: str = "peer") -> Dealer:
    """Return a dealer that connects to the router."""
    dealer = Dealer(name)
    dealer.open()
    dealer.connect(f"ipc://{folder}/s")
    return dealer


def read(end: Router | Dealer, count: int) -> list[Received]:
    """Return the next `count` messages, fewer if they do not come."""
    received: list[Received] = []
    until = monotonic() + LIMIT
    while len(received) < count and monotonic() < until:
        wait([end], until - monotonic())
        received += end.receive()
    return received


def meet(router: Router, dealer: Dealer) -> bytes:
    """Send a first message and return the identity that the router knows the dealer by."""
    dealer.send([b"hello"])
    return read(router, 1)[0].sender


def test_a_restarted_peer_of_the_same_name_is_heard(router: Router, folder: Path) -> None:
    """Two lives of one name have two identities; ZeroMQ would never hear the second otherwise."""
    first = connected(folder, "api-0")
    assert meet(router, first).startswith(b"api-0.")
    second = connected(folder, "api-0")
    second.send([b"I am back"])
    until = monotonic() + 5
    heard: list[Received] = []
    while not heard and monotonic() < until:
        wait([router], until - monotonic())
        heard = router.receive()
    first.close()
    second.close()
    assert [each.frames for each in heard] == [[b"I am back"]]
    assert first.identity != second.identity


def test_a_send_to_an_unknown_peer_says_false(router: Router) -> None:
    """A Router does not drop silently what it cannot deliver."""
    assert router.send(b"nobody", [b"x"]) is False


def test_a_send_to_a_peer_that_is_gone_says_false(router: Router, folder: Path) -> None:
    """Once a peer has closed, sends to it are refused, and others are not disturbed."""
    gone, there = connected(folder), connected(folder)
    peer, other = meet(router, gone), meet(router, there)
    assert router.send(peer, [b"x", b"y"]) is True
    gone.close()
    until = monotonic() + LIMIT
    while router.send(peer, [b"x", b"y"]) and monotonic() < until:
        wait([router], 0.001)
    assert router.send(peer, [b"x", b"y"]) is False
    assert router.send(other, [b"first", b"second"]) is True
    assert [each.frames for each in read(there, 1)] == [[b"first", b"second"]]
    there.close()


def test_replies_to_a_slow_reader_all_arrive(router: Router, folder: Path) -> None:
    """20 000 replies wait for a reader that has not begun to read; none is dropped."""
    dealer = connected(folder)
    peer = meet(router, dealer)
    for number in range(20_000):
        assert router.send(peer, [number.to_bytes(4, "little"), b"x" * 200])
    received = read(dealer, 20_000)
    dealer.close()
    numbers = [int.from_bytes(each.frames[0], "little") for each in received]
    assert numbers == list(range(20_000))


def test_what_a_stopping_end_has_sent_waits_at_the_reader(router: Router, folder: Path) -> None:
    """A reader's memory takes all that was sent to it, so that the sender may go."""
    dealer = connected(folder)
    peer = meet(router, dealer)
    for number in range(20_000):
        router.send(peer, [number.to_bytes(4, "little"), b"x" * 1000])
    router.close(5.0)
    received = read(dealer, 20_000)
    dealer.close()
    assert len(received) == 20_000


def test_messages_sent_before_the_other_end_is_there_arrive(folder: Path) -> None:
    """The order in which the ends start does not matter."""
    dealer = connected(folder)
    for number in range(5000):
        dealer.send([number.to_bytes(4, "little")])
    late = Router("late")
    late.open()
    late.bind(f"ipc://{folder}/s")
    received = read(late, 5000)
    dealer.close()
    late.close()
    assert len(received) == 5000


def test_a_send_swallows_the_wake_up_and_receive_still_finds_the_message(
    router: Router, folder: Path
) -> None:
    """The descriptor is edge-triggered: whoever sends must read again, and `receive` finds it."""
    dealer = connected(folder)
    peer = meet(router, dealer)
    select.select([dealer.fileno()], [], [], 0)
    assert dealer.receive() == []
    router.send(peer, [b"news"])
    assert select.select([dealer.fileno()], [], [], LIMIT)[0]
    until = monotonic() + LIMIT
    while select.select([dealer.fileno()], [], [], 0)[0]:
        assert monotonic() < until
        dealer.send([b"more"])  # a send looks at the descriptor now and then
    assert [each.frames for each in dealer.receive()] == [[b"news"]]
    dealer.close()


def test_receive_reads_until_nothing_is_left_or_its_limit(router: Router, folder: Path) -> None:
    """One wake-up may stand for many messages; the limit bounds a turn and loses none."""
    dealer = connected(folder)
    meet(router, dealer)
    for _ in range(250):
        dealer.send([b"x"])
    dealer.send([b"last"])
    collected: list[int] = []
    until = monotonic() + LIMIT
    while sum(collected) < 251 and monotonic() < until:
        wait([router], 1.0)
        collected.append(len(router.receive(100)))
    dealer.close()
    assert 1 < max(collected) <= 100
    assert sum(collected) == 251


def test_close_waits_for_what_was_sent_to_leave(router: Router, folder: Path) -> None:
    """With a linger time, all of 100 MB that was sent before `close` arrives."""
    dealer = connected(folder)
    for _ in range(100):
        dealer.send([b"head", b"x" * 2**20])
    closing = threading.Thread(target=dealer.close, args=(LIMIT,))
    closing.start()
    received = read(router, 100)
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert len(received) == 100


def test_close_without_linger_does_not_wait_for_a_peer_that_never_comes(folder: Path) -> None:
    """Unsent messages do not keep a process from ending."""
    dealer = connected(folder)
    dealer.send([b"to nobody"])
    closing = threading.Thread(target=dealer.close, daemon=True)
    closing.start()
    closing.join(LIMIT)
    assert not closing.is_alive()


def test_frames_of_every_size_arrive_unchanged(router: Router, folder: Path) -> None:
    """Large frames travel without a copy, small ones with one; both as they were sent."""
    dealer = connected(folder)
    frames = [bytes([size % 251]) * size for size in (0, 1, 8192, 65_535, 65_536, 1_000_000)]
    dealer.send(frames)
    received = read(router, 1)[0].frames
    dealer.close()
    assert [bytes(frame) for frame in received] == frames


def test_a_socket_path_that_is_too_long_is_refused(folder: Path) -> None:
    """The message says how long it is, how long it may be, and what to do."""
    path = str(folder / "s")
    path += "x" * (IPC_PATH_LIMIT + 1 - len(path))
    with pytest.raises(ConfigError, match=r"108 bytes; at most 107 work.*TFRUNNER_RUN_DIR"):
        check_address(f"ipc://{path}")
    with Router("router") as router:
        assert isinstance(router, Router)
        with pytest.raises(ConfigError, match="108 bytes"):
            router.bind(f"ipc://{path}")
        router.bind(f"ipc://{path[:-1]}")


def test_a_path_where_another_listens_is_not_taken_from_it(router: Router, folder: Path) -> None:
    """A second bind is refused, and the first goes on being heard."""
    with Router("thief") as thief:
        assert isinstance(thief, Router)
        with pytest.raises(ConfigError, match="another process does"):
            thief.bind(f"ipc://{folder}/s")
    dealer = connected(folder)
    assert meet(router, dealer)
    dealer.close()


def test_a_router_removes_its_socket_file_and_no_other(router: Router, folder: Path) -> None:
    """Nothing of ours is left in the file system; a bind that was refused removes nothing."""
    with Router("other") as other:
        assert isinstance(other, Router)
        other.bind(f"ipc://{folder}/t")
        with pytest.raises(ConfigError):
            other.bind(f"ipc://{folder}/s")
        assert {path.name for path in folder.iterdir()} == {"s", "t"}
    assert {path.name for path in folder.iterdir()} == {"s"}
    router.close()
    assert list(folder.iterdir()) == []


def test_a_path_that_a_dead_process_left_behind_can_be_bound(folder: Path) -> None:
    """A dispatcher that was killed leaves a socket file; the next one listens there."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "s"))
    router = Router("next")
    router.open()
    router.bind(f"ipc://{folder}/s")
    dealer = connected(folder)
    assert meet(router, dealer)
    dealer.close()
    router.close()


@pytest.mark.parametrize(
    "address",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://192.168.0.1:5555",
        "tcp://example.com:5555",
        "tcp://127.0.0.1.example.com:5555",
        "tcp://localhost.example.com:5555",
        "tcp://eth0;127.0.0.1:5555",
        "inproc://here",
        "127.0.0.1:5555",
        "",
    ],
)
def test_an_address_beyond_this_machine_is_refused(address: str) -> None:
    """Only ipc and tcp on loopback may be used, to connect and to bind."""
    with pytest.raises(ConfigError, match="is refused"):
        check_address(address)
    with Router("router") as router, pytest.raises(ConfigError):
        assert isinstance(router, Router)
        router.bind(address)
    with Dealer("dealer") as dealer, pytest.raises(ConfigError):
        assert isinstance(dealer, Dealer)
        dealer.connect(address)


def test_tcp_on_loopback_works_and_a_port_in_use_is_refused() -> None:
    """A `:*` is given a port; a second bind to it says which address it was."""
    with Router("router") as router, Dealer("dealer") as dealer, Router("other") as other:
        assert isinstance(router, Router)
        assert isinstance(other, Router)
        assert isinstance(dealer, Dealer)
        address = router.bind("tcp://127.0.0.1:*")
        dealer.connect(address)
        assert meet(router, dealer)
        with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
            other.bind(address)


def test_a_wait_below_a_millisecond_does_not_spin(router: Router) -> None:
    """Waiting 0.4 ms again and again for 20 ms wakes up about 20 times, not thousands."""
    until, calls = monotonic() + 0.02, 0
    while monotonic() < until:
        wait([router], 0.0004)
        calls += 1
    assert calls <= 40


def test_a_wait_ends_with_a_message_or_a_descriptor(router: Router, folder: Path) -> None:
    """Without a timeout, a wait lasts until something can be read."""
    dealer = connected(folder)
    meet(router, dealer)
    reader, writer = os.pipe()
    wake: list[Callable[[], object]] = [
        lambda: dealer.send([b"x"]),
        lambda: os.write(writer, b"x"),
    ]
    for action in wake:
        waiting = threading.Thread(
            target=wait, args=([router], None), kwargs={"descriptors": [reader]}, daemon=True
        )
        waiting.start()
        action()
        waiting.join(LIMIT)
        assert not waiting.is_alive()
        router.receive()
    os.close(reader)
    os.close(writer)
    dealer.close()


@pytest.mark.parametrize(
    "accepted", [FromGateway, ToGateway, FromWorker, ToWorker, FromBackend, ToSupervisor]
)
def test_no_socket_accepts_a_pickle(accepted: object) -> None:
    """A pickle is refused by every direction, and never loaded."""
    with pytest.raises(ProtocolError, match="refused"):
        Decoder(accepted).decode([pickle.dumps(_Trap())])


class _Trap:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _spring, ("a pickle was loaded",)


def _spring(text: str) -> None:
    raise AssertionError(text)
