"""What Services put around and beside their endpoints: middleware, mounted applications."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.api_world import LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner import Service
from tfrunner.api.app import Application
from tfrunner.api.state import ProcessState
from tfrunner.config import Bounds
from tfrunner.errors import ConfigError
from tfrunner.io import JSON, Text

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}


class Mark:
    """Adds a header to every answer."""

    def __init__(self, app: Any, *, word: str) -> None:
        self.app = app
        self.word = word.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-mark", self.word)]
            await send(message)

        await self.app(scope, receive, marked)


class Rewrite:
    """Answers /ping as /livez, refuses /forbidden, and fails for /broken."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path = scope.get("path")
        if path == "/ping":
            scope = {**scope, "path": "/livez"}
        elif path == "/forbidden":
            await PlainTextResponse("no", 403)(scope, receive, send)
            return
        elif path == "/broken":
            raise ValueError("a secret of the middleware")
        await self.app(scope, receive, send)


class Lower(BaseHTTPMiddleware):
    """Starlette's own way to write middleware."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Pass on, and note that it did."""
        response: Response = await call_next(request)
        response.headers["x-lower"] = "yes"
        return response


def wsgi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as a WSGI application does."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"wsgi at " + environ["PATH_INFO"].encode()]


async def hello(request: Request) -> Response:
    """Answer."""
    return PlainTextResponse("hello " + request.query_params.get("who", "you"))


async def fail(scope: Any, receive: Any, send: Any) -> None:
    """Fail, as an ASGI application does that catches nothing."""
    raise ValueError("a secret of the application")


def make() -> Service:
    """Return a Service with everything around it."""
    svc = Service("svc")

    @svc.api(JSON(), JSON())
    async def echo(value: Any) -> Any:
        return value

    @svc.api(JSON(), JSON())
    def in_thread(value: Any) -> Any:
        return value

    @svc.api(Text(), Text())
    async def words(text: str) -> Any:
        async def pieces() -> Any:
            for word in text.split():
                if word == "fail":
                    raise ValueError("a secret of the user")
                yield word

        return pieces()

    svc.mount_asgi_app(Starlette(routes=[Route("/hello", hello)]))
    svc.mount_asgi_app(fail, path="/fail")
    svc.mount_asgi_app(Starlette(routes=[Route("/hello", hello)]), path="/deep/", name="deep")
    svc.mount_wsgi_app(wsgi, path="/wsgi")
    return svc


def make_wrapped() -> Service:
    """Return the same with middleware."""
    svc = make()
    svc.add_asgi_middleware(Lower)
    svc.add_asgi_middleware(Rewrite)
    svc.add_asgi_middleware(Mark, word="inner")
    svc.add_asgi_middleware(Mark, word="outer")
    svc.add_asgi_middleware(GZipMiddleware, minimum_size=500)
    return svc


