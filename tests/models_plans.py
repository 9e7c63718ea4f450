"""One model with a method for each kind of graph that plans must run. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

NUMBERS = tf.TensorSpec([None, 2], tf.float32, name="x")
WORDS = tf.TensorSpec([None], tf.string, name="words")


class GraphKinds(tf.Module):
    """Variables, three kinds of tables, loops, branches, texts, ragged and nested values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.reshape(tf.range(4.0), [2, 2]))
        keys = tf.constant(["a", "b"])
        initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1, 0]))
        self.fixed = tf.lookup.StaticHashTable(initializer, 1)
        self.learned = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.learned.insert(["some text"], [7])
        self.vectors = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, [0.0, 1.0])
        self.vectors.insert(["a"], [[3.0, 4.0]])

    @tf.function(input_signature=[NUMBERS])
    def matmul(self, x: Any) -> Any:
        """Return x times a variable."""
        return x @ self.weight

    @tf.function(input_signature=[NUMBERS])
    def nested(self, x: Any) -> Any:
        """Return a dict out of the order of its keys, a list, None, and text."""
        return {"z": (x @ self.weight, [x, None]), "a": tf.strings.as_string(x[:, 0])}

    @tf.function(
        input_signature=[
            {
                "right": tf.TensorSpec([None], tf.float32),
                "left": tf.TensorSpec([None], tf.float32),
            },
            tf.TensorSpec([], tf.float32, name="factor"),
        ]
    )
    def combine(self, pair: Any, factor: Any) -> Any:
        """Return left - right times a factor that all rows share."""
        return pair["left"] - pair["right"] * factor * self.weight[1, 1]

    @tf.function(input_signature=[NUMBERS])
    def loop(self, x: Any) -> Any:
        """Return what three rounds make of x."""
        for _ in tf.range(3):
            x = tf.tanh(x @ self.weight)
        return x

    @tf.function(input_signature=[NUMBERS])
    def branch(self, x: Any) -> Any:
        """Return the same by two ways, chosen by the number of rows."""
        many = tf.shape(x)[0] > 2
        return tf.cond(many, lambda: x @ self.weight, lambda: x @ self.weight + 0)

    @tf.function(input_signature=[NUMBERS])
    def each_row(self, x: Any) -> Any:
        """Return x, row by row."""
        return tf.map_fn(lambda row: row * self.weight[1], x)

    @tf.function(input_signature=[WORDS])
    def table(self, words: Any) -> Any:
        """Return a row of a variable for each word."""
        return tf.gather(self.weight, self.fixed.lookup(words))

    @tf.function(input_signature=[WORDS])
    def table_in_branch(self, words: Any) -> Any:
        """Return the number of each word, looked up inside a branch."""
        many = tf.shape(words)[0] > 2
        return tf.cond(many, lambda: self.fixed.lookup(words), lambda: self.fixed.lookup(words) + 0)

    @tf.function(input_signature=[WORDS])
    def mutable_table(self, words: Any) -> Any:
        """Return the number of each word, from a table that could change."""
        return self.learned.lookup(words)

    @tf.function(input_signature=[WORDS])
    def table_of_vectors(self, words: Any) -> Any:
        """Return the vector of each word."""
        return {"vectors": self.vectors.lookup(words)}

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.float32, ragged_rank=1)])
    def ragged(self, x: Any) -> Any:
        """Return rows of other lengths, and their sums."""
        return {"twice": x * 2, "sum": tf.reduce_sum(x, axis=1) * self.weight[1, 1]}

    @tf.function(
        input_signature=[tf.RaggedTensorSpec([None, None, None], tf.string, ragged_rank=2)]
    )
    def ragged_twice(self, x: Any) -> Any:
        """Return texts in upper case, and the lengths of rows."""
        return tf.ragged.map_flat_values(tf.strings.upper, x), x.row_lengths()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int8, name="x"),
            tf.TensorSpec([], tf.uint16, name="k"),
        ]
    )
    def integers(self, x: Any, k: Any) -> Any:
        """Return x + k."""
        return tf.cast(x, tf.int64) + tf.cast(k, tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.bfloat16, name="x")])
    def halves(self, x: Any) -> Any:
        """Return twice x."""
        return x * 2

    @tf.function(input_signature=[tf.TensorSpec([4, 2], tf.float32, name="x")])
    def total(self, x: Any) -> Any:
        """Return one number, of as many rows as it takes."""
        return tf.reduce_sum(x @ self.weight)
