"""`tfrunner serve --reload`: changed modules are served, broken ones are not, nobody is lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from tests.api_world import FakeGateway, serving
from tests.waiting import LIMIT, wait_for
from tfrunner.cli.reload import PATTERNS, counts
from tfrunner.config import RunFile
from tfrunner.supervisor.listener import listen_locally

SERVICE = """
from tfrunner import Service
from tfrunner.io import JSON
import beside

svc = Service(name="shop")

@svc.api(JSON(), JSON())
async def which(value):
    return beside.NAME
"""
WITH_MODEL = """
import numpy as np
from tfrunner import Runnable, Runner, Service
from tfrunner.io import JSON

class Adds(Runnable):
    SUPPORTED_RESOURCES = ("cpu",)

    @Runnable.method(batchable=True)
    def predict(self, rows):
        return rows + NUMBER

runner = Runner(Adds, name="adds")
svc = Service(name="shop", runners=[runner])

@svc.api(JSON(), JSON())
async def which(value):
    return float((await runner.predict.async_run(np.zeros((1, 1))))[0, 0])
"""


class Server:
    """A running `tfrunner serve --reload` of a file in a folder."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, log: Path) -> None:
        assert process.stdout is not None
        self.process, self.folder, self.log = process, folder, log
        self.url = self.ready().http

    def ready(self) -> RunFile:
        """Wait until the server says that it is ready, in either form; return what it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.startswith("{"):
            return msgspec.json.decode(line, type=RunFile)
        said = re.match(r"serving (.*) at (\S+) ", line)
        assert said is not None, line
        while line != "Ctrl-C stops.\n":
            line = self.process.stdout.readline()
            assert line
        return RunFile(self.process.pid, said[2], (), tuple(said[1].split(", ")))

    def write(self, **modules: str) -> None:
        """Write modules as editors do: whole, or not at all."""
        for name, text in modules.items():
            (self.folder / f"{name}.new").write_text(text)
            (self.folder / f"{name}.new").replace(self.folder / f"{name}.py")

    def says(self, text: str) -> bool:
        """Return whether a line of the log has the text."""
        return text in self.log.read_text()

    def child(self, word: str) -> int:
        """Return the pid of a child by a word of its command line."""
        for each in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if word in each.cmdline():
                    return each.pid
        return 0


@contextlib.contextmanager
def reloading(folder: Path, *, as_json: bool = True, **modules: str) -> Iterator[Server]:
    """Serve `shop.py:svc` of a folder until the end of the block."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    arguments = ["serve", "shop.py:svc", "--reload", "--port", "0", *["--json"][:as_json]]
    command = [sys.executable, "-m", "tfrunner.testing", str(os.getpid()), *arguments]
    log = folder / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
        )
    try:
        yield Server(process, folder, log)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Callers:
    """Threads that ask again and again: on one connection each, or on a new one each time."""

    def __init__(self, url: str) -> None:
        self.answers: list[Any] = []
        self.failures: list[str] = []
        self._url = f"{url}/which"
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(kept,)) for kept in (1, 0)]

    def __enter__(self) -> Callers:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for each in self._threads:
            each.join()

    def _call(self, kept: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=kept)
        with httpx.Client(trust_env=False, timeout=LIMIT, limits=limits) as client:
            while not self._end.is_set():
                try:
                    reply = client.post(self._url, json=0)
                    reply.raise_for_status()
                    self.answers.append(reply.json())
                except httpx.HTTPError as exc:
                    self.failures.append(repr(exc))

    def see(self, answer: Any) -> None:
        """Wait until three answers in a row are this one; no request may fail until then."""
        wait_for(lambda: self.failures or self.answers[-3:] == [answer] * 3)
        assert self.failures == []


def test_a_change_is_served_and_no_request_is_lost(tmp_path: Path, run_root: Path) -> None:
    """Of the module or of one beside it; dispatcher and supervisor go on."""
    first = {"shop": SERVICE, "beside": "NAME = 'one'"}
    with reloading(tmp_path, **first) as server, Callers(server.url) as callers:
        callers.see("one")
        dispatcher = server.child("tfrunner.dispatcher")
        server.write(beside="NAME = 'two'")
        callers.see("two")
        server.write(shop=SERVICE.replace("beside.NAME", "beside.NAME + '!'"))
        callers.see("two!")
        assert server.child("tfrunner.dispatcher") == dispatcher
        assert callers.failures == []
        server.process.send_signal(signal.SIGTERM)
        callers._end.set()
        assert server.process.wait(LIMIT) == 0


