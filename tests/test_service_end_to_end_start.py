"""How servers of Services start, and what they refuse to start with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.waiting import LIMIT
from tfrunner.errors import Unavailable
from tfrunner.testing import ServedClient, serve

HEAD = "import tfrunner\nfrom tfrunner.io import JSON\nsvc = tfrunner.Service('svc')\n"
ENDPOINT = "@svc.api(JSON(), JSON())\ndef echo(value):\n    return value\n"
START_SECONDS = 120.0


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedClient]:
    """Return a server with a timeout of one second, of a Service for two requests at once."""
    folder = tmp_path_factory.mktemp("limited")
    shutil.copy(Path(__file__).parent / "endpoints_service.py", folder)
    with serve(f"{folder}/endpoints_service.py:limited", timeout=1) as client:
        yield client


def test_the_servers_timeout_holds_for_endpoints(limited: ServedClient) -> None:
    """Those that wait for themselves, and those that wait for a model."""
    for path, expected in [("/wait", "the endpoint 'wait'"), ("/wait_in_model", "within 1 s")]:
        url = limited.http_address + path
        reply = httpx.post(url, json=30.0, timeout=LIMIT, trust_env=False)
        assert reply.status_code == 504
        assert expected in reply.json()["error"]


def test_a_third_request_is_one_too_many(limited: ServedClient) -> None:
    """Of a Service that works on two at once; one of three is refused, whichever."""

    def call(seconds: float) -> httpx.Response:
        url = limited.http_address + "/wait"
        return httpx.post(url, json=seconds, timeout=LIMIT, trust_env=False)

    def is_refused() -> bool:
        with ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(call, [0.8] * 3))
        refused = [each for each in replies if each.status_code == 503]
        assert all("too many requests" in each.json()["error"] for each in refused)
        assert all(each.headers["retry-after"] == "1" for each in refused)
        return len(refused) == 1

    assert any(is_refused() for _ in range(5))


def write(folder: Path, **files: str) -> None:
    """Write modules."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tfrunner serve`, which must end by itself."""
    run = folder / "run"
    return subprocess.run(
        [sys.executable, "-m", "tfrunner", "serve", "--port=0", *arguments],
        cwd=folder,
        env={**os.environ, "TFRUNNER_HOME": str(folder), "TFRUNNER_RUN_DIR": f"/tmp/{run.name}"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (HEAD + ENDPOINT.replace("echo", "other"), "two Services are called 'svc'"),
        (
            (HEAD + ENDPOINT).replace("svc", "two"),
            "the Services 'svc' and 'two' both answer the route '/echo'",
        ),
    ],
    ids=["one name", "one route"],
)
def test_services_that_cannot_be_served_together(
    tmp_path: Path, second: str, expected: str
) -> None:
    """One line, and nothing is started."""
    write(tmp_path, one=HEAD + ENDPOINT, two=second)
    done = start(tmp_path, "one.py", "two.py")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {expected}")
    assert "Traceback" not in done.stderr


def test_a_deployment_that_fails(tmp_path: Path) -> None:
    """Nothing is started; the hook's own traceback and the place are shown."""
    hook = "@svc.on_deployment\ndef fetch():\n    raise OSError('no network')\n"
    write(tmp_path, one=HEAD + ENDPOINT + hook)
    done = start(tmp_path, "one.py")
    assert done.returncode == 1
    assert "the deployment hook fetch failed: OSError: no network" in done.stderr
    assert "one.py, line" in done.stderr


def test_a_start_up_hook_that_fails(tmp_path: Path) -> None:
    """The server ends, and says which hook, why and where."""
    hook = "@svc.on_startup\nasync def load(ctx):\n    raise KeyError('table')\n"
    write(tmp_path, one=HEAD + ENDPOINT + hook)
    with pytest.raises(Unavailable) as caught, serve(f"{tmp_path}/one.py:svc"):
        pass
    text = caught.value.message
    assert "Service 'svc': the start-up hook load failed: KeyError: 'table'" in text
    assert "one.py, line" in text
    assert "ended with exit code" in text


def test_a_start_up_hook_that_fails_and_leaves_a_thread(tmp_path: Path) -> None:
    """The process does not wait for the thread, and the server ends as without it."""
    hook = (
        "@svc.on_startup\ndef load():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n    raise KeyError('table')\n"
    )
    write(tmp_path, one="import threading\n" + HEAD + ENDPOINT + hook)
    done = start(tmp_path, "one.py")
    assert done.returncode == 1
    assert "the start-up hook load failed: KeyError: 'table'" in done.stderr
    assert "1 threads of Services were still running" in done.stderr
    assert "cannot run with its configuration" in done.stderr


def test_several_services_are_served_at_once(tmp_path: Path) -> None:
    """Each with its own endpoints and state; one that imports TensorFlow is warned of.

    A package of that name stands for it here: it takes 55 MB and no seconds.
    """
    count = "    ctx.state['n'] = ctx.state.get('n', 0) + 1\n    return ctx.state['n']\n"
    for name in ("one", "two"):
        text = (HEAD + ENDPOINT.replace("(value)", "(value, ctx)")).replace("svc", name)
        text = text.replace("def echo", f"def count_{name}").replace("    return value\n", count)
        write(tmp_path, **{name: text})
    (tmp_path / "two.py").write_text("import tensorflow\n" + (tmp_path / "two.py").read_text())
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("data = b'x' * (55 * 2**20)\n")
    with serve(f"{tmp_path}/one.py", f"{tmp_path}/two.py") as client:
        for path, expected in [("/count_one", 1), ("/count_one", 2), ("/count_two", 1)]:
            url = client.http_address + path
            assert httpx.post(url, json=0, timeout=LIMIT, trust_env=False).json() == expected
        said = client.log.read_text()
    warnings = [line for line in said.splitlines() if "imports TensorFlow, which" in line]
    assert len(warnings) == 1, said
    (warning,) = warnings
    assert "two.py, line 1, imports TensorFlow, which takes 5" in warning
    assert "to_runner()" in warning
