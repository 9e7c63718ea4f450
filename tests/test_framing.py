"""What HTTP leaves to a server: Upgrade, codings, the end of a client's half, HTTP/1.0."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.api_world import BOTH_WAYS, LIMIT, serving
from tests.test_direct_http import (
    PAGE,
    Watching,
    asking,
    connect,
    in_chunks,
    numbers,
    receive,
    with_body,
)
from tests.waiting import wait_for
from tfrunner import Service
from tfrunner.api.watch import ENDED_SECONDS
from tfrunner.io import Text

UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
)
"""What Java's HttpClient and curl --http2 send with their first request of a connection."""

BODY = json.dumps({"instances": [[7, 7]]}).encode()
INNER = with_body(b'{"instances": [[666, 666]]}')
TAIL = b"Content-Type: text/plain\r\nContent-Length: 3\r\n\r\na b"


def make_service() -> Service:
    """Return a Service that answers whole and piece by piece."""
    service = Service("s")

    @service.api(Text(), Text(), name="whole")
    async def whole(text: str) -> str:
        return text

    @service.api(Text(), Text(), name="pieces")
    async def pieces(text: str) -> AsyncIterator[str]:
        for word in text.split():
            yield f"{word}\n"

    return service


@pytest.fixture(**BOTH_WAYS)  # type: ignore[call-overload]
def gateway_and_address(request: pytest.FixtureRequest) -> Iterator[tuple[Watching, str]]:
    """Return a server's address and its gateway."""
    gateway = Watching()
    with serving(gateway, direct=request.param, services=[make_service()]) as address:
        yield gateway, address


@pytest.fixture
def gateway(gateway_and_address: tuple[Watching, str]) -> Watching:
    """Return the gateway."""
    return gateway_and_address[0]


@pytest.fixture
def address(gateway_and_address: tuple[Watching, str]) -> str:
    """Return the address."""
    return gateway_and_address[1]


def send(connection: socket.socket, address: str, *pieces: bytes) -> None:
    """Send pieces that are read one by one."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for index, piece in enumerate(pieces):
        if index:
            with connect(address) as other:  # the piece before was read meanwhile
                other.sendall(PAGE)
                receive(other, 1)
        connection.sendall(piece)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the server ends the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


# --- Upgrade -----------------------------------------------------------------------------------

ASKING = {
    "a body": with_body(BODY, more=UPGRADE),
    "lower case": with_body(BODY, more=UPGRADE.lower()),
    "a WebSocket": with_body(BODY, more=b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
    "chunks": in_chunks(7.0).replace(b"Host: x\r\n", b"Host: x\r\n" + UPGRADE),
}


@pytest.mark.parametrize("cut", [None, 60, -len(BODY), -5], ids=["whole", "head", "ends", "body"])
@pytest.mark.parametrize("name", list(ASKING))
def test_a_request_for_another_protocol_is_one_like_others(
    address: str, name: str, cut: int | None
) -> None:
    """Its body is read, wherever it is cut; the connection goes on, also with another of them."""
    data = ASKING[name]
    with connect(address) as connection:
        for _ in range(2):
            send(connection, address, *([data] if cut is None else [data[:cut], data[cut:]]))
            assert numbers(receive(connection, 1)) == [7.0]
        connection.sendall(data + PAGE + data + asking(1.0))
        assert numbers(receive(connection, 4)) == [7.0, 0.0, 7.0, 1.0]


@pytest.mark.parametrize("is_cut", [False, True], ids=["at once", "the body later"])
def test_a_body_behind_upgrade_is_no_request(gateway: Watching, address: str, is_cut: bool) -> None:
    """Nothing of it is executed."""
    data = with_body(INNER, more=UPGRADE)
    place = data.index(INNER)
    with connect(address) as connection:
        send(connection, address, *([data[:place], data[place:]] if is_cut else [data]))
        ((head, body),) = receive(connection, 1)
        assert head.startswith(b"HTTP/1.1 400 ") and b"JSON" in body
        connection.sendall(PAGE)
        assert receive(connection, 1)[0][1] == b'{"status":"alive"}'
    assert gateway.by_task == []


def test_upgrade_without_a_body(address: str) -> None:
    """Pages, and a head that says that it is the last."""
    page = PAGE.replace(b"Host: x\r\n", b"Host: x\r\n" + UPGRADE)
    last = page.replace(b"Connection: Upgrade", b"Connection: close, Upgrade")
    with connect(address) as connection:
        connection.sendall(page + page + last)
        replies = read_all(connection)
    assert replies.count(b'{"status":"alive"}') == replies.count(b"200 OK") == 3
    assert replies.count(b"connection: close") == 1


def test_a_server_is_no_proxy(address: str) -> None:
    """CONNECT is refused, and what follows it is not read."""
    with connect(address) as connection:
        connection.sendall(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + PAGE)
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 400 ") and b"proxy" in reply
    assert reply.count(b"HTTP/1.1") == 1


# --- codings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/v1/models/m:predict", b"/whole", b"/pieces"])
def test_a_packed_body_is_refused_by_its_header(address: str, path: bytes) -> None:
    """415 names it, and the connection goes on; identity is none."""
    packed = gzip.compress(BODY)
    for coding, body, status in ((b"gzip", packed, 415), (b"BR", packed, 415), (b"", BODY, 200),
                                 (b"Identity", BODY, 200)):  # fmt: skip
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Encoding: %s\r\n" % (path, coding)
        with connect(address) as connection:
            connection.sendall(
                head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            connection.sendall(body)
            reply = read_all(connection)
        assert reply.startswith(b"HTTP/1.1 %d " % status), reply
        assert (b"Content-Encoding" in reply) is (status == 415)


@pytest.mark.parametrize(
    "lines",
    [
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: deflate\r\n",
    ],
    ids=["a list", "two headers", "no chunks"],
)
def test_other_transfer_codings_are_not_implemented(address: str, lines: bytes) -> None:
    """501 (RFC 9112, 6.1), and the connection ends: where the body does is not known."""
    chunked = in_chunks(1.0).replace(b"Transfer-Encoding: chunked\r\n", lines)
    with connect(address) as connection:
        connection.sendall(chunked)
        reply = read_all(connection)
    assert reply.startswith(b"HTTP/1.1 501 ") and b"connection: close" in reply
    assert b"Transfer-Encoding" in reply and b"unsupported_form" in reply
    with connect(address) as connection:
        connection.sendall(in_chunks(1.0).replace(b"chunked", b"Chunked"))
        assert numbers(receive(connection, 1)) == [1.0]


# --- the end of the client's half ----------------------------------------------------------------

ENDED = {
    "one": (asking(1.0), 1),
    "three": (asking(1.0) * 3, 3),
    "chunks": (in_chunks(1.0) * 3, 3),
    "a page": (PAGE, 1),
    "pages": (PAGE * 3, 3),
    "all sorts": (asking(1.0) + PAGE + in_chunks(1.0) + asking(1.0), 4),
    "pieces": (b"POST /pieces HTTP/1.1\r\nHost: x\r\n" + TAIL, 1),
}


@pytest.mark.parametrize("name", list(ENDED))
def test_who_sends_no_more_is_answered(
    address: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All that was asked; then the connection ends. Nothing is logged as an error."""
    data, count = ENDED[name]
    with connect(address) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        reply = read_all(connection)
    assert reply.count(b"HTTP/1.1 200 OK") == count
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_who_sends_no_more_may_wait_a_moment(gateway: Watching, address: str) -> None:
    """For an answer that takes longer than its end does."""
    gateway.is_holding = True
    with connect(address) as connection:
        connection.sendall(asking(1.0) + asking(2.0))
        wait_for(lambda: gateway.held, limit=LIMIT)
        connection.shutdown(socket.SHUT_WR)
        with connect(address) as other:  # the end was read meanwhile
            other.sendall(PAGE)
            receive(other, 1)
        gateway.release(0)
        wait_for(lambda: len(gateway.held) == 2, limit=LIMIT)
        gateway.release(1)
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 2
    assert ENDED_SECONDS >= 1.0


