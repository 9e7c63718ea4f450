"""Batch sizes: what a new one costs is found out, and batches are filled up where it is dear."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tests.test_warmup import Fake, X, method, of_x
from tfrunner.errors import ModelError
from tfrunner.ragged import rows_array
from tfrunner.specs import TensorSpec
from tfrunner.tensors import Array
from tfrunner_workers.hosted import Output
from tfrunner_workers.sizes import COSTLY_SECONDS, AllowedSizes, is_costly
from tfrunner_workers.warmup import warm


class Compiled:
    """A function that takes its time over each shape that it has not seen."""

    def __init__(self, *, seconds: float = 4 * COSTLY_SECONDS) -> None:
        self.seen: set[int] = set()
        self._seconds = seconds

    def __call__(self, x: Array) -> Array:
        """Return twice the rows."""
        if len(x) not in self.seen:
            self.seen.add(len(x))
            threading.Event().wait(self._seconds)  # what a compiler does meanwhile
        return x * 2


def test_a_model_that_compiles_each_size_is_found_out() -> None:
    """Warm-up's own sizes are then the only ones that run."""
    function = Compiled()
    fake = Fake(of_x(function), method())
    (state,) = warm(fake, 8)
    assert state.sizes == (1, 2, 4, 8)
    assert [rows for rows, _ in state.costs] == [1, 2, 8, 4]
    warmed = set(function.seen)
    for rows in range(1, 9):
        x = np.arange(rows * 2, dtype="f").reshape(rows, 2)
        np.testing.assert_array_equal(fake.methods["__call__"]([x]).arrays[0], x * 2)
    assert function.seen == warmed


@pytest.mark.parametrize(
    "function",
    [Compiled(seconds=0.0), lambda x: x * 2],
    ids=["a new size costs nothing", "sizes do not matter"],
)
def test_other_models_run_any_size(function: Callable[[Array], Array]) -> None:
    """Nothing is filled up without need."""
    (state,) = warm(Fake(of_x(function), method()), 8)
    assert state.sizes == ()


def test_a_size_that_fails_is_no_reason_to_fill_up() -> None:
    """The warm-up says so, and the model serves as it is."""

    def even(x: Array) -> Array:
        if len(x) == 3:
            raise ValueError("three")
        return x

    assert not is_costly(method(), of_x(even), [3, 5], None)


def recorded() -> tuple[AllowedSizes, list[list[Array]]]:
    """Return a method of three inputs that is only run with 1, 4 or 8 rows, and its runs."""
    runs: list[list[Array]] = []
    spec = method(X, TensorSpec("factor", "float32", ()), TensorSpec("r", "int64", (None,), 1))

    def run(arrays: list[Array]) -> Output:
        runs.append(arrays)
        return Output([arrays[0] * arrays[1]], TensorSpec("y", "float32", None))

    return AllowedSizes(spec, run, (1, 4, 8)), runs


@pytest.mark.parametrize(
    ("rows", "ran"), [(1, 1), (2, 4), (4, 4), (5, 8), (9, 9), (0, 0)], ids=lambda n: str(n)
)
def test_a_batch_is_filled_up_to_the_next_size(rows: int, ran: int) -> None:
    """With its last row; parameters stay as they are; the answers are those of its own rows."""
    sized, runs = recorded()
    x = np.arange(rows * 2, dtype="f").reshape(rows, 2)
    ragged = rows_array([np.arange(n) for n in range(rows)])
    output = sized([x, np.float32(3), ragged])
    np.testing.assert_array_equal(output.arrays[0], x * 3)
    given_x, given_factor, given_ragged = runs[0]
    assert (len(given_x), given_factor, len(given_ragged)) == (ran, 3, ran)
    if ran > rows:
        np.testing.assert_array_equal(given_x[rows:], np.repeat(x[-1:], ran - rows, axis=0))


def test_rows_are_filled_up_on_their_own_axis() -> None:
    """And cut on the output's."""
    spec = method(TensorSpec("x", "float32", (2, None)), batch_dim=(1, 0))
    sized = AllowedSizes(spec, of_x(lambda x: x.sum(axis=0)), (4,))
    assert sized([np.ones((2, 3), "f")]).arrays[0].tolist() == [2.0] * 3


def test_other_rows_out_than_in_are_found_out() -> None:
    """Before anything is cut: the rows could be anybody's."""
    sized = AllowedSizes(method(), of_x(lambda x: x[:2]), (4,))
    with pytest.raises(ModelError):
        sized([np.ones((2, 2), "f")])
