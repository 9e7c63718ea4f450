"""Train two models for one Service: "turner" says how an image is turned, "reader" reads digits.

`python train.py` learns from the images that scikit-learn brings along, saves both, and writes one
that it has not seen, turned by a quarter, to seven.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfrunner

SEVEN = Path(__file__).parent / "seven.json"
QUARTERS = 4
"""An image is turned by 0, 1, 2 or 3 quarters, counter-clockwise."""

SEED = 2


def load() -> tuple[Any, Any, Any, Any]:
    """Return images [n, 8, 8] of 0 to 1 to learn from and held-out ones, then the digits."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")
    learn, held_out, learn_digits, held_out_digits = train_test_split(
        images, digits.target, random_state=SEED
    )
    return learn, held_out, learn_digits, held_out_digits


def turn(images: Any, quarters: Any) -> Any:
    """Return each image turned by as many quarters as are given for it."""
    pairs = zip(images, quarters, strict=True)
    return np.stack([np.rot90(image, number) for image, number in pairs])


def turn_any(images: Any) -> tuple[Any, Any]:
    """Return the images, each turned somehow, and by how many quarters."""
    quarters = np.random.default_rng(SEED).integers(0, QUARTERS, len(images))
    return turn(images, quarters), quarters


def make(classes: int) -> Any:
    """Return a network from images to the probabilities of so many classes."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8), name="image"),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def fit(network: Any, images: Any, labels: Any) -> None:
    """Train a network."""
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images, labels, batch_size=32, epochs=10, verbose=0)


def train() -> tuple[Any, Any, str]:
    """Return both models, and how well they read turned images that they have not seen."""
    keras.utils.set_random_seed(SEED)
    learn, held_out, learn_digits, digits = load()
    reader = make(10)
    fit(reader, learn, learn_digits)
    turner = make(QUARTERS)
    every = np.arange(QUARTERS).repeat(len(learn))
    fit(turner, turn(np.concatenate([learn] * QUARTERS), every), every)
    turned, quarters = turn_any(held_out)
    upright = turn(turned, -turner.predict_on_batch(turned).argmax(axis=1))
    alone, chained = (
        reader.predict_on_batch(images).argmax(axis=1) == digits for images in (turned, upright)
    )
    shown = turned[(digits == 7) & (quarters == 1) & chained & ~alone][0]
    SEVEN.write_text(json.dumps(shown.tolist()))
    quality = f"{alone.mean():.0%} as they are, {chained.mean():.0%} chained"
    return turner, reader, f"turned digits read: {quality}"


if __name__ == "__main__":
    *models, quality = train()
    for name, model in zip(("turner", "reader"), models, strict=True):
        saved = tfrunner.tensorflow.save(model, name, signatures={"__call__": {"batchable": True}})
        print(f"saved {saved.tag}")
    print(quality)
