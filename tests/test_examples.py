"""The examples, as a reader runs them: the commands of their pages, in a copy of their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.docs_blocks import Block, read_blocks
from tests.docs_world import compare
from tfrunner.config import child_environment
from tfrunner.testing import serve

EXAMPLES = Path(__file__).parent.parent / "examples"
WITHOUT_TENSORFLOW = "scikit_learn"
OF_TENSORFLOW = ("chained", "digits", "frozen_graph", "ranker", "tabular", "text_lookup")
SHOWN_ADDRESS = "http://127.0.0.1:8000"
SERVE = "tfrunner serve "
COMMAND_SECONDS = 200


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.tensorflow) for name in OF_TENSORFLOW),
        WITHOUT_TENSORFLOW,
    ],
)
def test_an_example_is_made_served_and_called(tmp_path: Path, home: Path, name: str) -> None:
    """By its page, which shows what is printed; TensorFlow only where it is needed."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = read_blocks(folder / "README.md", f"{name}/README.md")
    (at,) = (number for number, block in enumerate(blocks) if block.text.startswith(SERVE))
    target = blocks[at].text.removeprefix(SERVE).strip()
    assert perform(blocks[:at], folder, SHOWN_ADDRESS)
    with serve(f"{folder}/{target}") as client:
        said = perform(blocks[at + 1 :], folder, client.http_address)
        assert "answers equal those of this process" in said
        assert loads_tensorflow(client.pid) == (name != WITHOUT_TENSORFLOW)


def perform(blocks: list[Block], folder: Path, address: str) -> str:
    """Run the commands, compare what each block prints with the next one; return all of it."""
    printed = [""]
    for block in blocks:
        if block.language == "bash":
            # The page's address is the default of call.py: told here, since the port is another.
            text = block.text.replace("python call.py", f"python call.py {address}")
            printed.append(run(text.replace(SHOWN_ADDRESS, address), folder))
        else:
            assert block.answers, f"{block.place}: it does not follow what prints it"
            compare(printed[-1], block.text)
    return "".join(printed)


def run(text: str, folder: Path) -> str:
    """Run commands in the example's folder, with an empty HOME; return what they printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=child_environment(
            HOME=str(folder.parent),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            TF_CPP_MIN_LOG_LEVEL="3",
        ),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def loads_tensorflow(pid: int) -> bool:
    """Return whether workers of a server have TensorFlow's library in their memory."""
    workers = [
        child for child in psutil.Process(pid).children() if "tfrunner_workers" in child.cmdline()
    ]
    assert workers
    libraries = [[each.path for each in worker.memory_maps()] for worker in workers]
    loaded = {any("libtensorflow" in path for path in paths) for paths in libraries}
    assert len(loaded) == 1
    return loaded.pop()


def test_the_page_of_examples_names_each_of_them() -> None:
    """A new example gets a line, and a case above."""
    page = (EXAMPLES / "README.md").read_text()
    folders = {each.name for each in EXAMPLES.iterdir() if each.is_dir()} - {"__pycache__"}
    assert folders == {*OF_TENSORFLOW, WITHOUT_TENSORFLOW}
    assert all(f"| `{name}` |" in page for name in folders)
