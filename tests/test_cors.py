"""CORS: which pages of other origins may call, on predict routes and all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api_world import BOTH_WAYS, FakeGateway, serving
from tfrunner.api.cors import check_origin
from tfrunner.api.key_file import add_key, make_key
from tfrunner.entrance import Entrance
from tfrunner.errors import ConfigError

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}
GOOD, BAD = "https://app.example", "https://evil.example"
ASK = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type, x-mine",
}


@pytest.fixture(**BOTH_WAYS)
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Serve for one origin; yield a client."""
    entrance = Entrance(cors_origins=(GOOD, "http://localhost:3000"))
    with (
        serving(FakeGateway(), direct=request.param, entrance=entrance) as url,
        httpx.Client(base_url=url, trust_env=False) as made,
    ):
        yield made


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PREDICT, BODY, 200),
        ("POST", PREDICT, {"instances": "no"}, 400),
        ("GET", "/livez", None, 200),
        ("GET", "/nothing", None, 404),
    ],
    ids=["predict", "predict refused", "page", "no page"],
)
def test_an_allowed_page_may_read_every_answer(
    client: httpx.Client, method: str, path: str, body: object, status: int
) -> None:
    """Errors too, with the headers that say more."""
    reply = client.request(method, path, json=body, headers={"Origin": GOOD})
    assert reply.status_code == status
    assert reply.headers.get_list("access-control-allow-origin") == [GOOD]
    assert "x-request-id" in reply.headers["access-control-expose-headers"]
    assert reply.headers["vary"] == "origin"


@pytest.mark.parametrize("path", [PREDICT, "/readyz"], ids=["predict", "page"])
@pytest.mark.parametrize("origin", [BAD, f"{GOOD}.evil.example", f"{GOOD}:8443", "null", None])
def test_others_get_no_leave(client: httpx.Client, path: str, origin: str | None) -> None:
    """The browser keeps the answer from them; caches are told that it depends."""
    headers = {"Origin": origin} if origin else {}
    reply = client.request("POST" if path == PREDICT else "GET", path, json=BODY, headers=headers)
    assert "access-control-allow-origin" not in reply.headers
    assert reply.headers["vary"] == "origin"


@pytest.mark.parametrize("path", [PREDICT, "/v1/status", "/own/route"])
def test_a_preflight_is_answered_for_every_path(client: httpx.Client, path: str) -> None:
    """What the page asked for is what it may send."""
    reply = client.options(path, headers={"Origin": GOOD, **ASK})
    assert (reply.status_code, reply.content) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == GOOD
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-headers"] == ASK["Access-Control-Request-Headers"]
    assert int(reply.headers["access-control-max-age"]) > 0
    assert reply.headers["x-request-id"]


def test_a_preflight_of_another_origin_is_refused(client: httpx.Client) -> None:
    """With a reason, and nothing that a browser would take as leave."""
    reply = client.options(PREDICT, headers={"Origin": BAD, **ASK})
    assert reply.status_code == 403
    assert reply.json()["code"] == "forbidden"
    assert BAD in reply.json()["error"]
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_an_options_request_that_asks_nothing_is_none_of_ours(client: httpx.Client) -> None:
    """It goes to the routes, as without CORS."""
    assert client.options(PREDICT, headers={"Origin": GOOD}).status_code == 405


@pytest.mark.parametrize("direct", BOTH_WAYS["params"], ids=BOTH_WAYS["ids"])
def test_all_origins_may_be_allowed(direct: bool) -> None:
    """With a star."""
    with (
        serving(FakeGateway(), direct=direct, entrance=Entrance(cors_origins=("*",))) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        reply = client.post(PREDICT, json=BODY, headers={"Origin": BAD})
        assert reply.headers["access-control-allow-origin"] == "*"
        asked = client.options(PREDICT, headers={"Origin": BAD, **ASK})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")


def test_nobody_is_told_anything_where_it_is_not_asked_for() -> None:
    """The default."""
    with serving(FakeGateway()) as url:
        reply = httpx.post(url + PREDICT, json=BODY, headers={"Origin": GOOD}, trust_env=False)
        assert not [n for n in reply.headers if n.startswith("access-control") or n == "vary"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://App.example/", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_origins_are_written_as_browsers_do(given: str, expected: str) -> None:
    """In small letters, without a slash at the end."""
    assert check_origin(given) == expected


@pytest.mark.parametrize("given", ["app.example", "https://a.example/p", "https://*.example", ""])
def test_what_is_no_origin_is_refused(given: str) -> None:
    """With what was expected."""
    with pytest.raises(ConfigError, match="--cors-origin is"):
        check_origin(given)


@pytest.mark.parametrize("direct", BOTH_WAYS["params"], ids=BOTH_WAYS["ids"])
def test_a_preflight_needs_no_key_and_a_refusal_may_be_read(direct: bool, tmp_path: Path) -> None:
    """Browsers send no key with it; a page learns that it has none, or too many requests."""
    file, made = tmp_path / "keys.json", make_key("anna", rate=0.001)
    add_key(file, made.stored)
    entrance = Entrance(cors_origins=(GOOD,), keys_file=str(file))
    with (
        serving(FakeGateway(), direct=direct, entrance=entrance) as url,
        httpx.Client(base_url=url, trust_env=False, headers={"Origin": GOOD}) as client,
    ):
        asked = {"Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization"
        reply = client.options(PREDICT, headers=asked)
        assert reply.status_code == 204
        assert reply.headers["access-control-allow-headers"] == "authorization"
        key = {"Authorization": f"Bearer {made.text}"}
        replies = [client.post(PREDICT, json=BODY, headers=each) for each in ({}, key, key)]
        assert [each.status_code for each in replies] == [401, 200, 429]
        assert {each.headers["access-control-allow-origin"] for each in replies} == {GOOD}
