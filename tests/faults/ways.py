"""Two ways to call the server: the Python client over ipc, and raw HTTP/1.1 keep-alive."""

from __future__ import annotations

import asyncio
import json
import socket
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tests.faults.load import Result, Row, Way
from tests.faults.report import OK, REFUSED, RESET, WRONG
from tfrunner.client import AsyncClient
from tfrunner.errors import TFRunnerError

METHOD = "work"


class ClientWay:
    """The Python client, straight to the dispatcher.

    Args:
        address: `ipc://...`, or `http://...` for the client over HTTP.
        retries: Whether the client may call again.
    """

    def __init__(
        self, address: str, *, model: str = "echo", method: str = METHOD, retries: bool = True
    ) -> None:
        self.client = AsyncClient(address, retries=retries)
        self._model = model
        self._method = method

    async def __aenter__(self) -> ClientWay:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.client.close()

    async def call(self, row: Row, timeout: float) -> Result:
        """Send one row, compare the answer with it."""
        sent = np.asarray([row.values()], dtype="float32")
        try:
            got = await self.client.predict(self._model, sent, method=self._method, timeout=timeout)
        except TFRunnerError as exc:
            return Result(exc.code, str(exc))
        same = isinstance(got, np.ndarray) and got.shape == sent.shape and (got == sent).all()
        return Result(OK) if same else Result(WRONG, f"{row} was answered with {got!r}")


class Mixed:
    """Several ways in turn, so that every fault meets them all."""

    def __init__(self, *ways: Way) -> None:
        self.ways = ways

    async def call(self, row: Row, timeout: float) -> Result:
        """Send one row on the way whose turn it is."""
        return await self.ways[row.id % len(self.ways)].call(row, timeout)


class Connection:
    """One HTTP/1.1 connection over a plain socket, so that nothing about it is hidden."""

    def __init__(self, taken: socket.socket) -> None:
        self.socket = taken
        self.port: int = taken.getsockname()[1]
        self._rest = b""

    def is_open(self) -> bool:
        """Whether the server has not closed it, as far as the kernel knows at this moment."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body of the reply.

        Raises:
            OSError: The connection broke, or ended before the reply did.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.socket, request)
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += await self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
        }
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            body += await self._more()
        self._rest = body[length:]
        return int(first.split()[1]), headers, body[:length]

    async def _more(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        if not data:
            raise ConnectionResetError("the server closed the connection before it answered")
        return data


class HttpWay:
    """Keep-alive connections; each carries one request at a time, new ones are opened at need.

    A connection that the server has closed, or announced to close, is not used again.

    Args:
        address: `http://host:port`.
    """

    def __init__(self, address: str, *, model: str = "echo", method: str = METHOD) -> None:
        parts = urlsplit(address)
        self._peer = parts.hostname, parts.port
        self._path = f"/v1/models/{model}:predict"
        self._method = method
        self._idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.announced = 0

    async def __aenter__(self) -> HttpWay:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in list(self.connections):
            self._forget(connection)

    async def connect(self, count: int) -> None:
        """Open so many idle connections beforehand."""
        for _ in range(count):
            self._idle.append(await self._open())

    async def call(self, row: Row, timeout: float) -> Result:
        """Send one row, compare the answer with it."""
        try:
            connection = self._take() or await self._open()
        except OSError as exc:
            return Result(REFUSED, str(exc))
        try:
            asked = connection.ask(self._request(row, timeout))
            status, headers, body = await asyncio.wait_for(asked, timeout + 5.0)
        except asyncio.TimeoutError:  # an OSError since Python 3.11
            self._forget(connection)
            return Result("hung", "no reply, 5 s after the deadline", connection.port)
        except OSError as exc:
            self._forget(connection)
            return Result(RESET, f"{type(exc).__name__}: {exc}", connection.port)
        except BaseException:
            self._forget(connection)
            raise
        if headers.get("connection", "").lower() == "close":
            self.announced += 1
            self._forget(connection)
        else:
            self._idle.append(connection)
        return _judge(row, status, body, connection.port)

    def _take(self) -> Connection | None:
        """Return an idle connection that is open; the longest idle one, so that all are used."""
        while self._idle:
            connection = self._idle.pop(0)
            if connection.is_open():
                return connection
            self._forget(connection)
        return None

    async def _open(self) -> Connection:
        opened = socket.socket()
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(opened, self._peer)
        except BaseException:
            opened.close()
            raise
        connection = Connection(opened)
        self.connections.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        connection.socket.close()

    def _request(self, row: Row, timeout: float) -> bytes:
        body = json.dumps({"signature_name": self._method, "instances": [row.values()]}).encode()
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: tfrunner\r\nContent-Type: application/json\r\n"
            f"X-Request-Timeout: {timeout}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _judge(row: Row, status: int, body: bytes, port: int) -> Result:
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        return Result(f"http_{status}", body[:200].decode("latin-1"), port)
    if status != 200:
        return Result(answer.get("code", f"http_{status}"), answer.get("error", ""), port)
    if answer == {"predictions": [row.values()]}:
        return Result(OK, "", port)
    return Result(WRONG, f"{row} was answered with {answer}", port)
