"""API keys: who is let in, who is not, and how much each may use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.responses import PlainTextResponse

from tests.api_world import BOTH_WAYS, ECHO, LIMIT, FakeGateway, serving
from tests.waiting import wait_for
from tfrunner import Client, Service
from tfrunner.api.key_file import add_key, delete_key, make_key
from tfrunner.api.limits import Usage
from tfrunner.caller import CALLER
from tfrunner.casting import cast
from tfrunner.connections import GatewayConnection
from tfrunner.entrance import Entrance
from tfrunner.errors import RateLimited, Unauthorized
from tfrunner.io import JSON

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}


class World:
    """A server that asks for keys."""

    def __init__(self, client: httpx.Client, gateway: FakeGateway, file: Path, key: str) -> None:
        self.client, self.gateway, self.file, self.key = client, gateway, file, key

    def post(self, key: str | None = None, **headers: str) -> httpx.Response:
        """Send a predict request with a key."""
        given = {"X-Api-Key": key, **headers} if key is not None else headers
        return self.client.post(PREDICT, json=BODY, headers=given)

    def add(self, name: str, **limits: float) -> str:
        """Return a new key, once the server knows it."""
        made = make_key(name, **limits)  # type: ignore[arg-type]
        add_key(self.file, made.stored)
        wait_for(lambda: self.client.get("/v1/models", headers={"X-Api-Key": made.text}).is_success)
        return made.text


@pytest.fixture(**BOTH_WAYS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """Serve with one key, of anna."""
    file, gateway, made = tmp_path / "keys.json", FakeGateway(), make_key("anna")
    add_key(file, made.stored)
    entrance = Entrance(keys_file=str(file))
    with (
        serving(gateway, direct=request.param, entrance=entrance) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=LIMIT) as client,
    ):
        yield World(client, gateway, file, made.text)


# --- who is let in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [("Authorization", "Bearer {}"), ("authorization", "bearer  {}"), ("X-Api-Key", "{}")],
    ids=["bearer", "in small letters", "x-api-key"],
)
def test_a_key_lets_in(world: World, header: tuple[str, str]) -> None:
    """On predict routes and all others; its name is whose share of the time is used."""
    headers = {header[0]: header[1].format(world.key), "X-Client": "somebody else"}
    assert world.client.post(PREDICT, json=BODY, headers=headers).status_code == 200
    assert world.client.get("/v1/models", headers=headers).status_code == 200
    assert world.gateway.clients == ["anna"]


@pytest.mark.parametrize(
    "key",
    [
        *("", "secret", "tfr_", "tfr__", "tfr_0123456789ab_x", "{}x", "{:.40}"),
        "Basic {}",
    ],
    ids=["none", "a word", "begin", "no id", "unknown id", "longer", "shorter", "other scheme"],
)
def test_nobody_else_is(world: World, key: str) -> None:
    """401, with what is asked for; no model sees the request."""
    replies = [
        world.post(key.format(world.key)),
        world.client.get("/v1/models", headers={"X-Api-Key": key.format(world.key)}),
        world.client.post("/own/route", headers={"Authorization": key.format(world.key)}),
    ]
    for reply in replies:
        assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == 'Bearer realm="tfrunner"'
        assert reply.headers["x-request-id"] == reply.json()["request_id"]
    assert world.gateway.clients == []


def test_a_body_that_nobody_asked_for_is_dropped_as_it_comes(world: World) -> None:
    """And the connection goes on."""
    big = {"instances": [[1.0, 2.0]] * 50_000}
    for _ in range(3):
        assert world.client.post(PREDICT, json=big).status_code == 401
    assert world.post(world.key).status_code == 200
    assert world.gateway.counted["http_refused", "unauthorized"] == 3


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
def test_health_needs_no_key(world: World, path: str) -> None:
    """Who watches the server has none."""
    for method in ("GET", "HEAD"):
        assert world.client.request(method, path).status_code in (200, 503)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_what_needs_no_key_is_no_way_to_mounted_applications(tmp_path: Path, method: str) -> None:
    """They get what the server's own pages do not answer, and only with a key."""
    file, service, made = tmp_path / "keys.json", Service("s"), make_key("anna")
    add_key(file, made.stored)
    service.mount_asgi_app(PlainTextResponse("the application"))
    entrance = Entrance(keys_file=str(file), metrics_access="open")
    with (
        serving(FakeGateway(), services=[service], entrance=entrance) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=LIMIT) as client,
    ):
        for path in ("/livez", "/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code in (200, 503)
            assert client.request(method, path).status_code == 401
        reply = client.request(method, "/livez", headers={"X-Api-Key": made.text})
        assert reply.text == "the application"


@pytest.mark.parametrize(
    ("access", "without", "with_key"), [("key", 401, 200), ("open", 200, 200), ("off", 404, 404)]
)
def test_metrics_are_shown_to_whom_it_is_said(
    tmp_path: Path, access: str, without: int, with_key: int
) -> None:
    """--metrics-access."""
    file, made = tmp_path / "keys.json", make_key("anna")
    add_key(file, made.stored)
    entrance = Entrance(keys_file=str(file), metrics_access=access)
    with serving(FakeGateway(), entrance=entrance) as url:
        headers = {"X-Api-Key": made.text}
        asked = [httpx.get(f"{url}/metrics", headers=h, trust_env=False) for h in ({}, headers)]
    assert [each.status_code for each in asked] == [without, with_key]


def test_the_file_is_read_again_when_it_changes(world: World) -> None:
    """A new key works, a deleted one does not, and a broken file changes nothing."""
    bert = world.add("bert")
    assert world.post(bert).status_code == 200
    delete_key(world.file, "anna")
    wait_for(lambda: world.post(world.key).status_code == 401, limit=LIMIT)
    world.file.write_text("{")
    wait_for(lambda: world.post(bert).status_code == 200, limit=LIMIT)
    carl = make_key("carl")
    world.file.unlink()
    add_key(world.file, carl.stored)
    wait_for(lambda: world.post(carl.text).status_code == 200, limit=LIMIT)
    assert world.post(bert).status_code == 401


# --- how much each may use ---------------------------------------------------------------------


def test_a_key_has_a_rate(world: World) -> None:
    """429 with Retry-After, and others are not affected."""
    slow = world.add("slow", rate=0.001)
    assert world.post(world.add("other")).status_code == 200
    reply = world.post(slow)  # `add` has used the only one
    assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
    assert int(reply.headers["retry-after"]) > 100
    assert "slow" in reply.json()["error"]
    assert world.post(world.key).status_code == 200


def test_a_key_may_have_so_many_requests_in_flight(world: World) -> None:
    """One that ended, or whose caller went away, makes room."""
    two = world.add("two", in_flight=2)
    body, headers = {**BODY, "signature_name": "hang"}, {"X-Api-Key": two}
    done = threading.Event()

    def hang() -> None:
        with httpx.Client(base_url=world.client.base_url, trust_env=False) as client:
            while not done.is_set():
                try:
                    client.post(PREDICT, json=body, headers=headers, timeout=0.5)
                except httpx.ReadTimeout:
                    return

    with ThreadPoolExecutor(2) as pool:
        hanging = [pool.submit(hang) for _ in range(2)]
        wait_for(lambda: world.gateway.clients.count("two") == 2, limit=LIMIT)
        reply = world.post(two)
        done.set()
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        [each.result() for each in hanging]
    wait_for(lambda: world.post(two).status_code == 200, limit=LIMIT)
    for method in ("fail", "broken", "full"):
        bad = {**BODY, "signature_name": method}
        for _ in range(3):
            assert world.client.post(PREDICT, json=bad, headers=headers).status_code >= 500
    assert world.client.post(PREDICT, json={"no": 1}, headers=headers).status_code == 400
    assert world.post(two).status_code == 200


def test_the_rate_is_a_bucket_of_a_second() -> None:
    """A burst of a second's requests, then as many as flow in."""
    usage = Usage("u")
    usage.limit(rate=10.0, in_flight=None, processes=1)
    assert _admitted(usage, [0.0] * 12) == 10
    assert _admitted(usage, [0.1, 0.1]) == 1
    assert _admitted(usage, [0.9] * 20) == 8
    assert _admitted(usage, [100.0] * 20) == 10
    with pytest.raises(RateLimited) as refused:
        usage.enter(100.0)
    assert refused.value.retry_after == pytest.approx(0.1)


def test_processes_share_the_limits() -> None:
    """Each grants its part; of what may be in flight, one at least."""
    limits: list[tuple[dict[str, Any], int]] = [
        ({"rate": 10.0, "in_flight": None, "processes": 2}, 5),
        ({"rate": None, "in_flight": 9, "processes": 2}, 4),
        ({"rate": None, "in_flight": 1, "processes": 4}, 1),
    ]
    for limit, expected in limits:
        usage = Usage("u")
        usage.limit(**limit)
        assert _admitted(usage, [0.0] * 12) == expected


def _admitted(usage: Usage, moments: list[float]) -> int:
    """Return how many requests at these moments were let in."""
    count = 0
    for now in moments:
        try:
            usage.enter(now)
        except RateLimited:
            continue
        count += 1
    return count


def test_an_endpoints_calls_count_for_the_key_too(tmp_path: Path) -> None:
    """In the event loop and in threads; each request for its own."""
    file, keys = tmp_path / "keys.json", [make_key("anna"), make_key("bert")]
    for made in keys:
        add_key(file, made.stored)
    service, gateway = Service(name="s"), FakeGateway()
    call = cast(ECHO.methods["__call__"], (np.ones((1, 2), "float32"),), {})

    @service.api(JSON(), JSON())
    async def direct(value: Any) -> Any:
        connection = GatewayConnection(gateway, ECHO)  # type: ignore[arg-type]
        await connection.async_run(ECHO.methods["__call__"], call, 1.0)
        return CALLER.get()

    @service.api(JSON(), JSON())
    def threaded(value: Any) -> Any:
        return CALLER.get()

    with serving(gateway, services=[service], entrance=Entrance(keys_file=str(file))) as url:
        for route in ("direct", "threaded"):
            answers = [
                httpx.post(
                    f"{url}/{route}", json=1, headers={"X-Api-Key": each.text}, trust_env=False
                ).json()
                for each in keys
            ]
            assert answers == ["anna", "bert"]
    assert gateway.clients == ["anna", "bert"]


def test_our_client_sends_the_key_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And raises what it means that it has none, or a wrong one."""
    file, made = tmp_path / "keys.json", make_key("anna")
    add_key(file, made.stored)
    with serving(FakeGateway(), entrance=Entrance(keys_file=str(file))) as url:
        for key in ("", "wrong"):
            monkeypatch.setenv("TFRUNNER_API_KEY", key)
            with Client(url) as client, pytest.raises(Unauthorized, match="API key"):
                client.predict("m", [[1.0, 2.0]])
        monkeypatch.setenv("TFRUNNER_API_KEY", made.text)
        with Client(url) as client:
            assert client.predict("m", [[1.0, 2.0]]).tolist() == [[1.0, 2.0]]
