"""What endpoints know of requests and say of answers; hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api_world import LIMIT, FakeGateway, serving
from tfrunner import Context, Service
from tfrunner.context import ResponseContext
from tfrunner.errors import ModelError, StateError
from tfrunner.io import JSON, Text


def runs_in_loop() -> bool:
    """Return whether this is called in a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def make(said: list[str] | None = None) -> Service:
    """Return a Service that uses its context in every way; hooks note in `said` what they saw."""
    said = [] if said is None else said
    svc = Service("svc")

    @svc.on_startup
    def first(context: Context) -> None:
        context.state["started"] = ["first"]
        said.append("in the event loop" if runs_in_loop() else "in a thread")

    @svc.on_startup
    async def second(context: Context) -> None:
        context.state["started"].append("second")

    @svc.on_shutdown
    def last(context: Context) -> None:
        said.append(f"ended after {context.state['started']}")

    @svc.on_shutdown
    async def broken() -> None:
        raise ValueError("a hook that fails")

    @svc.on_shutdown
    async def really_last(ctx: Context) -> None:
        said.append("really ended")

    @svc.api(JSON(), JSON())
    async def request(value: Any, ctx: Context) -> Any:
        """Return what there is to know."""
        asked = ctx.request
        return {
            "header": asked.headers["X-Some"],
            "metadata": asked.metadata.get("x-some"),
            "query": asked.query_params.get("error"),
            "method": asked.method,
            "path": asked.path,
            "client": asked.client,
            "cookies": dict(asked.cookies),
            "id": asked.id,
        }

    @svc.api(Text(), Text())
    def status(value: str, context: Any) -> str:
        if context.request.query_params.get("error"):
            context.response.status_code = 400
        return context.request.query_params.get("error", "fine")

    @svc.api(JSON(), JSON())
    def respond(value: Any, *, which: Context) -> Any:
        which.response.headers["X-Answer"] = value["answer"]
        which.response.headers.append("X-Answer", "more")
        which.response.set_cookie("a", "1", max_age=60, httponly=True, samesite="strict")
        which.response.set_cookie("b", "2", path="/b", secure=True)
        return value

    @svc.api(JSON(), JSON())
    async def bad(value: Any, ctx: Context) -> Any:
        if "status" in value:
            ctx.response.status_code = value["status"]
        ctx.response.headers.update(value.get("headers", {}))
        return value

    @svc.api(JSON(), JSON())
    async def state(value: Any, ctx: Context) -> Any:
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        return ctx.state

    return svc


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Return a client of a server with the Service."""
    with (
        serving(FakeGateway(), services=[make()]) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client


def test_an_endpoint_sees_its_request(client: httpx.Client) -> None:
    """Headers in any case, query, cookies, the id that the log has."""
    headers = {"x-some": "some", "X-Request-Id": "id-1", "Cookie": "a=1; b=2"}
    assert client.post("/request?error=yes", json=1, headers=headers).json() == {
        "header": "some",
        "metadata": "some",
        "query": "yes",
        "method": "POST",
        "path": "/request",
        "client": "127.0.0.1",
        "cookies": {"a": "1", "b": "2"},
        "id": "id-1",
    }


def test_an_endpoint_sets_the_status(client: httpx.Client) -> None:
    """Its result is the body all the same."""
    fine, wrong = client.post("/status", content=""), client.post("/status?error=yes", content="")
    assert (fine.status_code, fine.text) == (200, "fine")
    assert (wrong.status_code, wrong.text) == (400, "yes")


def test_an_endpoint_sets_headers_and_cookies(client: httpx.Client) -> None:
    """Several of one name too; the parameter may have any name if it is annotated."""
    reply = client.post("/respond", json={"answer": "yes"})
    assert reply.headers.get_list("x-answer") == ["yes", "more"]
    assert reply.headers.get_list("set-cookie") == [
        "a=1; HttpOnly; Max-Age=60; Path=/; SameSite=strict",
        "b=2; Path=/b; SameSite=lax; Secure",
    ]
    assert reply.headers["content-type"] == "application/json"
    assert client.post("/respond", json={"answer": "again"}).headers.get_list("x-answer")[0] == (
        "again"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"status": 99}, "the status 99"),
        ({"status": 600}, "the status 600"),
        ({"status": "200"}, "the status '200'"),
        ({"headers": {"content-length": "5"}}, "'content-length', which is the server's own"),
        ({"headers": {"X-Request-Id": "mine"}}, "the server's own"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "what no header may hold"),
        ({"headers": {"X-A": "日本"}}, "'X-A' to '日本', but headers hold Latin-1 only"),
        ({"headers": {"X-日本": "a"}}, "'X-日本' to 'a', but headers hold Latin-1 only"),
        ({"headers": {"X-A": ["a"]}}, "'X-A' to a list; expected text"),
    ],
    ids=str,
)
def test_what_cannot_be_said_of_an_answer(client: httpx.Client, said: Any, expected: str) -> None:
    """500 with the reason: no header is smuggled in."""
    reply = client.post("/bad", json=said)
    assert (reply.status_code, reply.json()["code"]) == (500, "model_error")
    assert expected in reply.json()["error"]
    assert "x-b" not in reply.headers


def test_a_status_without_a_body_has_none(client: httpx.Client) -> None:
    """The next answer on the connection is understood."""
    empty = client.post("/bad", json={"status": 204})
    assert (empty.status_code, empty.content) == (204, b"")
    typed = client.post("/bad", json={"headers": {"Content-Type": "application/x-own"}})
    assert typed.headers["content-type"] == "application/x-own"
    assert typed.json() == {"headers": {"Content-Type": "application/x-own"}}


def test_state_is_kept_between_requests(client: httpx.Client) -> None:
    """What a start-up hook put in is there; endpoints may add."""
    before = client.post("/state", json=1).json()
    after = client.post("/state", json=1).json()
    assert before["started"] == after["started"] == ["first", "second"]
    assert after["count"] == before["count"] + 1


def test_hooks_run_once_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    """Sync ones in a thread; one that fails at the end is logged, and the next one runs."""
    said: list[str] = []
    with serving(FakeGateway(), services=[make(said)]) as address:
        for _ in range(3):
            httpx.post(f"{address}/state", json=1, timeout=LIMIT, trust_env=False)
        assert said == ["in a thread"]
    assert said[1:] == ["ended after ['first', 'second']", "really ended"]
    assert "the shutdown hook broken failed: ValueError: a hook that fails" in caplog.text


def test_the_headers_of_an_answer_take_text_and_numbers() -> None:
    """Anything else is said where it is set, in whatever way."""
    headers = ResponseContext().headers
    headers["X-A"] = 3
    headers.append("X-A", 2.5)
    assert headers.setdefault("X-B", 4) == headers["x-b"] == "4"
    headers.update({"X-C": "é"})
    assert headers.raw == [(b"x-a", b"3"), (b"x-a", b"2.5"), (b"x-b", b"4"), (b"x-c", b"\xe9")]
    for set_header in (headers.append, headers.setdefault, headers.__setitem__):
        for wrong in (None, b"a", "日本"):
            with pytest.raises(ModelError, match="set the header 'X-D' to"):
                set_header("X-D", wrong)


def test_a_hook_has_no_request() -> None:
    """A named error, not an AttributeError of None."""
    context = Context({})
    with pytest.raises(StateError, match="no request"):
        _ = context.request
    with pytest.raises(StateError, match="no response"):
        _ = context.response
