"""Train a ranker: features of a user and of any number of items in, the best k items out.

`python train.py` makes up users who choose from lists of items, learns from what they chose, and
saves the model as "ranker".
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfrunner

USER = ("budget", "likes_sport", "likes_books")
ITEM = ("price", "is_sport", "is_book", "rating")
SHOWN = 10
"""Items in each list that a user has chosen from."""

LISTS = 4000
HELD_OUT = 1000
SEED = 5


def make_up(lists: int, random: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return users [n, 3], items [n, 10, 4] and which item each user chose; all in 0 to 1.

    A user wants what he likes, near his budget, well rated, and is at times in another mood.
    """
    users = random.random((lists, len(USER))).astype("float32")
    items = random.random((lists, SHOWN, len(ITEM))).astype("float32")
    kind = random.integers(0, 2, (lists, SHOWN))
    items[..., 1], items[..., 2] = kind, 1 - kind
    liking = np.einsum("nf,nif->ni", users[:, 1:], items[..., 1:3])
    far = np.abs(items[..., 0] - users[:, :1])
    mood = random.gumbel(scale=0.3, size=far.shape)
    wanted = 2.0 * liking - 3.0 * far + items[..., 3] + mood
    return users, items, wanted.argmax(axis=1)


class Ranker(tf.Module):
    """Scores each item for its user; lists may have any lengths, and share a batch unpadded."""

    def __init__(self) -> None:
        super().__init__(name="ranker")
        self.scorer = keras.Sequential(
            [
                keras.Input((SHOWN, len(USER) + len(ITEM))),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(1),
            ]
        )

    @tf.function(
        input_signature=[
            {
                "user": tf.TensorSpec([None, len(USER)], tf.float32),
                "items": tf.RaggedTensorSpec([None, None, len(ITEM)], tf.float32, ragged_rank=1),
            },
            tf.TensorSpec([], tf.int32, name="k"),
        ]
    )
    def __call__(self, query: Any, k: Any) -> Any:
        """Return positions [n, k] in each list, best first, and scores; -1 where it is shorter."""
        items = query["items"]
        user = tf.repeat(query["user"], items.row_lengths(), axis=0)
        pairs = tf.concat([user, items.values], axis=1)
        scores = items.with_values(self.score(pairs)).to_tensor(default_value=float("-inf"))
        scores = tf.pad(scores, [[0, 0], [0, k]], constant_values=float("-inf"))
        best = tf.math.top_k(scores, k)
        is_there = best.values > float("-inf")
        return {"item": tf.where(is_there, best.indices, -1), "score": best.values}

    def score(self, pairs: Any) -> Any:
        """Return a score for each pair of a user and an item."""
        for layer in self.scorer.layers:
            pairs = layer(pairs)
        return pairs[:, 0]


def train() -> tuple[Ranker, str]:
    """Return a trained ranker, and how good it is on lists that it has not seen."""
    keras.utils.set_random_seed(SEED)
    random = np.random.default_rng(SEED)
    users, items, chosen = make_up(LISTS + HELD_OUT, random)
    pairs = np.concatenate([np.repeat(users[:, None], SHOWN, axis=1), items], axis=2)
    ranker = Ranker()
    learner = keras.Sequential([ranker.scorer, keras.layers.Flatten()])
    learner.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    learner.fit(pairs[:LISTS], chosen[:LISTS], batch_size=64, epochs=15, verbose=0)
    query = {"user": users[LISTS:], "items": tf.RaggedTensor.from_tensor(items[LISTS:])}
    ranked = ranker(query, 3)["item"].numpy()
    rated = items[LISTS:, :, 3].argsort(axis=1)[:, ::-1][:, :3]
    found, by_rating = (
        (each == chosen[LISTS:, None]).any(axis=1).mean() for each in (ranked, rated)
    )
    return ranker, f"{found:.0%} of choices are among the best 3 (by rating alone {by_rating:.0%})"


if __name__ == "__main__":
    model, quality = train()
    saved = tfrunner.tensorflow.save(model, "ranker", signatures={"__call__": {"batchable": True}})
    print(f"{quality}; saved {saved.tag}")
