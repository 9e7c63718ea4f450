"""`python -m tfrunner.api`: a real process between an HTTP client and a Router."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np

from tests.gateway_world import LIMIT, FakeDispatcher, block, rows
from tfrunner import protocol as p
from tfrunner.config import ApiConfig, to_argument

SERVICE = """
import pathlib
import sys
import threading
from tfrunner import Service
from tfrunner.io import JSON

svc = Service("asks")

@svc.api(JSON(), JSON())
def block(path):
    pathlib.Path(path).touch()
    threading.Event().wait()

@svc.api(JSON(), JSON())
async def imported(names):
    return [name for name in names if name in sys.modules]
"""


class ApiProcess:
    """A running api process: its address, the process itself, and our copy of its listener."""

    def __init__(self, listener: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.process = process
        self.listener = listener

    def post(self, path: str, document: object) -> asyncio.Task[httpx.Response]:
        """Send a request; return the task that waits for its reply."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(timeout=3 * LIMIT, trust_env=False) as client:
                return await client.post(f"{self.address}{path}", json=document)

        return asyncio.ensure_future(send())

    async def end(self) -> int:
        """Wait for the end of the process; return its status."""
        return await asyncio.wait_for(self.process.wait(), LIMIT)


@asynccontextmanager
async def api_process(
    folder: Path, *, keep_listener: bool = False, **settings: object
) -> AsyncIterator[tuple[ApiProcess, FakeDispatcher]]:
    """Start one, and the dispatcher that it talks to."""
    (folder / "my_asking.py").write_text(SERVICE)
    frontend = f"ipc://{folder}/f"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = ApiConfig(
            name="api",
            frontend=frontend,
            fd=listener.fileno(),
            services=("my_asking:svc",),
            parent=os.getpid(),
            **settings,  # type: ignore[arg-type]
        )
        async with FakeDispatcher(frontend) as dispatcher:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tfrunner.api", to_argument(config)),
                cwd=folder,
                pass_fds=(listener.fileno(),),
            )
            api = ApiProcess(listener, process)
            if not keep_listener:
                listener.close()
            try:
                yield api, dispatcher
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()


def run(story: Callable[[ApiProcess, FakeDispatcher], object], **settings: object) -> None:
    """Run a test's story with an api process."""

    async def main() -> None:
        # Short, because the path of a Unix socket has at most 107 characters.
        with tempfile.TemporaryDirectory(prefix="tfr", dir="/tmp") as folder:
            async with api_process(Path(folder), **settings) as (api, dispatcher):
                await story(api, dispatcher)  # type: ignore[misc]

    asyncio.run(main())


async def answer_next(dispatcher: FakeDispatcher) -> None:
    """Answer the next request with rows 0 and 1."""
    (request,) = (await dispatcher.next(p.Submit)).requests
    spans = [(request.id, 0, request.rows, request.rows)]
    dispatcher.send(p.Results((block(spans, rows(0, request.rows)),)))


def test_a_request_goes_through_and_tensorflow_stays_away() -> None:
    """HTTP in, a Submit out, an answer back; the process never imports TensorFlow."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        reply = api.post("/v1/models/m:predict", {"instances": [[1, 2], [3, 4]]})
        await answer_next(dispatcher)
        assert np.array_equal((await reply).json()["predictions"], rows(0, 2))
        found = await api.post("/imported", ["tensorflow", "keras", "uvloop", "httptools"])
        assert found.json() == ["uvloop", "httptools"]
        api.process.send_signal(signal.SIGTERM)
        assert await api.end() == 0

    run(story)


def test_sigterm_answers_what_is_in_flight_and_exits_with_0() -> None:
    """No new connections are taken; the waiting request gets its answer."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        reply = api.post("/v1/models/m:predict", {"instances": [[1, 2]]})
        (request,) = (await dispatcher.next(p.Submit)).requests
        api.process.send_signal(signal.SIGTERM)
        refused = False
        while not refused:  # until it has stopped to listen
            try:
                await api.post("/imported", [])
            except httpx.TransportError:
                refused = True
        assert api.process.returncode is None
        dispatcher.send(p.Results((block([(request.id, 0, 1, 1)], rows(0, 1)),)))
        assert (await reply).json() == {"predictions": rows(0, 1).tolist()}
        assert await api.end() == 0

    run(story)


def test_a_second_signal_ends_it_at_once() -> None:
    """The waiting request is not waited for, though the grace period is long."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        reply = api.post("/v1/models/m:predict", {"instances": [[1, 2]]})
        await dispatcher.next(p.Submit)
        for number in (signal.SIGTERM, signal.SIGINT):
            api.process.send_signal(number)
        assert await api.end() != 0
        result = (await asyncio.gather(reply, return_exceptions=True))[0]
        assert isinstance(result, httpx.TransportError)

    run(story, grace=1000.0)


def test_the_grace_period_ends() -> None:
    """A request that is never answered does not keep the process."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        reply = api.post("/v1/models/m:predict", {"instances": [[1, 2]]})
        await dispatcher.next(p.Submit)
        api.process.send_signal(signal.SIGTERM)
        assert await api.end() == 0
        await asyncio.gather(reply, return_exceptions=True)

    run(story, grace=1.0)


def test_a_thread_of_a_service_does_not_outlive_the_grace_period(tmp_path: Path) -> None:
    """Nobody can end it; the process ends all the same."""

    async def story(api: ApiProcess, dispatcher: FakeDispatcher) -> None:
        sign = tmp_path / "blocks"
        reply = api.post("/block", str(sign))
        while not sign.exists():
            await asyncio.sleep(0.02)
        api.process.send_signal(signal.SIGTERM)
        assert await api.end() == 0
        await asyncio.gather(reply, return_exceptions=True)

    run(story, grace=0.5)


def test_what_it_cannot_start_with_is_one_line(tmp_path: Path) -> None:
    """An unreadable configuration, or a Service that is not there: status 2."""

    async def story() -> None:
        missing = to_argument(ApiConfig(name="a", frontend="ipc:///x", fd=0, services=("none:x",)))
        for argument in ("nonsense", "{}", missing):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tfrunner.api", argument),
                cwd=tmp_path,
                stderr=asyncio.subprocess.PIPE,
            )
            _, err = await asyncio.wait_for(process.communicate(), LIMIT)
            assert process.returncode == 2
            assert len(err.splitlines()) == 1, err

    asyncio.run(story())
