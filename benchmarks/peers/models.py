"""The models that all servers serve: what they are, and where their files lie.

Every model takes float32 rows of one shape and answers rows of so many numbers. making.py
builds them, once, into a folder each:

    saved_model/   a plain SavedModel, as Keras exports it, for the peers
    home/          tfrunner's store with the same model, saved as a user saves it
    frozen.pb, frozen.json   the graph of the plan that tfrunner chose, for "its plan elsewhere"
    rows.npy, answers.npy    inputs, and what the restored function answers to each
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CHECKED = 16
"""Rows whose answers are known."""


class Model(NamedTuple):
    """One model.

    Args:
        name: Its name.
        shape: Of one row.
        outputs: Numbers in one row of the answer.
        rates: Requests per second of the open loop.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    rates: tuple[int, ...]


MODELS = {
    model.name: model
    for model in (
        Model("linear", (5,), 1, (200, 1000, 4000)),
        Model("mlp", (784,), 10, (200, 1000, 3000)),
        Model("cnn", (28, 28, 1), 10, (100, 400, 1200)),
        Model("mobilenet", (224, 224, 3), 1000, (5, 10, 15)),
    )
}


class Made(NamedTuple):
    """A model with its files.

    Args:
        model: Which.
        folder: Its files.
        rows: Inputs, one request each.
        answers: What each is answered.
    """

    model: Model
    folder: Path
    rows: Any
    answers: Any


def make(model: Model, folder: Path) -> Made:
    """Return a model whose files are there, building them if they are not yet.

    Raises:
        RuntimeError: It cannot be built; says why.
    """
    target = folder / model.name
    if not (target / "answers.npy").exists():
        command = [sys.executable, "-m", "benchmarks.peers.making", model.name, str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{model.name} cannot be built:\n{done.stderr[-2000:]}")
    return Made(model, target, np.load(target / "rows.npy"), np.load(target / "answers.npy"))