@pytest.fixture(scope="module", params=[False, True], ids=["bare", "with middleware"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Return a client of a server with the Service, with and without middleware."""
    service = make_wrapped() if request.param else make()
    with (
        serving(FakeGateway(), services=[service]) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        client.headers["X-Request-Id"] = "id-3"
        client.headers["X-Wrapped"] = "yes" if request.param else ""
        yield client


def is_wrapped(client: httpx.Client) -> bool:
    """Return whether there is middleware."""
    return bool(client.headers["X-Wrapped"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PREDICT),
        ("POST", "/v1/models/unknown:predict"),
        ("POST", "/echo"),
        ("GET", "/livez"),
        ("GET", "/v1/models/m"),
        ("GET", "/nothing"),
        ("GET", "/hello"),
        ("GET", "/wsgi/here"),
    ],
)
def test_middleware_sees_every_answer(client: httpx.Client, method: str, path: str) -> None:
    """Predictions, endpoints, pages, mounts, errors; each has one id, the caller's."""
    reply = client.request(method, path, json=BODY if method == "POST" else None)
    wrapped = is_wrapped(client)
    assert reply.headers.get_list("x-mark") == (["inner", "outer"] if wrapped else [])
    assert reply.headers.get("x-lower") == ("yes" if wrapped else None)
    assert reply.headers.get_list("x-request-id") == ["id-3"]


def test_answers_are_the_same_with_middleware(client: httpx.Client) -> None:
    """Predictions as they are on the direct way; large ones are compressed where that was asked."""
    assert client.post(PREDICT, json=BODY).json() == {"predictions": [[1.0, 2.0]]}
    large = client.post(PREDICT, json={"instances": [[1.0, 2.0]] * 200})
    assert len(large.json()["predictions"]) == 200
    assert large.headers.get("content-encoding") == ("gzip" if is_wrapped(client) else None)
    assert client.post("/echo", json=[1]).json() == [1]
    assert client.post("/words", content="a b c").text == "abc"


def test_middleware_may_answer_and_change_paths(client: httpx.Client) -> None:
    """Before anything else looks at them."""
    wrapped = is_wrapped(client)
    assert client.get("/ping").status_code == (200 if wrapped else 404)
    assert client.get("/forbidden").status_code == (403 if wrapped else 404)


def test_what_fails_around_an_endpoint(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """500 without details; the log has them once, with the request's id."""
    path = "/broken" if is_wrapped(client) else "/fail/now"
    reply = client.get(path)
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert reply.json()["request_id"] == "id-3"
    assert "secret" not in reply.text
    wait_for(lambda: "ValueError: a secret" in caplog.text)
    assert caplog.text.count("ValueError: a secret") == 1
    assert f"request id-3 failed: {path}" in caplog.text


def test_a_stream_that_fails_is_cut_off_by_middleware_too(client: httpx.Client) -> None:
    """None of it ends the body as if it were whole."""
    with (
        client.stream("POST", "/words", content="a fail") as reply,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        list(reply.iter_raw())


def test_mounts_answer_below_their_paths(client: httpx.Client) -> None:
    """Where no endpoint and no page of the server does; unknown paths are the last mount's."""
    assert client.get("/hello?who=me").text == "hello me"
    assert client.get("/deep/hello").text == "hello you"
    assert client.get("/wsgi/some/path").text.startswith("wsgi at ")
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.post("/echo", json=5).json() == 5
    assert client.get("/nothing").text == "Not Found"


def test_threads_end_with_the_server() -> None:
    """Those of the Service and those of WSGI applications: none of them holds up the process."""
    before = set(threading.enumerate())
    with serving(FakeGateway(), services=[make()]) as address:
        for path in ("/in_thread", "/wsgi/x"):
            reply = httpx.post(address + path, json=1, timeout=LIMIT, trust_env=False)
            assert reply.status_code == 200
        names = {each.name[:6] for each in threading.enumerate()}
        assert {"worker", "WSGI_0"} <= names
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_the_direct_way_is_off_only_where_something_is_around() -> None:
    """Then predict requests have to go through ASGI."""

    def direct(*services: Service) -> bool:
        gateway = FakeGateway()
        state = ProcessState(Bounds(), count=gateway.count)
        app = Application(gateway, timeout=1.0, state=state, services=services)  # type: ignore[arg-type]
        return app.direct is not None

    assert direct()
    assert direct(make())
    assert not direct(make_wrapped())
    assert not direct(Service("plain"), make_wrapped())


@pytest.mark.parametrize("path", ["/v1", "/metrics/x", "/docs", "/a?b", "/a{b}", "//a", "/echo"])
def test_where_nothing_can_be_mounted(path: str) -> None:
    """Paths of the server and of endpoints, and what is no path."""
    with pytest.raises(ConfigError):
        make().mount_asgi_app(hello, path)


def test_two_applications_at_one_path() -> None:
    """In one Service, and in two."""
    with pytest.raises(ConfigError, match="route '/'"):
        make().mount_asgi_app(hello)
    other = Service("other")
    other.mount_asgi_app(hello, "/wsgi")
    with (
        pytest.raises(ConfigError, match="'svc' and 'other' both answer the route '/wsgi'"),
        serving(FakeGateway(), services=[make(), other]),
    ):
        pass


def test_middleware_that_cannot_be_made() -> None:
    """Said in one line, with its Service."""
    svc = Service("svc")
    svc.add_asgi_middleware(Mark, wrod="x")
    with (
        pytest.raises(ConfigError, match=r"'svc': the middleware Mark cannot be made: .*wrod"),
        serving(FakeGateway(), services=[svc]),
    ):
        pass
