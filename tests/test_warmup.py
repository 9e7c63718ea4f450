"""Warm-up and the batch-safety probe, with models of plain NumPy."""

from __future__ import annotations

import logging
import time

import msgspec
import numpy as np
import pytest

from tfrunner.ragged import rows_array
from tfrunner.specs import (
    Argument,
    MethodSpec,
    ModelSpec,
    Padding,
    TensorSpec,
    TupleSpec,
    Variant,
)
from tfrunner.tensors import Array
from tfrunner_workers import samples
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.probe import is_close, probe
from tfrunner_workers.warmup import declared, sizes, warm

X = TensorSpec("x", "float32", (None, 3))
Y = TensorSpec("y", "float32", None)


class Fake:
    """A hosted model with one method, of plain NumPy; it counts the rows of its calls."""

    def __init__(self, run: Method, method: MethodSpec, example: list[Array] | None = None) -> None:
        self.calls: list[list[Array]] = []
        self.spec = ModelSpec("fake", "1", 1, {method.name: method})
        self.methods = {method.name: self._record(run)}
        self._example = example

    def _record(self, run: Method) -> Method:
        def recorded(arrays: list[Array]) -> Output:
            self.calls.append(arrays)
            return run(arrays)

        return recorded

    def example(self, method: str) -> list[Array] | None:
        """Return the stored example."""
        return self._example


def method(*inputs: TensorSpec, batchable: bool = True, **options) -> MethodSpec:
    """Return a method `__call__` with these inputs."""
    arguments = tuple(Argument(spec.name, spec) for spec in inputs or (X,))
    return MethodSpec("__call__", arguments, output=Y, batchable=batchable, **options)


def of_x(function) -> Method:
    """Return a method that applies a function to its first input."""
    return lambda arrays: Output([np.asarray(function(arrays[0]))], Y)


def state(fake: Fake, limit: int = 8):
    """Return what warm-up says about the only method."""
    (only,) = warm(fake, limit)
    return only


# --- the probe --------------------------------------------------------------------------------


SAFE = {
    "row-wise": lambda x: x * 2 + 1,
    "row sums": lambda x: x.sum(axis=1, keepdims=True),
    "NaN everywhere": lambda x: x * np.nan,
    "classes": lambda x: x.argmax(axis=1),
    "other rounding in batches": lambda x: x * (1 + 1e-6 * len(x)),
}

UNSAFE = {
    "x - mean(x, 0)": lambda x: x - x.mean(axis=0),
    "softmax over the batch": lambda x: np.exp(x) / np.exp(x).sum(axis=0),
    "divided by the largest row": lambda x: x / x.max(axis=0),
    "running sum": lambda x: x.cumsum(axis=0),
    "rank within the batch": lambda x: x[:, :1].argsort(axis=0),
    "position within the batch": lambda x: x + np.arange(len(x), dtype="f")[:, None],
    "rows swapped": lambda x: x[::-1],
    "only the first row suffers": lambda x: np.concatenate([x[:1] * len(x), x[1:]]),
    "only a lone row has another shape": lambda x: x if len(x) > 1 else x[:0],
    "only larger batches mix": lambda x: np.concatenate([x[:2], x[2:] - x[2:].sum(0)]),
}

OTHER_ROWS = {
    "drops the last row": lambda x: x[:-1],
    "drops rows of a batch": lambda x: x[:1],
    "doubles rows": lambda x: np.repeat(x, 2, axis=0),
    "one loss for all": lambda x: x.mean(),
    "a table beside the batch": lambda x: np.ones((5, 3), "f"),
}


@pytest.mark.parametrize("function", SAFE.values(), ids=SAFE)
def test_a_row_wise_method_is_batched(function):
    """What a row gives does not depend on its neighbours."""
    only = state(Fake(of_x(function), method()))
    assert only.batchable
    assert only.note == ""


@pytest.mark.parametrize("function", UNSAFE.values(), ids=UNSAFE)
def test_a_method_that_mixes_rows_is_not_batched(function):
    """The probe's rows differ, so what they do to each other shows."""
    only = state(Fake(of_x(function), method()))
    assert not only.batchable
    assert "depends on the rows beside it" in only.note