def test_who_sends_no_more_is_not_waited_for_long(gateway: Watching, address: str) -> None:
    """It may be gone: its requests are cancelled, and its connection ends."""
    gateway.is_holding = True
    with connect(address) as connection:
        connection.sendall(asking(1.0))
        wait_for(lambda: gateway.held, limit=LIMIT)
        connection.shutdown(socket.SHUT_WR)
        wait_for(gateway.held[0].cancelled, limit=LIMIT)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_a_client_that_goes_with_several_requests_is_no_error(
    gateway: Watching, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All are cancelled, also the one that runs while others wait behind it."""
    gateway.is_holding = True
    with connect(address) as connection:
        connection.sendall(in_chunks(1.0) + PAGE + PAGE + b"POST /v1")
        wait_for(lambda: gateway.held, limit=LIMIT)
    wait_for(gateway.held[0].cancelled, limit=LIMIT)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# --- HTTP/1.0 ----------------------------------------------------------------------------------


def test_a_client_of_old_http_gets_no_chunks(address: str) -> None:
    """An answer of unknown length ends with its connection (RFC 9112, 6.3 and 7)."""
    for path, expected in ((b"/pieces", b"a\nb\n"), (b"/whole", b"a b")):
        with connect(address) as connection:
            connection.sendall(b"POST %s HTTP/1.0\r\n" % path + TAIL)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert body == expected
        assert b"transfer-encoding" not in head and b"connection: close" in head
        assert (b"content-length" in head) is (path == b"/whole")
    with connect(address) as connection:
        connection.sendall(b"POST /pieces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + TAIL)
        assert read_all(connection).endswith(b"\r\n2\r\na\n\r\n2\r\nb\n\r\n0\r\n\r\n")


def test_an_error_in_old_http_is_whole(address: str) -> None:
    """It has a length, as in HTTP/1.1."""
    with connect(address) as connection:
        connection.sendall(asking(1.0, method="fail").replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert b" 500 " in head and b"content-length: %d" % len(body) in head
