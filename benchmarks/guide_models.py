"""What the performance guide's measurements run: trained models, and how a worker would run them.

The MLP and the CNN of plans.py, trained on scikit-learn's handwritten digits, which are scaled up
to 28 x 28 pixels. A quarter of the images is held out; accuracy is measured on those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.plans import cnn, mlp
from tfrunner.entry import SAVED_MODEL

LIMIT = 64
"""Most rows in one batch, as the server has it."""

SEED = 1
EPOCHS = {"MLP": 15, "CNN": 10}
NETWORKS: Mapping[str, Callable[[Any], Any]] = {"MLP": mlp, "CNN": cnn}

Run = Callable[[Any], Any]
"""From rows to what the network gives for them."""


class Digits(NamedTuple):
    """Images [n, 28, 28, 1] of 0 to 1, and the digits on them.

    Attributes:
        learn: Images to learn from.
        labels: Their digits.
        held_out: Images that no model has learned from.
        held_out_labels: Their digits.
    """

    learn: Any
    labels: Any
    held_out: Any
    held_out_labels: Any


class Loaded(NamedTuple):
    """A saved model as a worker runs it.

    Attributes:
        run: In its fastest plan.
        reference: As TensorFlow restores it.
        plan: Name of that plan.
        path: Folder of its SavedModel.
    """

    run: Run
    reference: Run
    plan: str
    path: Path


@functools.cache
def digits() -> Digits:
    """Return the images; scikit-learn brings them along."""
    import tensorflow as tf
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    small = (loaded.images[..., np.newaxis] / 16).astype("float32")
    images = tf.image.resize(small, (28, 28)).numpy()
    parts = train_test_split(images, loaded.target, random_state=SEED, stratify=loaded.target)
    learn, held_out, labels, held_out_labels = parts
    return Digits(learn, labels, held_out, held_out_labels)


@functools.cache
def trained(name: str) -> Any:
    """Return a network of that name, trained."""
    import keras

    keras.utils.set_random_seed(SEED)
    network = NETWORKS[name](keras)
    fit(network, digits().learn, digits().labels, epochs=EPOCHS[name])
    return network


def fit(network: Any, images: Any, labels: Any, *, epochs: int) -> None:
    """Train a network to say which digit is on an image."""
    import keras

    gives_logits = network.layers[-1].activation is keras.activations.linear
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits)
    network.compile("adam", loss)
    network.fit(rows_for(network, images), labels, batch_size=32, epochs=epochs, verbose=0)


def rows_for(network: Any, images: Any) -> Any:
    """Return images in the shape that a network takes."""
    return images.reshape(len(images), *network.input_shape[1:])


def with_policy(name: str, policy: str) -> Any:
    """Return the trained network of that name, computing in the dtypes of a Keras policy."""
    import keras

    keras.config.set_dtype_policy(policy)
    try:
        network = NETWORKS[name](keras)
    finally:
        keras.config.set_dtype_policy("float32")
    network.set_weights(trained(name).get_weights())
    return network


def load(network: Any, name: str, *, threads: int, xla: bool = False) -> Loaded:
    """Save a network, load it, and choose its plan as a worker would."""
    import tfrunner
    from tfrunner_workers import plans, savedmodel, ways

    saved = tfrunner.tensorflow.save(network, name, signatures={"__call__": {"batchable": True}})
    model = savedmodel.load(Path(saved.path), device="/CPU:0")
    reference = model.methods["__call__"]
    settings = ways.Settings(limit=LIMIT, threads=threads, xla=xla)
    (record,) = plans.choose_all(model, settings)
    chosen = model.methods["__call__"]
    return Loaded(
        run=lambda rows: chosen([rows]).arrays[0],
        reference=lambda rows: reference([rows]).arrays[0],
        plan=record.plan,
        path=Path(saved.path) / SAVED_MODEL,
    )


def accuracy(run: Run, rows: Any) -> float:
    """Return the share of the held-out images that are read right, run 64 at a time."""
    parts = [rows[start : start + LIMIT] for start in range(0, len(rows), LIMIT)]
    answers = np.concatenate([np.asarray(run(part)).argmax(axis=1) for part in parts])
    return float((answers == digits().held_out_labels).mean())


def kilobytes(path: Path) -> float:
    """Return what a file or a folder takes on disk."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e3