def test_a_module_that_does_not_import_changes_nothing(tmp_path: Path, run_root: Path) -> None:
    """One line says why; once it is mended, it is served."""
    first = {"shop": SERVICE, "beside": "NAME = 'one'"}
    with reloading(tmp_path, **first) as server, Callers(server.url) as callers:
        callers.see("one")
        server.write(beside="NAME = missing")
        wait_for(lambda: server.says("goes on as before"))
        (line,) = [each for each in server.log.read_text().splitlines() if "goes on as" in each]
        assert "beside.py" in line and "name 'missing' is not defined" in line
        callers.see("one")
        server.write(beside="NAME = 'mended'")
        callers.see("mended")
        assert callers.failures == []


def test_a_change_of_what_workers_run_starts_them_anew(tmp_path: Path, run_root: Path) -> None:
    """The whole server begins again behind the same socket, and requests wait for it."""
    with (
        reloading(tmp_path, shop="NUMBER = 1\n" + WITH_MODEL) as server,
        Callers(server.url) as callers,
    ):
        callers.see(1.0)
        worker = server.child("tfrunner_workers")
        server.write(shop="NUMBER = 2\n" + WITH_MODEL)
        assert server.ready().http == server.url
        callers.see(2.0)
        assert server.child("tfrunner_workers") not in (0, worker)
        assert callers.failures == []


def test_every_kind_of_change_after_every_other(tmp_path: Path, run_root: Path) -> None:
    """Of the api processes alone, of a model's name too, and of the api processes again."""
    text = "import beside\n" + WITH_MODEL.replace("NUMBER", "1").replace(
        "[0, 0]", "[0, 0] + beside.N"
    )
    first = {"shop": text, "beside": "N = 10"}
    with reloading(tmp_path, as_json=False, **first) as server, Callers(server.url) as callers:
        callers.see(11.0)
        server.write(beside="N = 20")
        callers.see(21.0)
        server.write(shop=text.replace('name="adds"', 'name="more"'))
        assert server.ready().models[0].startswith("more:")
        server.write(beside="N = 30")
        callers.see(31.0)
        assert callers.failures == []


def test_a_signal_ends_a_server_that_begins_anew_too(tmp_path: Path, run_root: Path) -> None:
    """Between its two lives, or in the second one."""
    with reloading(tmp_path, shop="NUMBER = 1\n" + WITH_MODEL) as server:
        server.write(shop="NUMBER = 2\n" + WITH_MODEL)
        wait_for(lambda: server.says("draining"))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0


def test_without_a_service_there_is_nothing_to_watch(run_root: Path) -> None:
    """Saved models never change."""
    command = [sys.executable, "-m", "tfrunner", "serve", "--echo", "--reload", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 1
    assert "--reload watches the modules of Services; none is served" in done.stderr


@pytest.mark.parametrize(
    ("name", "is_counted"),
    [("shop.py", True), ("shop.pyc", False), (".shop.py.swp", False), ("a.yaml", True)],
)
def test_files_count_by_their_names(name: str, is_counted: bool) -> None:
    """Python's, and what --reload-include names."""
    assert counts(f"/some/where/{name}", (*PATTERNS, "*.yaml")) is is_counted


# --- the sockets of new api processes -----------------------------------------------------------


def test_a_name_that_comes_again_has_a_new_socket(run_root: Path) -> None:
    """The numbers of api processes begin anew with each life of a server."""
    path = run_root / "api-1"
    with listen_locally(path), listen_locally(path) as second:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        second.accept()[0].close()


def test_the_end_of_one_api_process_leaves_the_common_socket(run_root: Path) -> None:
    """The next one is asked at the same path."""
    path = run_root / "api"
    with listen_locally(path) as ours:
        for _ in range(2):
            with serving(FakeGateway(), local=ours.dup()):
                transport = httpx.HTTPTransport(uds=str(path))
                with httpx.Client(transport=transport, trust_env=False) as client:
                    assert client.get("http://localhost/livez").status_code == 200
