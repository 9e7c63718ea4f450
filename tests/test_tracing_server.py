"""Spans of a real server, sent to a real receiver; and what tracing costs where it is off."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.waiting import LIMIT, wait_for
from tfrunner.testing import ServedClient, serve

TARGET = f"{Path(__file__).parent}/metrics_service.py:svc"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


class Receiver(HTTPServer):
    """Takes spans as an OpenTelemetry collector does: OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Span]:
        """Return the spans of the caller's trace."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == TRACE
        ]

    def resources(self) -> set[str]:
        """Return what the senders call themselves."""
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key in ("service.name", "service.instance.id")
        }


class Handler(BaseHTTPRequestHandler):
    """One export."""

    server: Receiver

    def do_POST(self) -> None:
        """Take spans."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Yield a receiver that listens."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join(LIMIT)
        receiver.server_close()


def post(server: ServedClient, path: str, body: Any) -> Any:
    """Call the server as a part of the caller's span; return what it answers."""
    url = f"{server.http_address}/{path}"
    reply = httpx.post(url, json=body, headers=HEADERS, trust_env=False, timeout=LIMIT)
    assert reply.status_code == 200, reply.text
    return reply.json()


def values(span: Span) -> dict[str, Any]:
    """Return a span's attributes."""
    found = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        assert kind is not None
        found[attribute.key] = getattr(attribute.value, kind)
    return found


def test_spans_of_a_server_reach_an_opentelemetry_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a predict request past ASGI, and of an endpoint with the call that it makes."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with serve(TARGET, tracing="otlp") as server:
            post(server, "v1/models/counting:predict", {"instances": [[1.0], [2.0], [3.0]]})
            post(server, "ask", [1.0, 2.0])
            wait_for(lambda: len(receiver.spans()) == 7)
            spans = receiver.spans()
        names = {span.span_id: span.name for span in spans}
        tree = sorted((names.get(span.parent_span_id, "caller"), span.name) for span in spans)
        assert tree == [
            ("POST /ask", "counting.predict"),
            ("POST /v1/models/counting:predict", "queue"),
            ("POST /v1/models/counting:predict", "run"),
            ("caller", "POST /ask"),
            ("caller", "POST /v1/models/counting:predict"),
            ("counting.predict", "queue"),
            ("counting.predict", "run"),
        ]
        by_name = {span.name: span for span in spans}
        predict = by_name["POST /v1/models/counting:predict"]
        assert predict.parent_span_id.hex() == CALLER
        said = values(predict)
        assert said.pop("tfrunner.request_id")
        assert said == {
            "http.request.method": "POST",
            "url.path": "/v1/models/counting:predict",
            "http.response.status_code": 200,
            "tfrunner.model": "counting",
            "tfrunner.version": "1",
            "tfrunner.method": "predict",
            "tfrunner.rows": 3,
            "tfrunner.batch_rows": 3,
        }
        assert values(by_name["counting.predict"])["tfrunner.rows"] == 2
        for span in spans:
            assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert receiver.resources() == {"tfrunner", "api-0-1"}


def test_spans_on_the_console_are_in_the_servers_log() -> None:
    """The simplest way to see one; what is left is written when the server ends."""
    with serve("echo", echo=True, tracing="console") as server:
        post(server, "v1/models/echo:predict", {"instances": [[1.0]]})
        wait_for(lambda: '"name": "POST /v1/models/echo:predict"' in server.log.read_text())
        assert TRACE in server.log.read_text()
