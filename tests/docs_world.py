"""Where the blocks of a page run: a folder, a store, a Python session, and at most one server.

`open_world` makes one for a page and ends everything that the page started; `World.perform`
runs a block, and raises AssertionError with its place if it is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import tfrunner
from tests import docs_data
from tests.docs_blocks import ROOT, Block
from tests.docs_shell import commands, compare, exchanges
from tests.docs_stock import STOCK
from tests.waiting import wait_for
from tfrunner.config import child_environment
from tfrunner.rundir import running_servers

COMMAND_SECONDS = 150.0
READY_SECONDS = 180.0
STOP_SECONDS = 60.0

SERVE = re.compile(r"(\w+=\S+ +)*tfrunner (serve|demo)\b(?!.*--(help|dry-run|check-only))")
PORT = re.compile(r"((?:127\.0\.0\.1|localhost):|--port[ =]|\bport ?= ?)(\d{4,5})\b")


class World:
    """Where a page's blocks run.

    Args:
        folder: Holds its working folder, its store, and its server's log.
        run_root: Its TFRUNNER_RUN_DIR, with a short path.
        stock: The store with the models of docs_stock.py.
        blocks: The page's.
    """

    def __init__(self, folder: Path, run_root: Path, stock: Path, blocks: Sequence[Block]) -> None:
        self._folder = folder / "work"
        self._home = folder / "home"
        self._log = folder / "server.log"
        self._run_root = run_root
        self._stock = stock
        self._blocks = blocks
        self._python: subprocess.Popen[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, str] = {}
        self._printed = ""
        bin_folder = str(Path(sys.executable).parent)
        self._environment = child_environment(
            TFRUNNER_HOME=str(self._home),
            TFRUNNER_RUN_DIR=str(run_root),
            TF_CPP_MIN_LOG_LEVEL="3",
            PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            PYTHONUNBUFFERED="1",
            COLUMNS="100",
        )

    def perform(self, block: Block) -> None:
        """Run a block, or compare it with what the one before it printed.

        Raises:
            AssertionError: It is broken; the message begins with its place.
        """
        if block.not_run:
            return
        block = block._replace(text=PORT.sub(self._port, block.text))
        try:
            if block.answers:
                compare(self._printed, block.text)
            elif block.file:
                self._write(block)
            else:
                self._perform(block)
        except AssertionError as exc:
            raise AssertionError(f"{block.place}: {exc}") from exc

    def _perform(self, block: Block) -> None:
        match block.language:
            case "has":
                for name in block.text.split():
                    shutil.copytree(self._stock / "models" / name, self._home / "models" / name)
            case "python" | "pycon":
                self._ask(block.language, block.text, block)
            case "bash" | "run":
                self._printed = self._run(block.text)
            case "console":
                for command, answer in exchanges(block.text):
                    compare(self._run(command), answer)
            case "text":
                pass
            case data:
                docs_data.check(data, block.text, self._folder)

    # --- files ------------------------------------------------------------------------------

    def _write(self, block: Block) -> None:
        """Write a file; one of Python is imported unless another block of the page uses it."""
        (self._folder / block.file).write_text(block.text)
        if block.language != "python":
            docs_data.check(block.language, block.text, self._folder, name=block.file)
            return
        module = block.file.removesuffix(".py")
        uses = re.compile(
            rf"{re.escape(block.file)}|\b{module}:\w|import {module}\b|from {module}\b"
        )
        others = [each.text for each in self._blocks if each.text != block.text]
        if not any(uses.search(text.partition("\n")[2] or text) for text in others):
            self._ask("file", module, block)

    # --- Python -------------------------------------------------------------------------------

    def _ask(self, kind: str, text: str, block: Block) -> None:
        """Run something in the page's Python."""
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "docs_python.py")],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        asked = {"kind": kind, "text": text, "line": block.line, "path": str(ROOT / block.page)}
        to, answers = _pipes(self._python)
        print(json.dumps(asked), file=to, flush=True)
        line = answers.readline()
        assert line, "the page's Python ended"
        answer = json.loads(line)
        assert not answer["error"], answer["error"]
        self._printed = answer["printed"]

    # --- commands ---------------------------------------------------------------------------

    def _run(self, text: str) -> str:
        """Run commands, servers in the background; return what the others print."""
        printed, others = "", ""
        for command in commands(text):
            if SERVE.match(command):
                printed, others = printed + self._shell(others), ""
                self._serve(command)
            else:
                others += command + "\n"
        return printed + self._shell(others)

    def _shell(self, text: str) -> str:
        if not text.strip():
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, (
            f"exit code {done.returncode} of\n{text}\n{done.stdout}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def _serve(self, command: str) -> None:
        """Start a server instead of the one that runs; wait until all of it is ready."""
        self._stop()
        command = command.partition(" #")[0].strip().removesuffix("&")
        if "--port" not in command and not self._has_port_in_file(command):
            command += f" --port={self._free_port('8000')}"
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec env {command}"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_ready, limit=READY_SECONDS)

    def _has_port_in_file(self, command: str) -> bool:
        """Return whether a configuration file of the page says which port."""
        named = re.findall(r"[\w./-]+\.toml", command)
        return any("port" in (self._folder / name).read_text() for name in named)

    def _is_ready(self) -> bool:
        assert self._server is not None
        ended = self._server.poll()
        log = self._log.read_text(errors="replace")
        assert ended is None, f"the server ended with exit code {ended}:\n{log[-3000:]}"
        for each in running_servers(self._run_root):
            with tfrunner.Client(each.frontend[0]) as client:
                return client.is_ready(timeout=2.0)
        return False

    def _port(self, found: re.Match[str]) -> str:
        return found[1] + self._free_port(found[2])

    def _free_port(self, shown: str) -> str:
        """Return a free port for one that a page shows, always the same."""
        if shown not in self._ports:
            with socket.socket() as one:
                one.bind(("127.0.0.1", 0))
                self._ports[shown] = str(one.getsockname()[1])
        return self._ports[shown]

    # --- the end ----------------------------------------------------------------------------

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def close(self) -> None:
        """End what the page started."""
        python, self._python = self._python, None
        try:
            if python is not None:
                for pipe in _pipes(python):
                    pipe.close()
                python.wait(STOP_SECONDS)  # a page whose Python does not end has forgotten a thread
        except subprocess.TimeoutExpired:
            python.kill()
            raise
        finally:
            self._stop()


@contextlib.contextmanager
def open_world(folder: Path, stock: Path, blocks: Sequence[Block]) -> Iterator[World]:
    """Make the world of a page, and end it."""
    # Short, because the path of a Unix socket has at most 107 characters.
    run_root = Path(tempfile.mkdtemp(prefix="tfr", dir="/tmp"))
    world = World(folder, run_root, stock, blocks)
    (folder / "work").mkdir()
    try:
        yield world
    finally:
        world.close()
        shutil.rmtree(run_root, ignore_errors=True)


def make_stock(home: Path) -> Path:
    """Save the models of docs_stock.py into a store; return it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs_stock"],
        cwd=ROOT,
        env=child_environment(TFRUNNER_HOME=str(home), TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {each.name for each in (home / "models").iterdir()} >= set(STOCK)
    return home


def _pipes(python: subprocess.Popen[Any]) -> tuple[IO[str], IO[str]]:
    assert python.stdin is not None and python.stdout is not None
    return python.stdin, python.stdout
