"""Small real models, as users write them. Importing this imports TensorFlow and Keras."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCHABLE = {"__call__": {"batchable": True, "batch_dim": 0}}
X = [[1, 2, 3, 4, 5]]


class NativeModel(tf.Module):
    """The sum of five numbers, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = np.asarray([[1.0], [1.0], [1.0], [1.0], [1.0]], dtype="float64")
        self.dense = lambda inputs: tf.matmul(inputs, self.weights)

    @tf.function(input_signature=[tf.TensorSpec(shape=[None, 5], dtype=tf.float64, name="inputs")])
    def __call__(self, inputs: Any) -> Any:
        """Return one sum for each row."""
        return self.dense(inputs)


class MultiInputModel(tf.Module):
    """Two fixed rows and a factor."""

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape=[1, 5], dtype=tf.float64, name="x1"),
            tf.TensorSpec(shape=[1, 5], dtype=tf.float64, name="x2"),
            tf.TensorSpec(shape=(), dtype=tf.float64, name="factor"),
        ]
    )
    def __call__(self, x1: Any, x2: Any, factor: Any) -> Any:
        """Return the sum of x1 + x2 * factor, as [[sum]]."""
        return tf.reduce_sum(x1 + x2 * factor, axis=1, keepdims=True)


class MultiOutputModel(tf.Module):
    """Twice the input, and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec(shape=[1, 5], dtype=tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        """Return a tuple."""
        return self.factor * x, x


class StructuredModel(tf.Module):
    """Every kind of output, nested inputs, text, and a method that changes a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        """Return a dict that holds a list, a tuple, and a tensor."""
        return {"y": x + 1, "parts": [x, (x * 2, x * 3)], "sum": tf.reduce_sum(x, axis=1)}

    @tf.function(
        input_signature=[
            {"left": tf.TensorSpec([None], tf.int32), "right": tf.TensorSpec([None], tf.int32)},
            tf.TensorSpec([], tf.int32, name="factor"),
        ]
    )
    def combine(self, pair: Any, factor: Any) -> Any:
        """Return left + right * factor."""
        return pair["left"] + pair["right"] * factor

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def upper(self, words: Any) -> Any:
        """Return the words in upper case."""
        return tf.strings.upper(words)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def total(self, x: Any) -> Any:
        """Return one number."""
        return tf.reduce_sum(x)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def nothing(self, x: Any) -> Any:
        """Return no tensor beside one."""
        return x, None

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="step")])
    def advance(self, step: Any) -> Any:
        """Add to a variable and return it; must not be run twice."""
        if step > 0:
            self.count.assign_add(step)
        return self.count.read_value()


class PolymorphicModel(tf.Module):
    """No signature: traced by being called with one row and with three."""

    def __init__(self) -> None:
        super().__init__()
        self(tf.ones([1, 5]))
        self(tf.ones([3, 5]))

    @tf.function
    def __call__(self, x: Any, training: bool = False) -> Any:
        """Return (2x, x) for more than two rows, else x."""
        return (2 * x, x) if x.shape[0] > 2 else x


def keras_functional() -> Any:
    """Return Input(5) float64 -> Dense(6) of ones."""
    x = keras.layers.Input((5,), dtype="float64", name="x")
    y = keras.layers.Dense(
        6, name="out", kernel_initializer=keras.initializers.Ones(), dtype="float64"
    )(x)
    return keras.Model(inputs=x, outputs=y)


def keras_sequential() -> Any:
    """Return a compiled Dense(1) of ones over five float64 inputs, written as in Keras 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 advises against input_shape
        model = keras.models.Sequential(
            (
                keras.layers.Dense(
                    units=1,
                    input_shape=(5,),
                    dtype="float64",
                    use_bias=False,
                    kernel_initializer=keras.initializers.Ones(),
                ),
            )
        )
    model.compile(optimizer=keras.optimizers.Adam(0.002, 0.5), loss="binary_crossentropy")
    return model


def keras_dict() -> Any:
    """Return a functional model of two named inputs and two named outputs."""
    left = keras.layers.Input((3,), name="left")
    right = keras.layers.Input((3,), name="right", dtype="int32")
    added = keras.layers.Lambda(lambda pair: pair[0] + keras.ops.cast(pair[1], "float32"))(
        [left, right]
    )
    return keras.Model(
        inputs={"left": left, "right": right}, outputs={"added": added, "left": left}
    )


def keras_list() -> Any:
    """Return a functional model of a list of two inputs."""
    a = keras.layers.Input((2,), name="a")
    b = keras.layers.Input((2,), name="b")
    return keras.Model(inputs=[a, b], outputs=keras.layers.Add()([a, b]))


class RaggedModel(tf.Module):
    """Rows of up to five numbers each, and their sums."""

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.float64, ragged_rank=1)])
    def predict_ragged(self, rows: Any) -> Any:
        """Return the sum of each row, filled up with zeros to five."""
        return tf.matmul(rows.to_tensor(0.0, shape=[None, 5]), tf.ones([5, 1], tf.float64))


class TokenModel(tf.Module):
    """Texts as numbers, of any length, filled up with 0."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def __call__(self, ids: Any) -> Any:
        """Return double the numbers, and how many of a row are not 0."""
        count = tf.math.count_nonzero(ids, axis=1, dtype=tf.int32)
        return {"doubled": ids * 2, "count": count}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def mean(self, ids: Any) -> Any:
        """Return the mean of each row, to which every 0 contributes."""
        return tf.reduce_mean(tf.cast(ids, tf.float32), axis=1)


@keras.saving.register_keras_serializable("tests")
class SubclassedModel(keras.Model):  # type: ignore[misc]
    """Five numbers to three, through layers that training changes."""

    def __init__(self, units: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.normalize = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.9)
        self.dense = keras.layers.Dense(units)

    def call(self, x: Any, training: bool = False) -> Any:
        """Return three numbers for each row."""
        return self.dense(self.drop(self.normalize(x, training=training), training=training))

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="features")])
    def embed(self, features: Any) -> Any:
        """Return the rows as the last layer sees them."""
        return self.normalize(features)

    def get_config(self) -> dict[str, Any]:
        """Return what the constructor needs."""
        return {**super().get_config(), "units": self.units}


class TracedCallModel(keras.Model):  # type: ignore[misc]
    """A model whose `call` is itself a tf.function."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    @tf.function
    def call(self, inputs: Any) -> Any:
        """Return the sum of each row."""
        return self.dense(inputs)


class TwoArgumentsModel(keras.Model):  # type: ignore[misc]
    """A dict, and numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, pair: Any, scale: Any, training: bool = False) -> Any:
        """Return left + right, scaled."""
        return self.dense(pair["left"] + pair["right"][0]) * scale


class WordModel(keras.Model):  # type: ignore[misc]
    """Words to vectors, through a table of TensorFlow's and one of Keras'."""

    def __init__(self) -> None:
        super().__init__()
        table = tf.lookup.KeyValueTensorInitializer(["red", "green"], [1, 2], tf.string, tf.int64)
        self.tables = {"colors": tf.lookup.StaticHashTable(table, 0)}
        self.words = keras.layers.StringLookup(vocabulary=["red", "blue"])
        self.scale = tf.Variable(10, dtype=tf.int64)

    def call(self, words: Any) -> Any:
        """Return a number for each word."""
        return self.tables["colors"].lookup(words) * self.scale + self.words(words)
