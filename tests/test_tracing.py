"""OpenTelemetry spans of one api process: which there are, what they say, whose parts they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tests.api_world import ECHO, LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner.answer import Answer
from tfrunner.api.app import Application
from tfrunner.api.spans import Spans
from tfrunner.casting import call
from tfrunner.io import JSON
from tfrunner.service import Service
from tfrunner.specs import TensorSpec

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "mine-1"}
TIMING = (0.25, 0.05, 0.5, 0.01)
SECOND = 1_000_000_000


class Followed(FakeGateway):
    """Lets somebody look at what is submitted, as the real gateway does; batches have 7 rows."""

    def __init__(self) -> None:
        super().__init__(answering=lambda method, arrays: Answer(arrays, Y, TIMING, 7))
        self.follow: Any = lambda *submitted: None

    def submit(self, model: Any, method: Any, call: Any, **options: Any) -> Any:
        """Return the future of an answer, which comes in a later turn of the event loop."""
        known = super().submit(model, method, call, **options)
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def settle() -> None:
            error = known.exception()
            if error is None:
                future.set_result(known.result())
            else:
                future.set_exception(error)

        loop.call_later(0.001, settle)
        self.follow(future, model, method, call)
        return future


Y = TensorSpec("y", "float32", (None, 2))


class Tracer:
    """The spans of a served application, as they were exported."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider)
        self.gateway = Followed()
        self.gateway.follow = self.spans.follow
        self.is_direct = True

    def around(self, app: Application) -> Any:
        """Return the application with spans around it."""
        app.predict.watch(self.spans.around_predict)
        return self.spans.around_app(app)

    def named(self, *names: str) -> list[ReadableSpan]:
        """Return spans by name once all have come, and check that there are no others."""
        wait_for(lambda: len(self._exporter.get_finished_spans()) >= len(names))
        found = {span.name: span for span in self._exporter.get_finished_spans()}
        assert sorted(found) == sorted(names)
        return [found[name] for name in names]

    def count(self) -> int:
        """Return how many spans there are."""
        return len(self._exporter.get_finished_spans())


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    """Return a tracer that keeps all spans."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield Tracer(provider)
    provider.shutdown()


@pytest.fixture(params=[True, False], ids=["direct", "through ASGI"])
def address(tracer: Tracer, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of the served application, each way."""
    services = [make_service(tracer.gateway)]
    tracer.is_direct = request.param
    way = {"around": tracer.around, "direct": request.param, "services": services}
    with serving(tracer.gateway, **way) as address:
        yield address


def make_service(gateway: Followed) -> Service:
    """Return a Service whose endpoint calls a model twice, at the same time."""
    service = Service("shop")
    method = ECHO.methods["__call__"]

    async def predict(rows: Any) -> Any:
        import numpy as np

        made = call(method, [np.asarray(rows, "float32")])
        return (await gateway.submit(ECHO, method, made, timeout=1.0)).value().tolist()

    @service.api(input=JSON(), output=JSON())
    async def both(value: Any) -> Any:
        return await asyncio.gather(predict(value), predict(value))

    @service.api(input=JSON(), output=JSON())
    async def fails(value: Any) -> Any:
        raise RuntimeError("no")

    return service


def post(address: str, path: str, json: Any, **headers: str) -> httpx.Response:
    """Send a request, as a part of the caller's span."""
    url = f"{address}/{path}"
    return httpx.post(
        url, json=json, headers={**HEADERS, **headers}, trust_env=False, timeout=LIMIT
    )


def seconds(span: ReadableSpan) -> float:
    """Return how long a span is."""
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / SECOND


def parent(span: ReadableSpan) -> str:
    """Return the parent's id."""
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> str:
    """Return a span's id; it must belong to the caller's trace."""
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    return f"{span.context.span_id:016x}"


