"""One HTTP connection: uvicorn's protocol, with bounds, and an end that loses no request.

What costs time per request is kept to counting. `Watch` looks at all connections together,
in place of timers for each.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tfrunner.api.exchange import Exchange, end_with
from tfrunner.api.framing import OpenEnded, find_transfer_coding, head_without_upgrade, make_parser
from tfrunner.api.lane import Lane
from tfrunner.api.refusals import Surplus
from tfrunner.api.replies import write_error
from tfrunner.api.state import ProcessState
from tfrunner.errors import InvalidInput, TFRunnerError, TooLarge, UnsupportedForm

SURPLUS = 64
"""Connections above the limit that are told so; the ones above these are simply ended."""


AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for 0 seconds."""


class Activity(Enum):
    """What a connection does."""

    IDLE = "idle"
    RECEIVING = "receiving"  # a request began and is not whole
    ANSWERING = "answering"  # a request is whole, and its answer is not
    REFUSED = "refused"  # told that it ends; what it still sends is not read


class Seen:
    """What `Watch` saw of a connection when it last looked, and since when it is so."""

    __slots__ = ("activity", "progress", "since", "unsent", "unsent_since")

    def __init__(self) -> None:
        self.activity: Activity | None = None
        self.progress = -1  # grows with every request, and with every piece of one
        self.since = 0.0
        self.unsent = 0  # bytes
        self.unsent_since = 0.0


class Refused(Exception):
    """Raised out of the parser, which ends there."""


