"""How long each way to execute a model takes, per call: the table in docs/performance.md.

    python benchmarks/plans.py --rows 1 8 --rounds 200

Every model is saved, loaded and run in one process; ways are run in turn, so that noise hits
all alike, and the medians are printed, in microseconds. A way that cannot run a model shows why.
On a machine that does other things too, `--quantile 0.1` comes nearer to what a way costs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[Any]
Call = Callable[[Arrays], Any]


def linear(keras: Any) -> Any:
    """Return 5 -> 1."""
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])


def mlp(keras: Any) -> Any:
    """Return 784 -> 512 -> 512 -> 10."""
    layers = [keras.layers.Dense(512, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])


def cnn(keras: Any) -> Any:
    """Return two convolutions over 28 x 28 pixels, then 64 -> 10."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def lookup(keras: Any) -> Any:
    """Return words -> their numbers -> rows of an embedding."""
    words = keras.Input((), dtype="string", name="words")
    numbers = keras.layers.StringLookup(vocabulary=[f"word {i}" for i in range(1000)])(words)
    return keras.Model(words, keras.layers.Embedding(1001, 16)(numbers))


def mobilenet(keras: Any) -> Any:
    """Return MobileNetV2 with random weights."""
    return keras.applications.MobileNetV2(weights=None)


MODELS = {"linear": linear, "mlp": mlp, "cnn": cnn, "lookup": lookup, "mobilenet": mobilenet}


def inputs(model: Any, rows: int) -> Arrays:
    """Return made-up rows."""
    random = np.random.default_rng(rows)
    (leaf,) = model.spec.methods["__call__"].inputs
    if leaf.dtype == "string":
        words = [f"word {i}".encode() for i in random.integers(0, 2000, rows)]
        return [np.array(words, dtype=object)]
    return [random.random((rows, *leaf.shape[1:])).astype(leaf.dtype)]


def calls(keras_model: Any, model: Any, *, threads: int, xla: bool) -> dict[str, Call | str]:
    """Return every way to run `__call__`; for one that cannot be built, why."""
    from tfrunner_workers import ways

    method, tf = model.spec.methods["__call__"], __import__("tensorflow")
    found: dict[str, Call | str] = {}
    if method.inputs[0].dtype != "string":  # predict_on_batch takes no array of bytes
        found["keras predict_on_batch"] = lambda arrays: keras_model.predict_on_batch(arrays[0])
    found["reference (restored function)"] = model.methods["__call__"]
    signature = model.restored.signatures.get("serving_default")
    if signature is not None:
        (key,) = signature.structured_input_signature[1]
        found["signature"] = lambda arrays: signature(**{key: tf.constant(arrays[0])})
    settings = ways.Settings(limit=64, threads=threads, xla=xla)
    for group in ways.find_ways(model, method, settings):
        for name, build in group.items():
            try:
                found[name] = build().run
            except Exception as exc:
                found[name] = why(exc)
    return found


def why(exc: Exception) -> str:
    """Return the beginning of what an error says."""
    lines = [line for line in str(exc).splitlines() if line and "execution error" not in line]
    return (lines or [type(exc).__name__])[0][:40]


def measure(
    found: dict[str, Call | str], arrays: Arrays, *, rounds: int, quantile: float
) -> dict[str, float | str]:
    """Return the microseconds of each way, run in turn, that this share of its runs stay below."""
    taken: dict[str, list[float]] = {}
    failed: dict[str, str] = {name: way for name, way in found.items() if isinstance(way, str)}
    runs = {name: way for name, way in found.items() if not isinstance(way, str)}
    for name, run in list(runs.items()):
        try:
            for _ in range(3):
                run(arrays)
        except Exception as exc:
            failed[name] = why(exc)
            del runs[name]
    until = time.perf_counter() + 30
    for turn in range(rounds):
        if turn > 5 and time.perf_counter() > until:
            break
        for name, run in runs.items():
            started = time.perf_counter()
            run(arrays)
            taken.setdefault(name, []).append(time.perf_counter() - started)
    measured: dict[str, float | str] = {
        name: float(np.quantile(each, quantile)) * 1e6 for name, each in taken.items()
    }
    return {**measured, **failed}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quantile", type=float, default=0.5, help="0.5: the median")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--xla", action="store_true", help="compile too; takes minutes")
    options = parser.parse_args()
    home = tempfile.TemporaryDirectory()
    os.environ["TFRUNNER_HOME"] = home.name
    from tfrunner_workers.devices import import_tensorflow

    import_tensorflow("cpu", options.threads)
    results: dict[str, dict[str, float | str]] = {}
    for name in options.models:
        found, model = prepare(name, threads=options.threads, xla=options.xla)
        for rows in options.rows:
            column = f"{name}, {rows} row{'s' if rows > 1 else ''}"
            results[column] = measure(
                found, inputs(model, rows), rounds=options.rounds, quantile=options.quantile
            )
            print("measured", column, flush=True)
    print_table(results)
    home.cleanup()


def prepare(name: str, *, threads: int, xla: bool) -> tuple[dict[str, Call | str], Any]:
    """Save and load a model; return the ways to run it, and the loaded one."""
    import keras

    import tfrunner
    from tfrunner_workers import savedmodel

    keras_model = MODELS[name](keras)
    batchable = {"__call__": {"batchable": True}}
    saved = tfrunner.tensorflow.save(keras_model, name, signatures=batchable)
    model = savedmodel.load(Path(saved.path), device="/CPU:0")
    return calls(keras_model, model, threads=threads, xla=xla), model


def print_table(results: dict[str, dict[str, float | str]]) -> None:
    """Print a row for each way, a column for each model and size; microseconds."""
    names = list(dict.fromkeys(name for column in results.values() for name in column))
    print("| way | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for name in names:
        cells = [column.get(name, "-") for column in results.values()]
        shown = [cell if isinstance(cell, str) else f"{cell:.0f}" for cell in cells]
        print(f"| {name} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
