"""Train a small convolutional network on the handwritten digits that scikit-learn brings along.

`python train.py` saves the model as "digits_cnn", and writes one image that it has not seen,
four.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfrunner

HERE = Path(__file__).parent
SEED = 4


def load() -> tuple[Any, Any, Any, Any]:
    """Return images [n, 8, 8] of bytes to learn from, held-out ones, and the digits of each."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype("uint8")
    learn, held_out, learn_digits, held_out_digits = train_test_split(
        images, digits.target, random_state=SEED
    )
    return learn, held_out, learn_digits, held_out_digits


def make() -> Any:
    """Return the network, which takes pixels as images have them: bytes of 0 to 255."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8), dtype="uint8", name="pixels"),
            layers.Rescaling(1 / 255),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train() -> tuple[Any, float]:
    """Return the trained network, and how many images that it has not seen it reads right."""
    keras.utils.set_random_seed(SEED)
    learn, held_out, learn_digits, digits = load()
    network = make()
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(learn, learn_digits, epochs=12, verbose=0)
    right = network.predict_on_batch(held_out).argmax(axis=1) == digits
    Image.fromarray(held_out[(digits == 4) & right][0]).save(HERE / "four.png")
    return network, float(right.mean())


if __name__ == "__main__":
    network, accuracy = train()
    saved = tfrunner.tensorflow.save(
        network, "digits_cnn", signatures={"__call__": {"batchable": True}}
    )
    print(f"right on {accuracy:.1%} of the images that it has not seen; saved {saved.tag}")
