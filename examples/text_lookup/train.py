"""Train a classifier of messages whose graph holds the table of its words.

`python train.py` learns from messages.csv and saves the model as "topics": text in, topic out.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfrunner

MESSAGES = Path(__file__).parent / "messages.csv"
HELD_OUT = 4
"""Every fourth message is held out."""

EPOCHS = 150
SEED = 3


class Topics(tf.Module):
    """From text to the most probable topic, all in the graph: callers know no word numbers."""

    def __init__(self, words: list[str], topics: list[str]) -> None:
        super().__init__(name="topics")
        self.lookup = keras.layers.StringLookup(vocabulary=words)  # from 1; 0: any other word
        self.numbers = len(words) + 1
        self.classifier = keras.Sequential(
            [
                keras.Input((self.numbers,)),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(len(topics), activation="softmax", kernel_regularizer="l2"),
            ]
        )
        self.topics = tf.constant(topics)

    def count(self, text: Any) -> Any:
        """Return how often each word is in each text, float32 [n, numbers]."""
        words = tf.one_hot(self.lookup(split(text)), self.numbers)  # ragged: [n, (words), numbers]
        return tf.reduce_sum(words, axis=1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def __call__(self, text: Any) -> Any:
        """Return the topic of each text, and the probability of each topic."""
        probabilities = self.classifier(self.count(text), training=False)
        topic = tf.gather(self.topics, tf.argmax(probabilities, axis=1))
        return {"topic": topic, "probabilities": probabilities}


def split(text: Any) -> Any:
    """Return the words of each text in lower case, as a ragged tensor."""
    letters = tf.strings.regex_replace(tf.strings.lower(text), r"[^a-z0-9]+", " ")
    return tf.strings.split(letters)


def read() -> tuple[Any, Any]:
    """Return the messages and their topics."""
    with MESSAGES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([row["text"] for row in rows]), np.array([row["topic"] for row in rows])


def train() -> tuple[Topics, float]:
    """Return a trained model, and how many of the messages it has not seen it gets right."""
    keras.utils.set_random_seed(SEED)
    texts, topics = read()
    held_out = np.arange(len(texts)) % HELD_OUT == 0
    names = sorted(set(topics))
    counted = Counter(word.decode() for word in split(texts[~held_out]).flat_values.numpy())
    model = Topics([word for word, times in counted.items() if times > 1], names)
    model.classifier.compile("adam", "sparse_categorical_crossentropy")
    labels = np.searchsorted(names, topics)
    counts = model.count(texts).numpy()
    model.classifier.fit(
        counts[~held_out], labels[~held_out], batch_size=8, epochs=EPOCHS, verbose=0
    )
    right = model(texts[held_out])["topic"].numpy() == topics[held_out].astype(bytes)
    return model, float(right.mean())


if __name__ == "__main__":
    model, accuracy = train()
    saved = tfrunner.tensorflow.save(model, "topics", signatures={"__call__": {"batchable": True}})
    print(f"right on {accuracy:.0%} of the messages that it has not seen; saved {saved.tag}")
