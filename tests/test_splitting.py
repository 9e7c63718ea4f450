"""Batches split between threads: the same rows come back, in their order, whatever happens."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.test_plans import BATCHABLE, LIMIT, compare, load
from tests.waiting import wait_for
from tfrunner.errors import ModelError
from tfrunner.specs import Argument, MethodSpec, TensorSpec
from tfrunner.tensors import Array
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.splitting import Split

THREADS = 3

Way = Callable[..., Split]


def described(axes: tuple[int, int]) -> MethodSpec:
    """Return a method that takes rows, and one number that is the same for all of them."""
    shape: list[int | None] = [2, 2]
    shape.insert(axes[0], None)
    rows = TensorSpec("rows", "float32", tuple(shape))
    arguments = (Argument("rows", rows), Argument("factor", TensorSpec("factor", "float32", ())))
    return MethodSpec("scale", arguments, batchable=True, batch_dim=axes)


@pytest.fixture
def split() -> Iterator[Way]:
    """Return what makes ways to split batches, and closes them."""
    made: list[Split] = []

    def make(whole: Method, part: Method, axes: tuple[int, int] = (0, 0)) -> Split:
        made.append(Split(described(axes), whole, part, THREADS))
        return made[-1]

    yield make
    for each in made:
        each.close()


def scale(arrays: list[Array]) -> Output:
    """Multiply rows by the number."""
    return Output([arrays[0] * arrays[1]], TensorSpec("scaled", "float32", None))


def unused(arrays: list[Array]) -> Output:
    """Fail the test: this way should not be taken."""
    raise AssertionError(f"called with {arrays[0].shape}")


def batch(rows: int, axis: int = 0) -> list[Array]:
    """Return rows that differ, and the number."""
    values = np.arange(rows * 4, dtype="float32").reshape(rows, 2, 2)
    return [np.moveaxis(values, 0, axis), np.array(3, "float32")]


@pytest.mark.parametrize("rows", [2, 3, 4, 7, 8, 100])
@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (1, 0), (2, 1)])
def test_rows_come_back_in_their_order(split: Way, rows: int, axes: tuple[int, int]):
    """Along whichever axes they lie; no part is more than one row larger than another."""
    sizes: list[int] = []

    def part(arrays: list[Array]) -> Output:
        sizes.append(arrays[0].shape[axes[0]])
        output = scale(arrays)
        return output._replace(arrays=[np.moveaxis(output.arrays[0], *axes)])

    arrays = batch(rows, axes[0])
    got = split(unused, part, axes)(arrays)
    np.testing.assert_array_equal(got.arrays[0], np.moveaxis(arrays[0] * 3, *axes))
    assert (len(sizes), sum(sizes)) == (min(THREADS, rows), rows)
    assert max(sizes) - min(sizes) <= 1


def test_texts_come_back_in_their_order(split: Way):
    """As arrays of objects."""

    def name(arrays: list[Array]) -> Output:
        texts = np.array([b"%d" % row[0, 0] for row in arrays[0]], object)
        return Output([texts], TensorSpec("names", "string", (None,)))

    (got,) = split(unused, name)(batch(5)).arrays
    assert got.tolist() == [b"0", b"4", b"8", b"12", b"16"]


@pytest.mark.parametrize("rows", [0, 1])
def test_what_cannot_be_split_runs_whole(split: Way, rows: int):
    """A lone row gets all threads."""
    got = split(scale, unused)(batch(rows))
    np.testing.assert_array_equal(got.arrays[0], batch(rows)[0] * 3)


def test_parts_run_at_the_same_time_each_in_its_thread(split: Way):
    """Who asks for them only waits."""
    meeting = threading.Barrier(THREADS, timeout=20)
    threads: set[int] = set()

    def part(arrays: list[Array]) -> Output:
        meeting.wait()
        threads.add(threading.get_ident())
        return scale(arrays)

    split(unused, part)(batch(THREADS))
    assert len(threads) == THREADS
    assert threading.get_ident() not in threads


def test_a_thread_that_is_done_goes_on_with_the_next_batch(split: Way):
    """Two batches of two parts, three threads: the second is done while the first runs."""
    held, done = threading.Event(), threading.Event()

    def part(arrays: list[Array]) -> Output:
        if arrays[0][0, 0, 0] == 0 and arrays[1] == 3:
            assert held.wait(20)
        return scale(arrays)

    way = split(unused, part)
    rows, _ = batch(2)
    first = way.start(batch(2))
    second = way.start([rows, np.array(2, "float32")], then=done.set)
    assert done.wait(20)
    assert second.is_done and not first.is_done
    held.set()
    np.testing.assert_array_equal(first.result().arrays[0], rows * 3)
    np.testing.assert_array_equal(second.result().arrays[0], rows * 2)


@pytest.mark.parametrize(("alone", "threads"), [(True, THREADS), (False, 1)])
def test_a_lone_row_keeps_all_threads_busy_unless_others_need_them(
    split: Way, alone: bool, threads: int
):
    """It is run as a whole, or as the only part."""

    def take_time(arrays: list[Array]) -> Output:
        time.sleep(0.05)
        return scale(arrays)

    way = split(take_time, unused) if alone else split(unused, take_time)
    running = way.start(batch(1), alone=alone)
    running.wait()
    assert 0.05 * threads <= running.busy <= (running.ended - running.started) * threads


@pytest.mark.parametrize("bad", range(THREADS))
def test_a_part_that_fails_fails_the_batch_when_no_other_reads_it_any_more(split: Way, bad: int):
    """What is read may lie in shared memory, which is used again at once; the next one runs."""
    reading: list[int] = []

    def part(arrays: list[Array]) -> Output:
        row = int(arrays[0][0, 0, 0]) // 4
        if row == bad and arrays[1] == 3:
            raise ValueError("bad row")
        reading.append(row)
        time.sleep(0.05)
        reading.remove(row)
        return scale(arrays)

    way = split(unused, part)
    with pytest.raises(ValueError, match="bad row"):
        way(batch(THREADS))
    assert reading == []
    rows, _ = batch(THREADS)
    np.testing.assert_array_equal(way([rows, np.array(2, "float32")]).arrays[0], rows * 2)


def test_an_output_as_wide_as_the_longest_row_of_its_batch_is_not_split(split: Way):
    """Its parts do not fit together; the batch runs once more as a whole, the next ones only so."""
    parts: list[int] = []

    def widened(arrays: list[Array]) -> Output:
        width = int(arrays[0].max())
        return Output([np.ones((len(arrays[0]), width))], TensorSpec("wide", "float64", None))

    def part(arrays: list[Array]) -> Output:
        parts.append(len(arrays[0]))
        return widened(arrays)

    way = split(widened, part)
    for _ in range(2):
        assert way(batch(6)).arrays[0].shape == (6, 23)
    assert parts == [2, 2, 2]


def test_an_output_that_lacks_rows_is_an_error(split: Way):
    """It would give a caller the rows of another."""

    def part(arrays: list[Array]) -> Output:
        output = scale(arrays)
        return output._replace(arrays=[output.arrays[0][1:]])

    with pytest.raises(ModelError, match="expected 2 rows"):
        split(unused, part)(batch(6))


@pytest.mark.parametrize("rows", [np.float32(2), np.ones((4, 2, 2), "float32")], ids=["0", "3"])
def test_an_input_of_any_rank_may_be_a_scalar(rows: Any):
    """Then it counts no rows, and runs whole; other ranks are split."""
    anything = TensorSpec("rows", "float32", None)
    factor = Argument("factor", TensorSpec("factor", "float32", ()))
    method = MethodSpec("scale", (Argument("rows", anything), factor), batchable=True)
    way = Split(method, scale if rows.ndim == 0 else unused, scale, THREADS)
    got = way([np.asarray(rows), np.array(3, "float32")])
    np.testing.assert_array_equal(got.arrays[0], rows * 3)
    way.close()


def test_what_a_failed_batch_was_given_is_let_go(split: Way):
    """Without the help of the garbage collector: batches may be large."""

    def fail(arrays: list[Array]) -> Output:
        raise MemoryError

    gc.disable()
    try:
        way, arrays = split(unused, fail), batch(4)
        given = weakref.ref(arrays[0])
        with pytest.raises(MemoryError):
            way(arrays)
        del arrays
        wait_for(lambda: given() is None)
    finally:
        gc.enable()


# --- with TensorFlow ------------------------------------------------------------------------------


def ways_of(model: Any, *, threads: int = 2, **settings: Any) -> list[Any]:
    """Return the groups of ways of a model's only method."""
    from tfrunner_workers import ways

    method = model.spec.methods["__call__"]
    return list(ways.find_ways(model, method, ways.Settings(LIMIT, threads, **settings)))


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", ["keras_functional", "keras_dict", "keras_list"])
@pytest.mark.parametrize("group", [0, 1], ids=["frozen", "session"])
def test_split_batches_give_what_the_reference_gives(home: Any, make: str, group: int):
    """With several inputs and outputs, where variables are constants and where they are copied."""
    from tests import models
    from tfrunner_workers import samples, ways

    model = load(getattr(models, make)(), __call__=BATCHABLE)
    method, reference = model.spec.methods["__call__"], model.methods["__call__"]
    name = (ways.FROZEN, ways.SESSION)[group] + ways.SPLIT
    plan = ways_of(model)[group][name]()
    for rows in (1, 2, 3, 5, 40):
        inputs = samples.different(method, rows)
        compare(plan.run(inputs), reference(inputs))
    plan.close()


@pytest.mark.tensorflow
def test_a_batch_is_split_only_between_two_threads_and_where_it_is_allowed(home: Any):
    """A GPU runs a batch as a whole; a method that is not batchable has no rows."""
    from tests.models import NativeModel
    from tfrunner_workers import ways

    model = load(NativeModel(), __call__=BATCHABLE)
    name = ways.FROZEN + ways.SPLIT
    assert name in ways_of(model)[0]
    assert name not in ways_of(model, threads=1)[0]
    assert name not in ways_of(model, threads=4)[0]
    assert name not in ways_of(model, splits=False)[0]
    assert name not in ways_of(load(NativeModel()))[0]


@pytest.mark.tensorflow
def test_ragged_rows_are_not_split(home: Any):
    """The reason is said."""
    from tests.models_plans import GraphKinds
    from tfrunner_workers import plans, ways

    model = load(GraphKinds(), ragged=BATCHABLE)
    records = {each.method: each for each in plans.choose_all(model, ways.Settings(LIMIT, 2))}
    assert ways.SPLIT + ": ragged rows are not split" in records["ragged"].reason
