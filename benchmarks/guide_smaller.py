"""The guide's measurements of smaller numbers and smaller models, and what accuracy they cost."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import guide_models as models
from benchmarks.guide_running import ROWS, images, join
from benchmarks.guide_timing import shown, table, take_turns

POLICIES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16")
TEMPERATURE = 4.0
STUDENT_EPOCHS = 60


class Contestant(NamedTuple):
    """One form of a model.

    Attributes:
        run: From rows to ten numbers each.
        kilobytes: On disk.
    """

    run: models.Run
    kilobytes: float


def precision(*, threads: int, seconds: float) -> str:
    """Return both networks in the dtypes of Keras' policies, all with the same weights."""
    found = []
    for name in models.NETWORKS:
        kinds = {}
        for policy in POLICIES:
            network = models.with_policy(name, policy)
            loaded = models.load(network, f"{name.lower()}_{policy}", threads=threads)
            kinds[f"{name}, {policy} ({loaded.plan})"] = Contestant(
                loaded.run, models.kilobytes(loaded.path)
            )
        found.append(compare(kinds, images(name), seconds=seconds))
    return join(found)


def quantization(*, threads: int, seconds: float) -> str:
    """Return both networks as served, and by TFLite with weights, then all, in 8 bits."""
    found = []
    for name in models.NETWORKS:
        network = models.trained(name)
        loaded = models.load(network, name.lower(), threads=threads)
        sizes = (*ROWS, len(images(name)) % models.LIMIT)
        learned = models.rows_for(network, models.digits().learn)
        kinds = {
            f"{name}, float32, as served": Contestant(loaded.run, models.kilobytes(loaded.path)),
            f"{name}, TFLite, float32": tflite(network, sizes, threads=threads),
            f"{name}, TFLite, weights int8": tflite(network, sizes, threads=threads, bits=True),
            f"{name}, TFLite, all int8": tflite(
                network, sizes, threads=threads, bits=True, examples=learned[:200]
            ),
        }
        found.append(compare(kinds, images(name), seconds=seconds))
    return join(found)


def tflite(
    network: Any, sizes: Sequence[int], *, threads: int, bits: bool = False, examples: Any = None
) -> Contestant:
    """Convert a network to TFLite, and make an interpreter for each number of rows.

    Args:
        network: Of Keras.
        sizes: Numbers of rows.
        threads: Of each interpreter.
        bits: Whether weights are kept in 8 bits.
        examples: Rows from which the ranges of all other numbers are learned, so that these
            are kept in 8 bits too.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        network.export(folder, verbose=False)
        # The newer converter keeps variables, and then fails where it runs the examples.
        converter = tf.compat.v1.lite.TFLiteConverter.from_saved_model(folder)
    if bits:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if examples is not None:
        converter.representative_dataset = lambda: ([row[np.newaxis]] for row in examples)
    content = converter.convert()
    calls = {size: _interpreter(tf, content, size, threads) for size in sizes}
    return Contestant(lambda rows: calls[len(rows)](rows), len(content) / 1e3)


def _interpreter(tf: Any, content: bytes, rows: int, threads: int) -> models.Run:
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], [rows, *given["shape"][1:]])
    interpreter.allocate_tensors()

    def run(values: Any) -> Any:
        interpreter.set_tensor(given["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(taken["index"])

    return run


def distillation(*, threads: int, seconds: float) -> str:
    """Return the CNN, and a small student with and without it as a teacher."""
    import keras

    teacher, learn = models.trained("CNN"), models.digits().learn
    keras.utils.set_random_seed(models.SEED)
    alone = _student(keras)
    models.fit(alone, learn, models.digits().labels, epochs=STUDENT_EPOCHS)
    keras.utils.set_random_seed(models.SEED)
    taught = _student(keras)
    _teach(keras, teacher, taught, learn)
    kinds = {}
    for name, network in {
        "CNN, the teacher": teacher,
        "MLP 784-16-10, taught": taught,
        "the same, labels alone": alone,
    }.items():
        loaded = models.load(network, "taught", threads=threads)
        size = models.kilobytes(loaded.path)
        shape = network.input_shape[1:]
        kinds[name] = Contestant(
            lambda rows, run=loaded.run, shape=shape: run(rows.reshape(-1, *shape)), size
        )
    return compare(kinds, images("CNN"), seconds=seconds)


def _student(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((784,)), layers.Dense(16, activation="relu"), layers.Dense(10)]
    )


def _teach(keras: Any, teacher: Any, student: Any, learn: Any) -> None:
    """Train a student to give the teacher's softened probabilities for the same images.

    After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).
    """
    probabilities = teacher.predict(learn, batch_size=256, verbose=0)
    softened = keras.ops.softmax(np.log(probabilities + 1e-7) / TEMPERATURE)

    def loss(wanted: Any, logits: Any) -> Any:
        return (
            keras.losses.categorical_crossentropy(wanted, logits / TEMPERATURE, from_logits=True)
            * TEMPERATURE**2
        )

    student.compile("adam", loss)
    rows = models.rows_for(student, learn)
    student.fit(rows, np.asarray(softened), batch_size=32, epochs=STUDENT_EPOCHS, verbose=0)


def compare(kinds: dict[str, Contestant], rows: Any, *, seconds: float) -> str:
    """Return a table: what each takes, how many images it reads right, and its size."""
    columns = []
    for size in ROWS:
        part = rows[:size]
        calls = {name: lambda run=each.run, part=part: run(part) for name, each in kinds.items()}
        columns.append(take_turns(calls, seconds=seconds))
    lines = [
        [
            name,
            *(shown(column[name]) for column in columns),
            f"{models.accuracy(each.run, rows):.1%}",
            f"{each.kilobytes:,.0f}",
        ]
        for name, each in kinds.items()
    ]
    sizes = (f"{size} row{'s' if size > 1 else ''}" for size in ROWS)
    return table(["a call", *sizes, "right", "KB"], lines)