@pytest.mark.parametrize("function", OTHER_ROWS.values(), ids=OTHER_ROWS)
def test_a_method_with_other_rows_out_than_in_is_not_batched(function):
    """Rows out must equal rows in."""
    only = state(Fake(of_x(function), method()))
    assert not only.batchable
    assert "rows on axis 0" in only.note


def test_noise_is_not_batched():
    """A method that gives something else each time cannot be shown to be safe."""
    random = np.random.default_rng(3)
    only = state(Fake(of_x(lambda x: x + random.random(x.shape)), method()))
    assert not only.batchable
    assert "on chance" in only.note


@pytest.mark.parametrize("which", [0, 1], ids=["first output", "second output"])
def test_every_output_is_probed(which: int):
    """One output that mixes rows is enough."""

    def run(arrays: list[Array]) -> Output:
        (x,) = arrays
        good, bad = np.asarray(x * 2), np.asarray(x - x.mean(axis=0))
        return Output([bad, good] if which == 0 else [good, bad], TupleSpec((Y, Y)))

    assert not state(Fake(run, method())).batchable


def test_outputs_must_be_the_same_for_every_size():
    """A method that gives a pair for many rows and one tensor for one is not batched."""

    def run(arrays: list[Array]) -> Output:
        (x,) = arrays
        return Output([x, x], TupleSpec((Y, Y))) if len(x) > 2 else Output([x], Y)

    only = state(Fake(run, method()))
    assert not only.batchable
    assert only.note == "8 rows give another structure of outputs than one row"


def test_rows_are_counted_on_the_axes_that_were_declared():
    """batch_dim names another axis for inputs and outputs."""
    x = TensorSpec("x", "float64", (3, None))
    declared_axes = method(x, batch_dim=(1, 0))
    assert state(Fake(of_x(lambda x: x.T * 2), declared_axes)).batchable
    assert not state(
        Fake(of_x(lambda x: (x - x.mean(1, keepdims=True)).T), declared_axes)
    ).batchable
    assert not state(Fake(of_x(lambda x: x * 2), declared_axes)).batchable


def test_a_method_that_is_not_declared_batchable_stays_so():
    """Nothing is probed then."""
    fake = Fake(of_x(lambda x: x.mean()), method(batchable=False))
    found = state(fake)
    assert [rows for rows, _ in found.costs] == [1]
    assert msgspec.structs.replace(found, costs=(), cpu_seconds=0.0) == declared(fake)[0]
    assert {len(call[0]) for call in fake.calls} == {1}


def test_a_batch_that_fails_where_its_rows_do_not_is_not_batched():
    """Two rows that succeed alone, and together raise, are no bad input."""

    def one_only(x):
        if len(x) != 1:
            raise ValueError("expected one row")
        return x

    only = state(Fake(of_x(one_only), method()))
    assert not only.batchable
    assert "ValueError: expected one row" in only.note


def test_made_up_rows_that_the_model_refuses_leave_it_as_declared(caplog):
    """A failing probe input is not a failing model: it is noted and logged."""

    def picky(x):
        if (x < 100).any():
            raise ValueError("not my range")
        return x

    with caplog.at_level(logging.INFO, "tfrunner.worker"):
        only = state(Fake(of_x(picky), method()))
    assert only.batchable
    assert "not probed" in only.note and "not my range" in only.note
    assert "warm-up with 1 rows failed: ValueError: not my range" in caplog.text
    assert "not probed" in caplog.text


def test_a_model_that_fails_on_zeros_only_is_still_probed(caplog):
    """Zeros may be no legal input; the probe's rows are others."""

    def no_zeros(x):
        if not x.any():
            raise ZeroDivisionError("zeros")
        return x - x.mean(axis=0)

    with caplog.at_level(logging.WARNING, "tfrunner.worker"):
        only = state(Fake(of_x(no_zeros), method()))
    assert "ZeroDivisionError: zeros" in caplog.text
    assert not only.batchable


@pytest.mark.parametrize("function", [lambda x: x, lambda x: x - x.mean(0)], ids=["safe", "not"])
def test_an_example_keeps_the_probe_in_the_model_s_range(function):
    """Rows like the stored ones reach a model that refuses made-up numbers."""

    def only_large_negative(x):
        if x.max() > 0 or x.min() < -1000 or x.shape[1] != 3:
            raise ValueError("out of range")
        return function(x)

    example = [np.float32([[-1000.0, -300.0, -500.0]])]
    only = state(Fake(of_x(only_large_negative), method(TensorSpec("x", "float32", None)), example))
    assert only.batchable == (function(np.eye(2)) == np.eye(2)).all()
    assert "not probed" not in only.note


