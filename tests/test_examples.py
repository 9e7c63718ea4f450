"""The examples, as a reader runs them: make the model, serve it, call it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tfrunner.config import child_environment
from tfrunner.testing import serve

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "script", "needs_tensorflow"),
    [
        pytest.param("frozen_graph", "build.py", True, marks=pytest.mark.tensorflow),
        ("scikit_learn", "train.py", False),
    ],
    ids=["frozen_graph", "scikit_learn"],
)
def test_an_example_is_made_served_and_called(
    tmp_path: Path, name: str, script: str, needs_tensorflow: bool
) -> None:
    """Its client compares the server's answers with its own; TensorFlow only where it is needed."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(folder, script)
    with serve(f"{folder}/service.py:svc") as client:
        said = run(folder, "call.py", client.http_address)
        assert "answers equal those of this process" in said
        workers = [
            child
            for child in psutil.Process(client.pid).children()
            if "tfrunner_workers" in child.cmdline()
        ]
        assert workers
        for worker in workers:
            libraries = [each.path for each in worker.memory_maps()]
            assert any("libtensorflow" in path for path in libraries) == needs_tensorflow


def run(folder: Path, *arguments: str) -> str:
    """Run a script of the example in its folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=child_environment(TF_CPP_MIN_LOG_LEVEL="3"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_page_of_examples_names_each_of_them() -> None:
    """A new example gets a line, and a case above."""
    page = (EXAMPLES / "README.md").read_text()
    folders = {each.name for each in EXAMPLES.iterdir() if each.is_dir()} - {"__pycache__"}
    assert folders == {"frozen_graph", "scikit_learn"}
    assert all(f"`{name}`" in page for name in folders)
