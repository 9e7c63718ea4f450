"""A real server for tests: started, waited for, and ended with everything it started.

    from tfrunner.testing import serve

    def test_my_model():
        with serve(my_keras_model) as client:
            assert client.predict("model", inputs).shape == (2, 10)

`python -m tfrunner.testing <pid> ...` is the `tfrunner` command, ending with that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfrunner import config, rundir
from tfrunner.client import Client
from tfrunner.entry import Model
from tfrunner.errors import InvalidInput, NotFound, Unavailable
from tfrunner.processes import die_with_parent
from tfrunner.store import Store
from tfrunner.tags import Tag

__all__ = ["ServedClient", "serve"]

START_SECONDS = 180.0
"""Importing TensorFlow takes 8 s on an idle core; test machines are not idle."""

STOP_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_LINES = 20
SHORT_BYTES = 60
"""Of a folder's path, so that a socket's path below it stays within 107."""


class ServedClient(Client):
    """A client of a server that `serve` started.

    Args:
        address: Where the Python client calls it.
        http_address: Where it answers HTTP, `http://127.0.0.1:<port>`.
        pid: The supervisor's process id.
        log: The file that holds the output of all the server's processes.
    """

    def __init__(self, address: str, *, http_address: str, pid: int, log: Path) -> None:
        super().__init__(address)
        self.http_address = http_address
        self.pid = pid
        self.log = log

    def call(self, endpoint: str, value: Any, *, timeout: float | None = None) -> Any:
        """Send a value to an endpoint of a Service, over HTTP; see `Client.call`."""
        with Client(self.http_address) as http:
            return http.call(endpoint, value, timeout=timeout)


@contextlib.contextmanager
def serve(
    model: Any,
    *models: Any,
    workers: int = 1,
    signatures: Mapping[str, Any] | None = None,
    start_timeout: float = START_SECONDS,
    **options: Any,
) -> Iterator[ServedClient]:
    """Serve models with a server of their own until the `with` block ends.

    Args:
        model: A tag, a saved `Model`, or a tf.Module or Keras model, which is saved into a
            temporary store as "model" ("model_2", "model_3", ... for further ones). Or the
            target of a Service, "service.py:svc".
        models: More of them.
        workers: Worker processes for each model.
        signatures: What `save` takes, for models that are not saved yet.
        start_timeout: Seconds until every model must be ready.
        options: Further options of `tfrunner serve`: `max_batch_size=8` is
            `--max-batch-size=8`; True is an option without a value.

    Returns:
        A client, which knows `address` and `http_address`.

    Raises:
        NotFound: A tag is not in the store.
        Unavailable: The server did not get ready; the message ends with its last log lines.
    """
    with _temporary_folder() as folder:
        home = _Home(folder / "home", signatures)
        tags = [home.take(each) for each in (model, *models)]
        flags = _flags({"port": 0, "workers": workers, **options})
        environment = config.child_environment(
            TFRUNNER_RUN_DIR=str(folder / "run"),
            TFRUNNER_HOME=str(home.path),
            PYTHONUNBUFFERED="1",
        )
        # The kernel counts the *thread* that starts a child as its parent.
        is_main = threading.current_thread() is threading.main_thread()
        parent = os.getpid() if is_main else 0
        command = [sys.executable, "-m", "tfrunner.testing", str(parent), "serve", *tags, *flags]
        with (
            _process(command, environment, folder / "log") as process,
            _wait_ready(process, folder, start_timeout) as client,
        ):
            yield client


class _Home:
    """The store that the server reads: the caller's own, or a temporary one.

    A temporary one is made with the first model that is not in the caller's store.
    """

    def __init__(self, folder: Path, signatures: Mapping[str, Any] | None) -> None:
        self._folder = folder
        self._signatures = signatures
        self._taken: list[Model] = []
        self._made = 0
        self.path = config.home()

    def take(self, model: Any) -> str:
        """Return the tag under which the server finds a model."""
        if isinstance(model, str) and model.startswith("-"):
            raise NotFound(f"{model!r} is no tag of a model.")
        if isinstance(model, (str, Tag)):
            # The server knows Services too, and says more.
            with contextlib.suppress(NotFound, InvalidInput):
                model = Store(config.home()).get(model)
        if isinstance(model, (str, Tag)):
            return str(model)
        if not isinstance(model, Model):
            model = self._save(model)
        self._taken.append(model)
        if model.path.parents[2] != self.path:
            self._move()
        return str(model.tag)

    def _save(self, model: Any) -> Model:
        """Save a model of TensorFlow or Keras into the temporary store."""
        from tfrunner.tensorflow import save

        self._made += 1
        name = "model" if self._made == 1 else f"model_{self._made}"
        return save(model, name, signatures=self._signatures, home=self._folder)

    def _move(self) -> None:
        """Let the server read the temporary store, and have all models there."""
        self.path = self._folder
        for model in self._taken:
            place = self._folder / "models" / model.info.name / model.info.version
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(model.path, target_is_directory=True)


def _flags(options: Mapping[str, Any]) -> list[str]:
    """Return options of the command line from Python's form."""
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags.append(f"{flag}={value}")
    return flags


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder with a path that is short enough for sockets; remove it at the end."""
    is_short = len(os.fsencode(tempfile.gettempdir())) <= SHORT_BYTES
    with tempfile.TemporaryDirectory(
        prefix="tfrunner-test-", dir=None if is_short else "/tmp", ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


@contextlib.contextmanager
def _process(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server; ask it to end, wait, and kill it if it does not."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # its children end with it
            process.wait()


@contextlib.contextmanager
def _wait_ready(
    process: subprocess.Popen[bytes], folder: Path, timeout: float
) -> Iterator[ServedClient]:
    """Wait until the server answers for every model; give a client of it."""
    deadline = time.monotonic() + timeout
    server = _wait_published(process, folder, deadline)
    client = ServedClient(
        server.frontend[0], http_address=server.http, pid=process.pid, log=folder / "log"
    )
    with client:
        while not client.is_ready(timeout=2.0):
            _check_alive(process, folder, deadline)
        yield client


def _wait_published(
    process: subprocess.Popen[bytes], folder: Path, deadline: float
) -> config.RunFile:
    while not (servers := rundir.running_servers(folder / "run")):
        _check_alive(process, folder, deadline)
    return servers[0]


def _check_alive(process: subprocess.Popen[bytes], folder: Path, deadline: float) -> None:
    """Wait a moment for the process to end; raise if it does, or if time is over."""
    try:
        code = process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        if time.monotonic() < deadline:
            return
        what = "was not ready in time"
    else:
        what = f"ended with exit code {code}"
    lines = (folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:]
    raise Unavailable("\n".join([f"the server {what}. Its last words:", *lines]))


def _main() -> None:
    """Be the `tfrunner` command; called in the server's first process."""
    die_with_parent(int(sys.argv[1]), by=signal.SIGTERM)
    from tfrunner.cli import main

    main(sys.argv[2:])


if __name__ == "__main__":
    _main()