def test_lookups_stay_within_their_table():
    """Made-up integers are zeros and ones; an example's integers bound their own."""
    table = np.arange(6, dtype=np.float32)
    ids = TensorSpec("ids", "int64", (None,))
    assert state(Fake(of_x(lambda i: table[:2][i]), method(ids))).note == ""
    fake = Fake(of_x(lambda i: table[i]), method(ids), [np.array([5, 3])])
    assert state(fake).note == ""
    assert len({int(i) for call in fake.calls for i in call[0]}) > 2


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int32", "float16", "float64", "complex64", "string"]
)
def test_every_dtype_can_be_made_up(dtype: str):
    """Rows differ, so that a method that swaps them is caught."""
    spec = method(TensorSpec("x", dtype, (None, 7)))
    for made in (
        samples.different(spec, 8)[0],
        samples.varied(spec, samples.different(spec, 3), 8)[0],
    ):
        assert made.shape == (8, 7)
        assert len({tuple(row) for row in made.tolist()}) > 4
    assert samples.zeros(spec, 4)[0].shape == (4, 7)
    assert state(Fake(of_x(lambda x: x), spec)).batchable
    assert not state(Fake(of_x(lambda x: np.roll(x, 1, axis=0)), spec)).batchable


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "string"])
def test_the_first_two_rows_differ_even_in_one_column(dtype: str):
    """With a bound of two rows there are no others."""
    inputs = [TensorSpec(f"x{i}", dtype, (None,)) for i in range(8)]
    made = samples.different(method(*inputs), 2)
    assert dtype == "string" or all(array[0] != array[1] for array in made)
    assert not state(Fake(of_x(lambda x: x[::-1]), method(inputs[0])), limit=2).batchable


def test_a_broadcast_parameter_is_one_value_for_all_rows():
    """A rank-0 input has no rows; it is the same alone and in company."""
    spec = method(X, TensorSpec("factor", "float32", ()))
    fake = Fake(lambda arrays: Output([np.asarray(arrays[0] * arrays[1])], Y), spec)
    assert state(fake).note == ""
    assert all(call[1].shape == () for call in fake.calls)


def test_a_bound_of_one_row_needs_no_probe():
    """Nothing is merged then."""
    assert probe(method(), of_x(lambda x: x - x.mean(0)), limit=1).is_safe


@pytest.mark.parametrize(
    ("dtype", "difference", "close"),
    [
        ("float32", 1e-4, True),
        ("float32", 1e-2, False),
        ("float64", 1e-8, True),
        ("float64", 1e-4, False),
        ("float16", 1e-2, True),
        ("int64", 0, True),
        ("int64", 1, False),
    ],
)
def test_the_tolerance_is_that_of_the_dtype(dtype: str, difference: float, close: bool):
    """Kernels for another batch size round otherwise; integers are exact."""
    array = np.array([1, 2, 3], dtype)
    assert is_close(array + np.array(difference, dtype), array) is close


def test_ragged_outputs_are_compared_row_by_row():
    """Rows of equal and of different lengths; text too."""
    rows = rows_array([np.ones(2), np.ones(3)])
    assert is_close(rows, rows_array([np.ones(2), np.ones(3) + 1e-9]))
    assert not is_close(rows, rows_array([np.ones(2), np.ones(3) + 1e-3]))
    assert not is_close(rows, rows_array([np.ones(3), np.ones(2)]))
    text = rows_array([np.array([b"a"], object), np.array([], object)])
    assert is_close(text, text.copy())


def test_nan_equals_nan_and_infinities_keep_their_sign():
    """NaN in and out is an answer like any other."""
    array = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert is_close(array, array.copy())
    assert not is_close(array, -array)
    assert not is_close(array, np.array([0.0, np.inf, -np.inf, 1.0]))
    assert not is_close(array, array.astype(np.float32))
    assert is_close(np.full(2, np.nan), np.full(2, np.nan))