def test_a_predict_request_has_a_server_span_with_queue_and_run(
    tracer: Tracer, address: str
) -> None:
    """A part of the caller's span; times are those that the answer brought."""
    reply = post(address, "v1/models/m:predict", {"instances": [[1, 2], [3, 4]]})
    assert reply.status_code == 200
    server, queue, run = tracer.named("POST /v1/models/m:predict", "queue", "run")
    assert server.kind is SpanKind.SERVER
    assert parent(server) == CALLER
    assert parent(queue) == parent(run) == own(server)
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/v1/models/m:predict",
        "http.response.status_code": 200,
        "tfrunner.request_id": "mine-1",
        "tfrunner.model": "m",
        "tfrunner.version": "v1",
        "tfrunner.method": "__call__",
        "tfrunner.rows": 2,
        "tfrunner.batch_rows": 7,
    }
    assert (run.attributes or {})["tfrunner.batch_rows"] == 7
    assert (seconds(queue), seconds(run)) == (0.25, 0.5)
    assert queue.end_time is not None and run.start_time is not None
    assert run.start_time - queue.end_time == 0.05 * SECOND


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("v1/models/m:predict", {"instances": [[1, "x"]]}, 400, "invalid_input"),
        (
            "v1/models/m:predict",
            {"instances": [[1, 2]], "signature_name": "fail"},
            500,
            "model_error",
        ),
        (
            "v1/models/m:predict",
            {"instances": [[1, 2]], "signature_name": "full"},
            503,
            "overloaded",
        ),
    ],
)
def test_a_request_that_fails_says_how(
    tracer: Tracer, address: str, path: str, body: Any, status: int, code: str
) -> None:
    """Errors of the server's are marked as such, those of the caller's are not."""
    assert post(address, path, body).status_code == status
    (server,) = tracer.named(f"POST /{path}")
    assert (server.attributes or {})["http.response.status_code"] == status
    if tracer.is_direct:
        assert (server.attributes or {})["error.type"] == code
    expected = StatusCode.ERROR if status >= 500 else StatusCode.UNSET
    assert server.status.status_code is expected
    assert parent(server) == CALLER


def test_a_services_calls_are_parts_of_its_request(tracer: Tracer, address: str) -> None:
    """Each call has a span of its own, with queue and run."""
    assert post(address, "both", [[1, 2]]).json() == [[[1, 2]]] * 2
    wait_for(lambda: tracer.count() == 7)
    spans = tracer._exporter.get_finished_spans()
    (server,) = (span for span in spans if span.kind is SpanKind.SERVER)
    calls = [span for span in spans if span.name == "m.__call__"]
    assert [parent(span) for span in calls] == [own(server)] * 2
    for span in calls:
        assert (span.attributes or {})["tfrunner.rows"] == 1
        inner = [each.name for each in spans if each.parent and parent(each) == own(span)]
        assert sorted(inner) == ["queue", "run"]
    assert (server.attributes or {})["http.response.status_code"] == 200


def test_an_endpoint_that_raises_is_an_error(tracer: Tracer, address: str) -> None:
    """As its caller sees it."""
    assert post(address, "fails", 1).status_code == 500
    (server,) = tracer.named("POST /fails")
    assert server.status.status_code is StatusCode.ERROR


def test_probes_make_no_spans_and_unknown_paths_no_names(tracer: Tracer, address: str) -> None:
    """Callers must not fill a tracing system with names."""
    for path in ("livez", "readyz", "metrics"):
        httpx.get(f"{address}/{path}", trust_env=False, timeout=LIMIT)
    assert post(address, "no/such/path", 1).status_code == 404
    (server,) = tracer.named("POST")
    assert (server.attributes or {})["url.path"] == "/no/such/path"


@pytest.mark.parametrize("given", ["", "00-zz-11-01", f"00-{'0' * 32}-{CALLER}-01", "é"])
def test_a_traceparent_that_is_none_begins_a_new_trace(
    tracer: Tracer, address: str, given: str
) -> None:
    """What callers send is no reason to fail."""
    url = f"{address}/v1/models/m:predict"
    headers = {"traceparent": given.encode()}
    body = {"instances": [[1, 2]]}
    reply = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=LIMIT)
    assert reply.status_code == 200
    server, _, _ = tracer.named("POST /v1/models/m:predict", "queue", "run")
    assert server.parent is None


def test_two_requests_on_one_connection_do_not_share_a_span(tracer: Tracer, address: str) -> None:
    """Nothing of the first one is left in the context of the connection."""
    with httpx.Client(base_url=address, trust_env=False, timeout=LIMIT) as client:
        for _ in range(3):
            client.post("/v1/models/m:predict", json={"instances": [[1, 2]]})
    wait_for(lambda: tracer.count() == 9)
    spans = tracer._exporter.get_finished_spans()
    servers = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [span.parent for span in servers] == [None] * 3
    assert len({span.context.trace_id for span in servers if span.context}) == 3


def test_what_is_not_sampled_makes_nothing() -> None:
    """The request is answered all the same."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    tracer = Tracer(provider)
    with serving(tracer.gateway, around=tracer.around) as address:
        body = {"instances": [[1, 2]]}
        url = f"{address}/v1/models/m:predict"
        assert httpx.post(url, json=body, trust_env=False, timeout=LIMIT).status_code == 200
    assert tracer.count() == 0
    provider.shutdown()
