"""Build one model's files: `python -m benchmarks.peers.making NAME FOLDER`. Imports TensorFlow."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfrunner
from benchmarks.peers.models import CHECKED, MODELS, Model
from tfrunner_workers import freezing, plans, savedmodel, sessions, signatures, ways

BATCHABLE = {"__call__": {"batchable": True, "batch_dim": 0}}
SEED = 7


def build(name: str) -> Any:
    """Return a Keras model with random weights."""
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    match name:
        case "linear":
            return keras.Sequential([layers.Input((5,)), layers.Dense(1)])
        case "mlp":
            return keras.Sequential(
                [
                    layers.Input((784,)),
                    layers.Dense(512, activation="relu"),
                    layers.Dense(512, activation="relu"),
                    layers.Dense(10),
                ]
            )
        case "cnn":
            return keras.Sequential(
                [
                    layers.Input((28, 28, 1)),
                    layers.Conv2D(32, 3, activation="relu"),
                    layers.Conv2D(64, 3, activation="relu"),
                    layers.MaxPooling2D(),
                    layers.Flatten(),
                    layers.Dense(128, activation="relu"),
                    layers.Dense(10),
                ]
            )
        case "mobilenet":
            return keras.applications.MobileNetV2(weights=None)
    raise ValueError(f"there is no model {name!r}; there are: {', '.join(MODELS)}")


def main() -> int:
    """Build everything beside the folder, then move it there."""
    model, target = MODELS[sys.argv[1]], Path(sys.argv[2])
    folder = target.with_name(f".{target.name}.{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        built = build(model.name)
        built.export(str(folder / "saved_model"), verbose=False)
        home = folder / "home"
        saved = tfrunner.tensorflow.save(built, model.name, signatures=BATCHABLE, home=home)
        export_plan(saved.path, folder)
        answer(model, folder)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def export_plan(path: Path, folder: Path) -> None:
    """Write the frozen graph of a saved model, with the executor that tfrunner chooses here.

    Raises:
        RuntimeError: tfrunner chose no frozen plan.
    """
    loaded = savedmodel.load(str(path))
    concrete = signatures.similar_traces(signatures.find(loaded.restored, "__call__"))[0]
    threads = len(os.sched_getaffinity(0))
    (record,) = plans.choose_all(loaded, ways.Settings(64, threads))
    if not record.plan.startswith("frozen"):
        raise RuntimeError(f"tfrunner chose the plan {record.plan!r}: {record.reason}")
    is_single = record.plan.endswith((ways.SINGLE, ways.SPLIT))
    frozen = freezing.freeze(concrete)
    (folder / "frozen.pb").write_bytes(frozen.graph.SerializeToString())
    meta = {
        "inputs": frozen.inputs,
        "outputs": frozen.outputs,
        "executor": sessions.SINGLE_THREADED if is_single else sessions.MULTI_THREADED,
        "plan": record.plan,
        "reason": record.reason,
    }
    (folder / "frozen.json").write_text(json.dumps(meta, indent=1))


def answer(model: Model, folder: Path) -> None:
    """Write rows, rounded to what JSON will carry, and the restored function's answers."""
    draw = np.random.default_rng(SEED).random((CHECKED, *model.shape))
    rows = draw.round(6).astype("float32")
    restored = tf.saved_model.load(str(folder / "saved_model"))
    answers = restored.serve(rows).numpy()
    np.save(folder / "rows.npy", rows)
    np.save(folder / "answers.npy", answers)


if __name__ == "__main__":
    sys.exit(main())
