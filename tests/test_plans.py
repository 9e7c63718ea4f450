"""Plans: every one gives what the reference gives, or is not used; the reason is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfrunner

pytestmark = pytest.mark.tensorflow

BATCHABLE = {"batchable": True, "batch_dim": 0}


def load(model: Any, **signatures: Any):
    """Save and load a model; return it with the reference plans."""
    from tfrunner_workers import savedmodel

    saved = tfrunner.tensorflow.save(model, "m", signatures=signatures or None)
    return savedmodel.load(saved.path)


def choose(model: Any) -> dict[str, str]:
    """Choose the plans of a loaded model; return why, by method."""
    from tfrunner_workers import plans

    lines: list[str] = []

    class Handler(plans.logging.Handler):
        def emit(self, record: Any) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    level = plans.logger.level
    plans.logger.addHandler(handler)
    plans.logger.setLevel("INFO")
    try:
        plans.choose_all(model, limit=16, threads=1)
    finally:
        plans.logger.removeHandler(handler)
        plans.logger.setLevel(level)
    return {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines}


def test_a_small_model_is_frozen_and_gives_the_same_numbers(home: Path):
    """The eager call costs more than the model: a session is several times as fast."""
    from tests.models import NativeModel

    model = load(NativeModel(), __call__=BATCHABLE)
    reference = model.methods["__call__"]
    assert "frozen" in choose(model)["__call__"]
    for rows in (1, 3, 16, 100):
        inputs = [np.random.default_rng(rows).random((rows, 5))]
        got, expected = model.methods["__call__"](inputs), reference(inputs)
        assert got.structure == expected.structure
        assert np.array_equal(got.arrays[0], expected.arrays[0])


@pytest.mark.parametrize(
    "make", ["keras_functional", "keras_sequential", "keras_dict", "keras_list"]
)
def test_keras_models_of_every_form_agree(home: Path, make: str):
    """Several inputs and outputs come in the order of the specification."""
    from tests import models
    from tfrunner_workers import samples

    model = load(getattr(models, make)(), __call__=BATCHABLE)
    method, reference = model.spec.methods["__call__"], model.methods["__call__"]
    choose(model)
    inputs = samples.different(method, 5)
    got, expected = model.methods["__call__"](inputs), reference(inputs)
    assert got.structure == expected.structure
    for one, other in zip(got.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_model_that_changes_variables_keeps_the_reference(home: Path):
    """A frozen graph would not see the change."""
    from tests.models import StructuredModel

    model = load(StructuredModel())
    reasons = choose(model)
    assert set(reasons) == set(model.methods)
    assert all("advance changes variables" in reason for reason in reasons.values())


def test_nested_and_missing_outputs_of_a_frozen_graph_find_their_place(home: Path):
    """Dicts, lists, tuples, None and text, as the reference gives them."""
    import tensorflow as tf

    class Structured(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return {"z": (x * self.factor, [x, None]), "a": tf.strings.as_string(x[:, 0])}

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
            return pair["left"] - pair["right"] * factor * self.factor

    model = load(Structured(), __call__=BATCHABLE, combine=BATCHABLE)
    references = dict(model.methods)
    reasons = choose(model)
    assert "frozen" in reasons["__call__"] and "frozen" in reasons["combine"]
    x = np.asarray([[1.0, 2.0], [3.0, 4.0]], "float32")
    got, expected = model.methods["__call__"]([x]), references["__call__"]([x])
    assert got.structure == expected.structure
    for one, other in zip(got.arrays, expected.arrays, strict=True):
        assert np.array_equal(one, other)
    left, right = x[:, 0], x[:, 1]
    inputs = [left, right, np.float32(3.0).reshape(())]
    assert np.array_equal(
        model.methods["combine"](inputs).arrays[0], references["combine"](inputs).arrays[0]
    )


def test_what_cannot_be_frozen_keeps_the_reference_with_the_reason(home: Path):
    """A lookup table is no constant."""
    import tensorflow as tf

    class Lookup(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            keys = tf.constant(["a", "b"])
            initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1, 2]))
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def __call__(self, words: Any) -> Any:
            return self.table.lookup(words)

    model = load(Lookup(), __call__=BATCHABLE)
    reason = choose(model)["__call__"]
    assert reason.startswith("plan ")
    words = np.asarray([b"b", b"x", b"a"], dtype=object)
    assert model.methods["__call__"]([words]).arrays[0].tolist() == [2, -1, 1]


def test_a_model_with_too_many_variables_is_not_frozen(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Freezing costs time and a second copy of the weights."""
    from tests.models import MultiOutputModel
    from tfrunner_workers import plans

    monkeypatch.setattr(plans, "FREEZE_BYTES", 3)
    assert "too many" in choose(load(MultiOutputModel()))["__call__"]


def test_a_plan_that_disagrees_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Faster and wrong is wrong."""
    from tests.models import NativeModel
    from tfrunner_workers import plans

    original = plans.in_session

    def wrong(*args: Any, **kwargs: Any):
        run = original(*args, **kwargs)
        return lambda arrays: [value + 1 for value in run(arrays)]

    monkeypatch.setattr(plans, "in_session", wrong)
    assert "other outputs" in choose(load(NativeModel(), __call__=BATCHABLE))["__call__"]


def test_a_plan_that_is_not_clearly_faster_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Noise decides nothing."""
    from tests.models import NativeModel
    from tfrunner_workers import plans

    monkeypatch.setattr(plans, "GAIN", math.inf)
    assert "only" in choose(load(NativeModel(), __call__=BATCHABLE))["__call__"]


def test_a_function_with_several_traces_keeps_the_reference(home: Path):
    """Which trace runs is decided call by call."""
    from tests.models import PolymorphicModel

    assert "several traces" in choose(load(PolymorphicModel()))["__call__"]
