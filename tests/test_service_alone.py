"""A Service without a server of ours: in memory, in another ASGI server, and how it starts."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest
import uvicorn

from tests.api_world import LIMIT
from tests.test_service_context import make
from tests.waiting import wait_for
from tfrunner import Context, Service
from tfrunner.api.hooks import Life, Served
from tfrunner.errors import ConfigError
from tfrunner.io import JSON


def failing() -> Service:
    """Return a Service that cannot start."""
    svc = Service("svc")

    @svc.on_startup
    def load(ctx: Context) -> None:
        raise KeyError("table")

    @svc.api(JSON(), JSON())
    def echo(value: Any) -> Any:
        return value

    return svc


def test_a_service_answers_in_memory() -> None:
    """Through httpx's transport, which tells nobody that it starts: the first request does."""

    async def call() -> None:
        said: list[str] = []
        svc = make(said)
        transport = httpx.ASGITransport(svc.asgi_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            replies = await asyncio.gather(*(client.post("/state", json=1) for _ in range(5)))
            assert sorted(each.json()["count"] for each in replies) == [1, 2, 3, 4, 5]
            assert len(said) == 1
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/docs")).status_code == 200
            assert (await client.get("/openapi.json")).json() == svc.openapi_spec
            missing = await client.post("/nothing", json=1)
            assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
            assert "x-request-id" in missing.headers

    asyncio.run(call())


def test_a_service_that_cannot_start_answers_so() -> None:
    """Where nobody asked it to start before."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(failing().asgi_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            await client.post("/echo", json=1)
            return await client.post("/echo", json=1)

    reply = asyncio.run(call())
    assert (reply.status_code, reply.json()["code"]) == (500, "config_error")
    assert "the start-up hook load failed: KeyError: 'table'" in reply.json()["error"]


def test_a_service_runs_in_a_plain_uvicorn() -> None:
    """Which says when it starts and ends."""
    said: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make(said).asgi_app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/state"
        wait_for(lambda: len(said) == 1)
        assert httpx.post(url, json=1, timeout=LIMIT, trust_env=False).json()["count"] == 1
    finally:
        server.should_exit = True
        thread.join(LIMIT)
        listener.close()
    assert said[1:] == ["ended after ['first', 'second']", "really ended"]


def test_a_runner_that_nobody_initialized() -> None:
    """The answer says what to do."""
    code = (
        "import asyncio, httpx, tfrunner\n"
        "from tests.runnables import Doubler\n"
        "from tfrunner.io import JSON\n"
        "runner = tfrunner.Runner(Doubler, name='doubler')\n"
        "svc = tfrunner.Service('svc', runners=[runner])\n"
        "@svc.api(JSON(), JSON())\n"
        "def run(value): return runner.predict.run(value)\n"
        "@svc.api(JSON(), JSON())\n"
        "async def blocked(value): return runner.predict.run(value)\n"
        "async def main():\n"
        "    transport = httpx.ASGITransport(svc.asgi_app)\n"
        "    async with httpx.AsyncClient(transport=transport, base_url='http://t') as client:\n"
        "        print((await client.post('/run', json=[1])).text)\n"
        "        runner.init_local(quiet=True)\n"
        "        print((await client.post('/run', json=[1])).text)\n"
        "        print((await client.post('/blocked', json=[1])).text)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    without, local, blocked = done.stdout.splitlines()
    assert "is not initialized" in without and "init_local()" in without
    assert '"row":1' in local
    assert "await runner.async_run" in blocked and "state_error" in blocked


def test_a_start_up_hook_that_fails_names_its_place() -> None:
    """One line with the file, for whoever starts the server."""

    async def start() -> None:
        life = Life([Served(failing())])
        for _ in range(2):  # it stays failed
            with pytest.raises(ConfigError, match=r"'svc': the start-up hook load failed: .*line"):
                await life.start()
        assert not life.is_begun

    asyncio.run(start())


def test_a_service_begins_and_ends_once() -> None:
    """Whoever says so, and however often; what never began has nothing to end."""

    async def live() -> list[str]:
        said: list[str] = []
        life = Life([Served(make(said))])
        await life.stop()
        assert said == []
        life = Life([Served(make(said))])
        await asyncio.gather(life.start(), life.start())
        await life.stop()
        await life.stop()
        return said

    ended = ["ended after ['first', 'second']", "really ended"]
    assert asyncio.run(live()) == ["in a thread", *ended]