class Connection(HttpToolsProtocol):
    """One HTTP connection of an api process; made by uvicorn, with its arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared: ProcessState = self.server_state  # type: ignore[assignment]
        self.messages = 0
        self.received = 0  # bytes of bodies
        self.seen = Seen()
        self.is_surplus = False
        self.is_refused = False
        self.ended_at: float | None = None  # when the client said that it sends no more
        self._is_receiving = False
        self._quiet = 0  # bytes since the request began, or since the last ones of its body
        self._refusal: tuple[TFRunnerError, HTTPStatus] | None = None
        self._cycles: deque[RequestResponseCycle] = deque()  # those that are not answered
        self._lane: Lane | None = None  # None: every request goes through ASGI

    def __repr__(self) -> str:
        return f"<Connection {self.client} [{self.activity().value} | {self.messages} requests]>"

    @property
    def is_parsing(self) -> bool:
        """Whether uvicorn's parser is in the middle of a request."""
        return self._is_receiving

    def activity(self) -> Activity:
        """Return what the connection does."""
        if self.is_refused:
            return Activity.REFUSED
        is_receiving = self._is_receiving or (self._lane is not None and self._lane.receiving)
        if is_receiving and not self.flow.read_paused:
            return Activity.RECEIVING
        if self.cycle is not None and not self.cycle.response_complete:
            return Activity.ANSWERING
        return Activity.IDLE

    # --- what uvicorn's parser and event loop report ----------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take part, or be one too many."""
        super().connection_made(transport)
        surplus = len(self.connections) - self.shared.bounds.max_connections
        if surplus > SURPLUS:
            transport.abort()
        elif surplus > 0:
            self.is_surplus = True
            self.app = Surplus(self.app, self.shared)
        elif self.shared.direct is not None:
            self._lane = Lane(self, self.shared.direct)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the requests that wait: nobody will read their answers."""
        self._end_lane()
        self._lane = None
        for cycle in self._cycles:  # uvicorn thinks of the latest alone
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._cycles.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer what was asked: who sends no more may still read.

        Nothing tells it from a client that is gone, so `Watch` ends the connection soon. The
        end of what was not whole, and of TLS, is that of the connection.
        """
        is_whole = not self._is_receiving and (self._lane is None or not self._lane.receiving)
        latest = self.cycle
        if latest is None or latest.response_complete or not is_whole or self.is_refused:
            return None
        if self.scheme == "https":
            return None
        latest.keep_alive = False
        if self.ended_at is None:
            self.ended_at = self.loop.time()
        return True

    def _end_lane(self) -> None:
        if self._lane is not None:
            self._lane.end()
            if isinstance(self.cycle, Exchange):
                self.cycle = None

    def data_received(self, data: bytes) -> None:
        """Answer predict requests, parse others; refuse a head (or trailers) without an end."""
        if self.is_refused:
            return
        if self._lane is not None:
            data = self._lane.take(data)
            if not data:
                return
        self._quiet += len(data)
        self._parse(data)
        if self._is_receiving and self._quiet > self.shared.bounds.header_limit:
            self.refuse(self._head_too_large(), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _parse(self, data: bytes) -> None:
        """Have uvicorn's parser read what came; a head with Upgrade once more, without it."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as exc:
                self.messages -= 1
                verb, version = self.parser.get_method(), self.parser.get_http_version()
                head = head_without_upgrade(verb, self.url, version, self.headers)
                data = head + data[exc.args[0] :]
                self.parser = make_parser(self)  # the old one may have ended: Connection: close
            except httptools.HttpParserError:
                text = "Invalid HTTP request received."
                self.logger.warning(text)
                self.send_400_response(text)
                return
            else:
                return

    def on_message_begin(self) -> None:
        """Count."""
        super().on_message_begin()
        self.messages += 1
        self._is_receiving = True

    def on_headers_complete(self) -> None:
        """Start the request; its answer says so if the connection ends with it."""
        self._refusal = self._find_refusal()
        if self._refusal is not None:
            raise Refused
        if self.parser.should_upgrade():
            return  # it comes again
        earlier = self.cycle
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = OpenEnded(self.cycle).send  # type: ignore[method-assign, assignment]
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)
        if self.shared.is_draining or self.is_surplus:
            end_with(self.cycle, earlier)

    def on_body(self, body: bytes) -> None:
        """Count."""
        super().on_body(body)
        self.received += len(body)
        self._quiet = 0

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._is_receiving = False
        self._quiet = 0

    def on_response_complete(self) -> None:
        """Go on with the next request; without a timer for each idle time, as `Watch` looks."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def start_next(self) -> None:
        """Start the first request that waits for those before it."""
        self._start_asgi_task(*self.pipeline.pop())

    def resume_writing(self) -> None:
        """Go on with answers: the client has read."""
        super().resume_writing()
        if self._lane is not None:
            self._lane.flush()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has a head that is refused."""
        if self._refusal is not None:
            self.refuse(*self._refusal)
        else:
            self.refuse(InvalidInput(msg), HTTPStatus.BAD_REQUEST)

    def shutdown(self) -> None:
        """Have the answer to the last request say that the connection ends, if it has not begun."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def drop(self) -> None:
        """Reset the connection: the kernel forgets what it holds of an answer nobody reads."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None and not self.transport.is_closing():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    # --- refusals before there is a request -------------------------------------------------

    def refuse(self, error: TFRunnerError, status: int) -> None:
        """Answer what never becomes a whole request, and end the connection.

        The client gets a moment to read the answer: closing at once would reset it, as data
        of the client may be unread.
        """
        if self.is_refused or self.transport.is_closing():
            return
        self.is_refused = True
        self.shared.count("http_refused", error.code)
        if not self._is_free():
            self.transport.abort()
            return
        given = dict(self.headers or ()).get(b"x-request-id")
        visit = None
        if self._lane is not None and self._lane.receiving is not None:
            given, visit = self._lane.receiving.request_id, self._lane.receiving.visit
        request_id = self.shared.ids.take(given)
        if self.shared.guard is not None:
            self.shared.guard.note_refusal(self.client, status, error, request_id, visit=visit)
        self._end_lane()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        extra = [(b"connection", b"close")]
        self.transport.write(write_error(error, request_id, status=status, extra=extra))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS says goodbye before it ends
            self.transport.close()

    def _is_free(self) -> bool:
        """Whether an answer written now follows whole answers."""
        if self._lane is not None and self._lane.receiving is not None:
            return self._lane.can_refuse()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return cycle is None or cycle.scope is not self.scope
        return cycle.scope is self.scope and not cycle.response_started and not self.pipeline

    def _find_refusal(self) -> tuple[TFRunnerError, HTTPStatus] | None:
        """Return why a whole head is refused, if it is."""
        limit = self.shared.bounds.header_limit
        if self._quiet > limit and self._head_size() > limit:  # it came at once, perhaps with more
            return self._head_too_large(), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if self.parser.get_method() == b"CONNECT":
            return InvalidInput("CONNECT asks for a proxy; this is none"), HTTPStatus.BAD_REQUEST
        coding = find_transfer_coding(self.headers)
        if coding is None:
            return None
        text = f"Transfer-Encoding is {coding.decode('latin-1')!r}; expected chunked, or none"
        return UnsupportedForm(text), HTTPStatus.NOT_IMPLEMENTED

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _head_too_large(self) -> TooLarge:
        return TooLarge(
            f"the head of the request has more than {self.shared.bounds.header_limit} bytes. "
            "Send fewer or shorter headers, or raise the server's --header-limit."
        )
