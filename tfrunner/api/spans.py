"""OpenTelemetry spans of requests. Imported by `tracing` alone, where there are to be some.

    POST /v1/models/digits:predict      server: from the request to its answer
      queue                             until a worker took its batch
      run                               in the model, with the rest of its batch

A call that an endpoint of a Service makes through a runner has a span of its own between the
first and the two others. What a worker and the dispatcher measured comes back with the answer,
and the spans are made then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from http import HTTPStatus
from time import time_ns
from typing import Any

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tfrunner.answer import Answer
from tfrunner.api.heads import Head, make_head
from tfrunner.api.predict import Submit, Submitted
from tfrunner.api.replies import Receive, Scope, Send
from tfrunner.api.targets import Target
from tfrunner.casting import Call
from tfrunner.errors import TFRunnerError
from tfrunner.specs import MethodSpec, ModelSpec

NAME = "tfrunner"
NOT_TRACED = frozenset(("/livez", "/healthz", "/readyz", "/metrics"))
SERVER = context.create_key("tfrunner-server")
"""In the context of a request that comes through ASGI: its span."""
PREDICT = context.create_key("tfrunner-predict")
"""In the context of a predict request: its span, so that its call gets no other."""

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
NANO = 1e9


class Spans:
    """Makes the spans of an api process.

    Args:
        provider: Where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    def __repr__(self) -> str:
        return f"<Spans [{self._tracer!r}]>"

    # --- server spans ---------------------------------------------------------------------

    def around_predict(self, submit: Submit) -> Submit:
        """Return `Predict.submit` with a server span for each request."""

        def submit_in_span(
            target: Target, head: Head, body: bytes, *, client: str = "", request_id: bytes = b""
        ) -> Submitted:
            outer = context.get_value(SERVER)  # of a request that came through ASGI
            span = outer if isinstance(outer, Span) else self._begin("POST", head)
            span.set_attribute("tfrunner.request_id", request_id.decode("latin-1"))
            here = trace.set_span_in_context(span, context.Context())
            token = context.attach(context.set_value(PREDICT, span, here))
            try:
                submitted = submit(target, head, body, client=client, request_id=request_id)
            except Exception as exc:
                if span is not outer:
                    _end(span, exc)
                raise
            finally:
                context.detach(token)
            if span is not outer:
                submitted.future.add_done_callback(partial(_end_later, span))
            return submitted

        return submit_in_span

    def around_app(self, app: ASGIApp) -> ASGIApp:
        """Return the application with a server span for each request but those of probes."""

        async def answer_in_span(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in NOT_TRACED:
                await app(scope, receive, send)
                return
            span = self._begin(scope["method"], make_head(scope["path"], scope["headers"]))
            status = 0

            async def send_and_note(message: MutableMapping[str, Any]) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    request_id = dict(message["headers"]).get(b"x-request-id", b"")
                    span.set_attribute("tfrunner.request_id", request_id.decode("latin-1"))
                await send(message)

            here = trace.set_span_in_context(span, context.Context())
            token = context.attach(context.set_value(SERVER, span, here))
            try:
                await app(scope, receive, send_and_note)
            finally:
                context.detach(token)
                if status == HTTPStatus.NOT_FOUND:
                    span.update_name(scope["method"])  # callers do not choose names of spans
                _end_with(span, status)

        return answer_in_span

    def _begin(self, method: str, head: Head) -> Span:
        """Begin a server span, as a part of the caller's if it names one."""
        carrier = {
            "traceparent": head.traceparent.decode("latin-1"),
            "tracestate": head.tracestate.decode("latin-1"),
        }
        parent = self._propagator.extract(carrier, context.Context())
        attributes = {"http.request.method": method, "url.path": head.path}
        return self._tracer.start_span(
            f"{method} {head.path}", parent, kind=SpanKind.SERVER, attributes=attributes
        )

    # --- what a model's workers do for it ------------------------------------------------------

    def follow(
        self, future: asyncio.Future[Answer], model: ModelSpec, method: MethodSpec, call: Call
    ) -> None:
        """Make the spans of a call once its answer is there; see `Gateway.watch`."""
        begin = time_ns()
        attributes: dict[str, str | int] = {
            "tfrunner.model": model.name,
            "tfrunner.version": model.version,
            "tfrunner.method": method.name,
            "tfrunner.rows": call.rows,
        }
        span = context.get_value(PREDICT)
        is_own = not isinstance(span, Span)
        if not isinstance(span, Span):
            span = self._tracer.start_span(f"{model.name}.{method.name}", attributes=attributes)
        elif span.is_recording():
            span.set_attributes(attributes)
        if span.is_recording():
            future.add_done_callback(partial(self._settle, span, begin, is_own=is_own))

    def _settle(
        self, span: Span, begin: int, future: asyncio.Future[Answer], *, is_own: bool
    ) -> None:
        error = _error_of(future)
        if error is None:
            self._add_parts(span, begin, future.result())
        if is_own:
            _end(span, error, has_status=False)

    def _add_parts(self, span: Span, begin: int, answer: Answer) -> None:
        """Add what is known of where the time went: not of requests that ran in parts."""
        if answer.batch_rows:
            span.set_attribute("tfrunner.batch_rows", answer.batch_rows)
        if len(answer.timing) < 3:
            return
        queued, gathered, ran = (int(NANO * seconds) for seconds in answer.timing[:3])
        here = trace.set_span_in_context(span, context.Context())
        queue = self._tracer.start_span("queue", here, start_time=begin)
        queue.end(begin + queued)
        start = begin + queued + gathered
        run = self._tracer.start_span("run", here, start_time=start)
        if answer.batch_rows:
            run.set_attribute("tfrunner.batch_rows", answer.batch_rows)
        run.end(start + ran)


def _error_of(future: asyncio.Future[Answer]) -> BaseException | None:
    return asyncio.CancelledError() if future.cancelled() else future.exception()


def _end_later(span: Span, future: asyncio.Future[Answer]) -> None:
    """End a predict request's span when this turn of the event loop has written the answer."""
    asyncio.get_running_loop().call_soon(_end, span, _error_of(future))


def _end(span: Span, error: BaseException | None, *, has_status: bool = True) -> None:
    """End a span with what came of it; `has_status`: it is that of an HTTP request."""
    if error is None:
        if has_status:
            span.set_attribute("http.response.status_code", 200)
        span.end()
        return
    status = error.status if isinstance(error, TFRunnerError) else 500
    if isinstance(error, asyncio.CancelledError):
        span.set_attribute("error.type", "cancelled")
    else:
        code = error.code if isinstance(error, TFRunnerError) else "internal"
        span.set_attribute("error.type", code)
        if has_status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500 or not has_status:
            span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end()


def _end_with(span: Span, status: int) -> None:
    """End the span of an answer of which the status is known; 0: there was none."""
    if status:
        span.set_attribute("http.response.status_code", status)
    else:
        span.set_attribute("error.type", "cancelled")
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def make_provider(choice: str, process: str) -> TracerProvider:
    """Return what sends spans: "otlp" over HTTP, or to the "console", which is standard error.

    OpenTelemetry reads its own variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
    OTEL_SERVICE_NAME and others.

    Raises:
        ModuleNotFoundError: A package of OpenTelemetry is not installed.
    """
    resource = Resource.create({"service.instance.id": process})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": NAME}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if choice == "console":
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