# --- warm-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 8, 4]), (20, [1, 2, 20, 4, 8, 16])],
)
def test_the_sizes_that_matter_come_first(limit: int, expected: list[int]):
    """One row, two, the bound, then the powers of two between."""
    assert sizes(limit) == expected


def test_every_size_is_run_and_its_time_logged(caplog):
    """Zeros of the right shape and dtype, sizes that are open become 1."""
    fake = Fake(of_x(lambda x: x), method(TensorSpec("x", "int32", (None, None, 2))))
    with caplog.at_level(logging.INFO, "tfrunner.worker"):
        warm(fake, 8)
    zeros = [call[0] for call in fake.calls if not call[0].any()]
    assert {array.shape for array in zeros} >= {(n, 1, 2) for n in (1, 2, 4, 8)}
    assert all(array.dtype == np.int32 for array in zeros)
    assert "__call__: warm: rows 1:" in caplog.text and "; 8:" in caplog.text


def test_the_example_is_what_warms():
    """Its rows are repeated to every size."""
    fake = Fake(of_x(lambda x: x), method(), [np.float32([[1, 2, 3], [4, 5, 6]])])
    warm(fake, 4)
    four = next(call[0] for call in fake.calls if len(call[0]) == 4)
    assert four.tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3], [4, 5, 6]]


def test_a_method_that_changes_the_model_is_not_run():
    """Warm-up must not count up what the model counts."""
    fake = Fake(of_x(lambda x: x), method(repeatable=False))
    only = state(fake)
    assert fake.calls == []
    assert (only.batchable, only.repeatable) == (True, False)
    assert "neither warmed nor probed" in only.note


def test_an_input_of_any_rank_cannot_be_made_up(caplog):
    """It says so; the model is served as declared."""
    with caplog.at_level(logging.WARNING, "tfrunner.worker"):
        only = state(Fake(of_x(lambda x: x), method(TensorSpec("x", "float32", None))))
    assert only.batchable and "any rank" in only.note
    assert "any rank" in caplog.text


# --- examples of padded and polymorphic methods ------------------------------------------------


def test_inputs_of_variable_length_are_warmed_filled_up():
    """As they will come: callers fill them up to the next bucket."""
    tokens = TensorSpec("tokens", "int64", (None, None))
    padded = method(tokens, padding=(Padding("tokens", 1, 0, (4, 16)),))
    fake = Fake(of_x(lambda x: x), padded)
    warm(fake, 4)
    assert {arrays[0].shape[1] for arrays in fake.calls} == {4}
    given = Fake(of_x(lambda x: x), padded, example=[np.ones((2, 7), np.int64)])
    warm(given, 4)
    assert {arrays[0].shape[1] for arrays in given.calls} == {16}


def test_an_example_warms_the_variant_that_it_is_for():
    """Which need not be the first."""
    text = TensorSpec("text", "string", (None,))
    several = method(X, variants=(Variant((Argument("text", text),)),))
    example = np.array([b"a", b"b"], object)
    fake = Fake(of_x(lambda x: x), several, example=[example])
    (found,) = warm(fake, 4)
    assert [rows for rows, _ in found.costs] == [1, 2, 4]
    assert {arrays[0].dtype for arrays in fake.calls} == {np.dtype(object)}


def test_what_a_full_batch_costs_is_measured_in_cpu_time():
    """Of all threads; not where a run is long, or the method has no full batch that runs."""

    def spin(seconds: float) -> Method:
        def run(rows: Array) -> Array:
            until = time.process_time() + (seconds if len(rows) == 4 else 0.0)
            while time.process_time() < until:
                pass
            return rows

        return of_x(run)

    (short,) = warm(Fake(spin(0.0005), method()), 4)
    assert short.cpu_seconds >= 0.0005
    (long,) = warm(Fake(spin(0.05), method()), 4)
    assert long.cpu_seconds == 0.0
    (single,) = warm(Fake(spin(0.05), method(batchable=False)), 4)
    assert 0.0 < single.cpu_seconds < 0.05


def test_a_full_batch_that_does_not_run_costs_nothing_that_is_known():
    """Warm-up ends at the first size that fails."""

    def refuse(rows: Array) -> Array:
        if len(rows) > 2:
            raise ValueError("too many")
        return rows

    (state,) = warm(Fake(of_x(refuse), method()), 4)
    assert state.cpu_seconds == 0.0
