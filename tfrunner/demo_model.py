"""The demo's model: `python -m tfrunner.demo_model <file>` trains it once, and writes what it says.

A process of its own, so that TensorFlow's memory is free again when it ends. The file is an
`.npz` with the held-out images (`images`, float32 [n, 8, 8, 1], 0 to 1), the digits on them
(`labels`, int64 [n]), and the model's answers in this process (`answers`, float32 [n, 10]).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from tfrunner import config, tensorflow
from tfrunner.entry import Model
from tfrunner.errors import ConfigError, NotFound
from tfrunner.framework import import_tensorflow, without_chatter
from tfrunner.store import Store
from tfrunner.tensors import Array

NAME = "digits"
LABELS = {"made_by": "tfrunner demo"}
EPOCHS = 12
HELD_OUT = 0.25
SEED = 7


def find_model(store: Store) -> Model | None:
    """Return the demo's own model if it was trained before."""
    try:
        return next((each for each in store.list(NAME) if each.labels == LABELS), None)
    except NotFound:
        return None


def load_digits() -> tuple[Array, Array, Array, Array]:
    """Return images to learn from and held-out images, then the digits of each.

    Raises:
        ConfigError: scikit-learn, which brings the images along, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as exc:
        raise ConfigError("the demo needs scikit-learn: pip install 'tfrunner[demo]'") from exc
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels)
    learn, held_out, learn_labels, held_out_labels = parts
    return learn, held_out, learn_labels, held_out_labels


def train(images: Array, labels: Array) -> Model:
    """Train a small convolutional network, and save it; a few seconds."""
    import keras

    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, activation="relu", padding="same"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    report = keras.callbacks.LambdaCallback(on_epoch_end=_report)
    model.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0, callbacks=[report])
    saved: Model = tensorflow.save(
        model,
        NAME,
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        labels=LABELS,
        metadata={"data": "scikit-learn's handwritten digits, pixels divided by 16"},
        example=images[:1],
    )
    return saved


def _report(epoch: int, logs: dict[str, Any]) -> None:
    click.echo(
        f"  epoch {epoch + 1} of {EPOCHS}: {logs['accuracy']:.1%} of the training images right",
        err=True,
    )


def main(file: Path) -> None:
    """Train if that is still to do; write the held-out images and the model's answers."""
    learn, held_out, learn_labels, labels = load_digits()
    click.echo("importing TensorFlow ...", err=True)
    with without_chatter():
        import_tensorflow()
    model = find_model(Store(config.home()))
    if model is None:
        click.echo(f"training on {len(learn)} handwritten digits (once):", err=True)
        model = train(learn, learn_labels)
    called = tensorflow.load_model(model)
    answers = np.asarray(called(held_out))
    np.savez(file, images=held_out, labels=labels, answers=answers, tag=np.array(str(model.tag)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
