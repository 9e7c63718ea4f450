"""Services: how they are found in users' modules, and what the supervisor learns of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfrunner.errors import ConfigError
from tfrunner.service_module import load_service

SERVICE = """
import numpy as np
from tfrunner import Service
from tfrunner.io import JSON, JSONSerializable

print("users print things")
svc = Service(name="test_service")

@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    return np.asarray([json_obj])[0]

@svc.api(input=JSON(), output=JSON(), route="/deep/path")
def other(value):
    return value
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_service", "my_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my_service.py").write_text(SERVICE)
    return tmp_path


@pytest.mark.parametrize(
    "target", ["my_service:svc", "my_service", "my_service.py:svc", "./my_service.py"]
)
def test_targets_that_name_a_service(folder: Path, target: str) -> None:
    """A module or a file in the working folder; the attribute may be left out."""
    found = load_service(target)
    assert found.name == "test_service"
    assert list(found.endpoints) == ["predict", "other"]
    sys.modules.pop("my_service")


@pytest.mark.parametrize(
    ("target", "text", "expected"),
    [
        ("my_broken:svc", None, "there is no module 'my_broken'"),
        ("my_broken.py:svc", None, "there is no file 'my_broken.py'"),
        ("my_broken:svc", "import nothing_of_that_name", "line 1"),
        ("my_broken:svc", "x = 1\nsvc = 1 / 0", "ZeroDivisionError: division by zero .*line 2"),
        ("my_broken:svc", "def broken(:", "SyntaxError"),
        ("my_broken:svc", "raise SystemExit(3)", "SystemExit"),
        ("my_broken:svc", "svc = 5", "is no Service"),
        ("my_broken:scv", SERVICE, "Did you mean 'svc'"),
        ("my_broken", "x = 5", "0 Services"),
        ("my_broken", SERVICE + "\nsvc2 = Service('b')", "2 Services"),
    ],
    ids=str,
)
def test_targets_that_name_none(folder: Path, target: str, text: str | None, expected: str) -> None:
    """One line that says what is wrong, and where in the user's code."""
    if text is not None:
        (folder / "my_broken.py").write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_service(target)
    assert "\n" not in caught.value.message
    sys.modules.pop("my_broken", None)


def describe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m tfrunner.api.describe`."""
    return subprocess.run(
        [sys.executable, "-m", "tfrunner.api.describe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_describe_prints_json_only(folder: Path) -> None:
    """What the module prints goes to stderr; a wrong target is one line and status 2."""
    done = describe(folder, "my_service:svc")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "name": "test_service",
        "runners": [],
        "routes": ["/predict", "/deep/path"],
        "has_deployment": False,
        "file": str(folder / "my_service.py"),
    }
    assert "users print things" in done.stderr
    wrong = describe(folder, "my_service:nothing")
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 2  # the print, and the error
    assert wrong.stdout == ""
    assert describe(folder).returncode == 2
