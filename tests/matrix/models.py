"""The models of the matrix. Importing this imports TensorFlow and Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

NUMBERS = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)


class SeedModel(tf.Module):
    """The sum of five numbers, of rows that are dense or ragged."""

    def __init__(self) -> None:
        super().__init__()
        self.ones = tf.ones([5, 1], tf.float64)

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float64, name="inputs")])
    def __call__(self, inputs: Any) -> Any:
        """Return one sum for each row."""
        return tf.matmul(inputs, self.ones)

    @tf.function(
        input_signature=[tf.RaggedTensorSpec([None, None], tf.float64, 1, row_splits_dtype="int32")]
    )
    def predict_ragged(self, inputs: Any) -> Any:
        """Return the sum of the first five numbers of each row."""
        return tf.matmul(inputs.to_tensor(0.0, shape=[None, 5]), self.ones)


class ValuesModel(tf.Module):
    """One method for each kind of input and output."""

    @tf.function(
        input_signature=[
            {name: tf.TensorSpec([None, 2], name) for name in NUMBERS},
        ]
    )
    def double(self, numbers: Any) -> Any:
        """Return twice each, in its own dtype."""
        return {name: value + value for name, value in numbers.items()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.bool, name="flags")])
    def negate(self, flags: Any) -> Any:
        """Return what is not."""
        return tf.logical_not(flags)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="x"),
            tf.TensorSpec([], tf.float32, name="factor"),
            tf.TensorSpec([], tf.string, name="unit"),
        ]
    )
    def scale(self, x: Any, factor: Any, unit: Any) -> Any:
        """Return the rows times a factor, and the unit beside each row."""
        return x * factor, tf.repeat(unit, tf.shape(x)[0])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="words")])
    def lower(self, words: Any) -> Any:
        """Return the words in lower case, and how many bytes they have."""
        return {"lower": tf.strings.lower(words), "length": tf.strings.length(words)}

    @tf.function(
        input_signature=[
            {
                "pair": (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32)),
                "rest": [tf.TensorSpec([None, 1], tf.float32)],
            }
        ]
    )
    def nested(self, value: Any) -> Any:
        """Return the same, in another nesting."""
        left, right = value["pair"]
        return {"sum": left + right, "deep": [(value["rest"][0] * 2, {"left": left})]}

    @tf.function(
        input_signature=[
            tf.RaggedTensorSpec([None, None], tf.string, 1),
            tf.RaggedTensorSpec([None, None, None], tf.int64, 2),
        ]
    )
    def ragged(self, texts: Any, pages: Any) -> Any:
        """Return ragged tensors, of the same and of other lengths."""
        return {"upper": tf.strings.upper(texts), "sums": tf.reduce_sum(pages, axis=2)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def total(self, x: Any) -> Any:
        """Return one number for all rows."""
        return tf.reduce_sum(x)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def nothing(self, x: Any) -> None:
        """Return no tensor at all."""
        tf.debugging.assert_all_finite(x, "not finite")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, name="x")])
    def inverse(self, x: Any) -> Any:
        """Return 1/x: infinite for zero, NaN for NaN."""
        return 1.0 / x

    @tf.function(input_signature=[tf.TensorSpec([2, None], tf.float32, name="x")])
    def columns(self, x: Any) -> Any:
        """Return the sums of columns: rows are counted on axis 1, and come back on axis 0."""
        return tf.reduce_sum(x, axis=0)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="tokens")])
    def states(self, tokens: Any) -> Any:
        """Return a state for each token, and how many are not the filling."""
        real = tf.cast(tokens >= 0, tf.float32)
        return {"states": tf.stack([tokens, tokens * 2], axis=2), "count": tf.reduce_sum(real, 1)}


VALUES = {
    "double": {"batchable": True},
    "negate": {"batchable": True},
    "scale": {"batchable": True},
    "lower": {"batchable": True},
    "nested": {"batchable": True},
    "ragged": {"batchable": True},
    "total": {},
    "nothing": {},
    "inverse": {"batchable": True},
    "columns": {"batchable": True, "batch_dim": (1, 0)},
    "states": {
        "batchable": True,
        "padding": {"tokens": {"axis": 1, "value": -1.0, "buckets": [4, 8]}},
        "cut": {"states": {"axis": 1, "like": "tokens"}},
    },
}


class MultiInputModel(tf.Module):
    """Two fixed rows and a factor."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([1, 5], tf.float64, name="x1"),
            tf.TensorSpec([1, 5], tf.float64, name="x2"),
            tf.TensorSpec([], tf.float64, name="factor"),
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

    @tf.function(input_signature=[tf.TensorSpec([1, 5], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        """Return a tuple."""
        return self.factor * x, x


class PolymorphicModel(tf.Module):
    """Traced by being called: floats of one row and of three, text, and two integers."""

    def __init__(self) -> None:
        super().__init__()
        self(tf.ones([1, 5]))
        self(tf.ones([3, 5]))
        self.__call__.get_concrete_function(tf.TensorSpec([None], tf.string))
        self(tf.constant(1), tf.constant(2))

    @tf.function
    def __call__(self, x: Any, y: Any = None) -> Any:
        """Return (2x, x) for more than two rows, else x; text in upper case; x + y."""
        if y is not None:
            return x + y
        if x.dtype == tf.string:
            return tf.strings.upper(x)
        return (2 * x, x) if x.shape[0] > 2 else x


@keras.saving.register_keras_serializable("matrix")
class Subclassed(keras.Model):
    """A subclassed Keras model whose call is a tf.function."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, kernel_initializer="ones")
        self.drop = keras.layers.Dropout(0.5)

    @tf.function
    def call(self, x: Any, training: bool = False) -> Any:
        """Return three sums of each row, thinned out in training."""
        return self.drop(self.dense(x), training=training)


def subclassed() -> Any:
    """Return one that was built by being called."""
    model = Subclassed()
    model(np.zeros((1, 4), np.float32))
    return model


def two_inputs() -> Any:
    """Return a functional model of named inputs and outputs; one input is text."""
    words = keras.layers.Input((), dtype="string", name="word")
    numbers = keras.layers.Input((2,), name="numbers")
    known = keras.layers.StringLookup(vocabulary=["red", "green"], name="lookup")(words)
    embedded = keras.layers.Embedding(3, 2, embeddings_initializer="ones")(known)
    return keras.Model(
        inputs={"word": words, "numbers": numbers},
        outputs={"mixed": keras.layers.Add()([embedded, numbers]), "index": known},
    )


def narrow() -> Any:
    """Return a Keras model of one integer in each row."""
    x = keras.layers.Input((1,), dtype="int32", name="x")
    return keras.Model(x, keras.layers.Lambda(lambda value: value * 2, output_shape=(1,))(x))


class FrameModel(tf.Module):
    """Named inputs of one value in each row, as the columns of a table."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="name"),
            tf.TensorSpec([None], tf.int32, name="age"),
        ]
    )
    def __call__(self, name: Any, age: Any) -> Any:
        """Return name and age, together."""
        return tf.strings.join([name, tf.strings.as_string(age)])


class CarelessModel(tf.Module):
    """Methods that go wrong on some inputs only."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        """Return the rows that do not begin with a negative number: fewer, sometimes."""
        return tf.boolean_mask(x, x[:, 0] >= 0)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="left"),
            tf.TensorSpec([None, 2], tf.int8, name="right"),
        ]
    )
    def add(self, left: Any, right: Any) -> Any:
        """Return the sum."""
        return left + tf.cast(right, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])
    def look_up(self, index: Any) -> Any:
        """Return an entry of a table of three; others are an error of the model's own."""
        with tf.control_dependencies([tf.debugging.assert_less(index, 3, "no such entry")]):
            return tf.gather(tf.constant([10, 20, 30]), tf.identity(index))


CARELESS = {name: {"batchable": True} for name in ("__call__", "add", "look_up")}
