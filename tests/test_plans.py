"""Plans: every one gives what the reference gives, or is not used; the reason is said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfrunner
from tfrunner.specs import leaves

pytestmark = pytest.mark.tensorflow

BATCHABLE = {"batchable": True, "batch_dim": 0}
SINGLE = ", single-threaded executor"
LIMIT = 16


def load(model: Any, **signatures: Any) -> Any:
    """Save and load a model; return it with the reference plans."""
    from tfrunner_workers import savedmodel

    saved = tfrunner.tensorflow.save(model, "m", signatures=signatures or None)
    return savedmodel.load(saved.path)


def choose(model: Any, *, known: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    """Choose the plans of a loaded model; return the records by method."""
    from tfrunner_workers import plans, ways

    records = plans.choose_all(model, ways.Settings(LIMIT, 1, **settings), known=known)
    assert [record.method for record in records] == list(model.spec.methods)
    return {record.method: record for record in records}


def compare(got: Any, expected: Any) -> None:
    """Compare structure, dtypes and values of two outputs: texts and integers exactly."""
    assert got.structure == expected.structure
    pairs = zip(leaves(expected.structure), got.arrays, expected.arrays, strict=True)
    for leaf, one, other in pairs:
        compare_arrays(one, other, leaf.ragged_rank)


def compare_arrays(got: Any, expected: Any, ragged_rank: int) -> None:
    """Compare two tensors, ragged ones row by row."""
    assert got.shape == expected.shape
    if ragged_rank:
        for pair in zip(got, expected, strict=True):
            compare_arrays(*pair, ragged_rank - 1)
        return
    assert got.dtype == expected.dtype
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    else:
        assert np.array_equal(got, expected)


NOT_BATCHABLE = ("total",)
COPIED_ONLY_BY_LOADER = ("table_of_vectors",)
METHODS = (
    *("matmul", "nested", "combine", "loop", "branch", "each_row", "table", "table_in_branch"),
    *("mutable_table", "ragged", "ragged_twice", "integers", "halves", "total"),
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Save the model with all kinds of graphs once; return its folder."""
    from tests.models_plans import GraphKinds

    model = GraphKinds()
    names = (*METHODS, *COPIED_ONLY_BY_LOADER)
    batching = {name: {} if name in NOT_BATCHABLE else BATCHABLE for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFRUNNER_HOME", str(tmp_path_factory.mktemp("home")))
        saved = tfrunner.tensorflow.save(
            model,
            "kinds",
            signatures=batching,
            tf_signatures={"vectors": model.table_of_vectors},
        )
        yield saved.path


@pytest.fixture(scope="module")
def kinds(stored: Path) -> Any:
    """Return that model, loaded, with the reference plans; not to be changed."""
    from tfrunner_workers import savedmodel

    return savedmodel.load(stored)


def run_all(kinds: Any, name: str, builds: Any) -> None:
    """Build ways of a method and compare them with the reference at several sizes."""
    from tfrunner_workers import samples

    method, reference = kinds.spec.methods[name], kinds.methods[name]
    for build in builds.values():
        plan = build()
        try:
            for rows in (1, 2, 5, 40) if method.batchable else (4,):
                inputs = samples.different(method, rows)
                compare(plan.run(inputs), reference(inputs))
        finally:
            plan.close()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("group", [0, 1], ids=["frozen", "session"])
def test_every_way_gives_what_the_reference_gives(kinds: Any, name: str, group: int):
    """With both executors, at sizes that are compared when choosing and at others."""
    from tfrunner_workers import ways

    builds = ways.find_ways(kinds, kinds.spec.methods[name], ways.Settings(LIMIT, 1))[group]
    assert len(builds) == 2
    run_all(kinds, name, builds)


def test_what_cannot_be_copied_is_loaded_as_tensorflow_1_did(kinds: Any):
    """A table of vectors fits no other way; its signature has another name."""
    from tfrunner_workers import ways

    (name,) = COPIED_ONLY_BY_LOADER
    first, second, third = ways.find_ways(kinds, kinds.spec.methods[name], ways.Settings(LIMIT, 1))
    for build in (*first.values(), *second.values()):
        with pytest.raises(ValueError, match=r"cannot be copied|cannot become a constant"):
            build()
    run_all(kinds, name, third)


@pytest.mark.parametrize("name", ["matmul", "combine", "branch", "integers", "total"])
def test_xla_gives_what_the_reference_gives(kinds: Any, name: str):
    """At sizes that it compiled, at sizes that are filled up, and above the largest one."""
    from tfrunner_workers import ways

    settings = ways.Settings(LIMIT, 1, xla=True)
    (group, *_) = ways.find_ways(kinds, kinds.spec.methods[name], settings)
    run_all(kinds, name, {ways.XLA: group[ways.XLA]})


@pytest.mark.parametrize("name", ["table", "ragged"])
def test_xla_is_not_tried_with_text_and_ragged_tensors(kinds: Any, name: str):
    """The reason says which input it is."""
    from tfrunner_workers import ways

    settings = ways.Settings(LIMIT, 1, xla=True)
    (group, *_) = ways.find_ways(kinds, kinds.spec.methods[name], settings)
    with pytest.raises(ValueError, match="XLA does not take text or ragged tensors, as input"):
        group[ways.XLA]()


def test_xla_is_only_tried_where_the_user_allows_it(kinds: Any):
    """It costs seconds for every size."""
    from tfrunner_workers import ways

    (group, *_) = ways.find_ways(kinds, kinds.spec.methods["matmul"], ways.Settings(LIMIT, 1))
    assert ways.XLA not in group


def test_the_whole_model_runs_in_chosen_plans_as_before(stored: Path):
    """What is chosen says why, with the seconds; the next start takes it without timing."""
    from tfrunner_workers import samples, savedmodel

    model = savedmodel.load(stored)
    references = dict(model.methods)
    first = choose(model)
    for name, record in first.items():
        inputs = samples.different(model.spec.methods[name], 4)
        compare(model.methods[name](inputs), references[name](inputs))
        is_reference = record.plan == "reference"
        assert (model.methods[name] is references[name]) == is_reference
        assert is_reference or record.gain >= 1.1
        assert record.plan in record.seconds and "reference" in record.seconds
        sizes = {1} if name in NOT_BATCHABLE else {1, 8, LIMIT}
        assert all(set(seconds) == sizes for seconds in record.seconds.values())
    known = {name: record.plan for name, record in first.items()}
    again = savedmodel.load(stored)
    for name, record in choose(again, known=known).items():
        assert record.plan == known[name]
        assert (record.gain, record.seconds) == (0.0, {})
        assert "chosen before" in record.reason
        inputs = samples.different(model.spec.methods[name], 4)
        compare(again.methods[name](inputs), references[name](inputs))


def test_small_models_are_several_times_as_fast(home: Path):
    """The eager call costs more than the model."""
    from tests.models import NativeModel

    model = load(NativeModel(), __call__=BATCHABLE)
    reference = model.methods["__call__"]
    assert choose(model)["__call__"].plan.startswith("frozen")
    for rows in (1, 3, 16, 100):
        inputs = [np.random.default_rng(rows).random((rows, 5))]
        compare(model.methods["__call__"](inputs), reference(inputs))


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
    compare(model.methods["__call__"](inputs), reference(inputs))


@pytest.mark.parametrize("name", ["linear", "heads", "loop", "branch", "table", "variable_output"])
def test_models_of_tensorflow_1_agree_in_every_plan(tmp_path: Path, name: str):
    """Frozen ones too: what a session loaded has variables that fold as others do."""
    from tests import models_v1
    from tfrunner.specs import ModelSpec
    from tfrunner_workers import samples, session_model, ways
    from tfrunner_workers.savedmodel import LoadedModel

    folder = tmp_path / "saved_model"
    if name == "table":
        (tmp_path / "words.txt").write_text("a\nsome text\n")
        models_v1.table(folder, tmp_path / "words.txt")
    else:
        getattr(models_v1, name)(folder)
    methods = session_model.describe(folder)
    session = session_model.load(folder, methods)
    spec = ModelSpec("m", "1", 1, methods)
    model = LoadedModel(spec, session.methods, restored=None, path=tmp_path, session=session)
    for method in methods.values():
        frozen, _ = ways.find_ways(model, method, ways.Settings(LIMIT, 1))
        plan = frozen[ways.FROZEN]()
        inputs = samples.different(method, 1)
        compare(plan.run(inputs), model.methods[method.name](inputs))
        plan.close()
    references = dict(model.methods)
    records = choose(model)
    for method in methods.values():
        inputs = samples.different(method, 1)
        compare(model.methods[method.name](inputs), references[method.name](inputs))
        assert records[method.name].reason
    session.close()


def test_a_model_that_changes_variables_keeps_the_reference(home: Path):
    """A copy of the variables would not see the change."""
    from tests.models import StructuredModel

    records = choose(load(StructuredModel()))
    assert all(record.plan == "reference" for record in records.values())
    assert all("advance changes variables" in record.reason for record in records.values())


def test_large_models_are_not_frozen_larger_ones_not_copied(kinds: Any):
    """Freezing takes fifteen times the memory, for a while; a copy as much as there is."""
    model = clone(kinds)
    record = choose(model, freeze_bytes=15)["matmul"]
    assert "frozen: 0 MB of variables are too many to copy" in record.reason
    assert set(record.seconds) >= {"session", "session" + SINGLE}
    model = clone(kinds)
    record = choose(model, freeze_bytes=15, copy_bytes=15)["matmul"]
    assert record.plan == "reference"
    assert "session" + SINGLE + ": 0 MB of variables are too many" in record.reason


def test_a_function_with_several_traces_keeps_the_reference(home: Path):
    """Which trace runs is decided call by call."""
    from tests.models import PolymorphicModel

    record = choose(load(PolymorphicModel()))["__call__"]
    assert record.plan == "reference"
    assert "several" in record.reason


def clone(model: Any) -> Any:
    """Return the same loaded model with a table of methods of its own."""
    from tfrunner_workers.savedmodel import LoadedModel

    return LoadedModel(model.spec, dict(model.methods), restored=model.restored, path=model.path)


class World:
    """A model whose `matmul` takes made-up seconds, ways beside it, and the clock of both."""

    def __init__(self, kinds: Any) -> None:
        self.model = clone(kinds)
        self.method = kinds.spec.methods["matmul"]
        self.real = kinds.methods["matmul"]
        self.model.methods["matmul"] = self.reference
        self.now = 0.0
        self.busy = 0.0
        self.closed: list[str] = []

    def clock(self) -> float:
        """Return the seconds that runs have taken."""
        return self.now

    def reference(self, arrays: Any) -> Any:
        """Run the real method, for ten seconds."""
        self.now += 10.0
        self.busy += 10.0
        return self.real(arrays)

    def way(
        self,
        name: str,
        change: Callable[[Any], Any] = lambda output: output,
        seconds: float = 1.0,
        threads: float = 1.0,
    ) -> Any:
        """Return a way that gives the real output, changed, in so many seconds of some threads."""
        from tfrunner_workers.ways import Plan

        def run(arrays: Any) -> Any:
            self.now += seconds
            self.busy += seconds * threads
            return change(self.real(arrays))

        return lambda: Plan(run, lambda: self.closed.append(name))

    def choose(self, *ways: Any, limit: int = LIMIT) -> Any:
        """Choose among ways by these clocks."""
        from tfrunner_workers import plans
        from tfrunner_workers.timing import Clocks

        clocks = Clocks(self.clock, lambda: self.busy)
        return plans.choose(self.model, self.method, ways, limit=limit, clocks=clocks)

    def recall(self, known: str | None, *ways: Any) -> Any:
        """Take the known one of these ways."""
        from tfrunner_workers import plans

        return plans.recall(self.model, self.method, ways, known=known, limit=LIMIT)


def other_values(output: Any) -> Any:
    """Return the output with one number changed by a hundredth."""
    arrays = [array.copy() for array in output.arrays]
    arrays[0].flat[-1] += 0.01 * (1 + abs(arrays[0].flat[-1]))
    return output._replace(arrays=arrays)


def other_dtype(output: Any) -> Any:
    """Return the output with more digits."""
    return output._replace(arrays=[array.astype("float64") for array in output.arrays])


def other_structure(output: Any) -> Any:
    """Return the output in a list."""
    from tfrunner.specs import ListSpec

    return output._replace(structure=ListSpec((output.structure,)))


def one_row_less(output: Any) -> Any:
    """Return the output of three and more rows without the last one."""
    cut = [array[:-1] if len(array) > 2 else array for array in output.arrays]
    return output._replace(arrays=cut)


def wrong_between(output: Any) -> Any:
    """Return other numbers for three rows only."""
    return other_values(output) if len(output.arrays[0]) == 3 else output


def fail(output: Any) -> Any:
    """Raise, as an executor does that cannot run a graph."""
    raise NotImplementedError("no such kernel\nand a long story")


LIES = [other_values, other_dtype, other_structure, one_row_less, wrong_between, fail]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_plan_that_lies_is_never_chosen(kinds: Any, lie: Any):
    """However fast it is; the honest one after it is, and the liar's memory is given back."""
    world = World(kinds)
    record = world.choose({"liar": world.way("liar", lie)}, {"honest": world.way("honest")})
    assert record.plan == "honest"
    assert "liar: it " in record.reason
    assert "long story" not in record.reason
    assert world.closed == ["liar"]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_known_plan_that_no_longer_agrees_is_given_up(kinds: Any, lie: Any):
    """Its memory is given back, and the reference stays until another is chosen."""
    world = World(kinds)
    assert world.recall("before", {"before": world.way("before", lie)}) is None
    assert world.model.methods["matmul"] == world.reference
    assert world.closed == ["before"]


def test_a_known_plan_is_taken_and_no_other_is_built(kinds: Any):
    """Whichever group it is in."""
    world = World(kinds)
    others = {"other": lambda: pytest.fail("it was built")}
    record = world.recall("honest", others, {"honest": world.way("honest")})
    assert (record.plan, record.seconds) == ("honest", {})
    assert world.model.methods["matmul"] != world.reference


@pytest.mark.parametrize("known", ["gone", None])
def test_an_unknown_name_is_no_plan(kinds: Any, known: str | None):
    """A plan of another version of ours is no harm."""
    world = World(kinds)
    assert world.recall(known, {"honest": world.way("honest")}) is None


@pytest.mark.parametrize(
    ("seconds", "plan"), [(12.0, "reference"), (9.5, "reference"), (8.0, "other")]
)
def test_only_a_clearly_faster_plan_is_used(kinds: Any, seconds: float, plan: str):
    """Less than a tenth is noise, and decides nothing."""
    world = World(kinds)
    record = world.choose({"other": world.way("other", seconds=seconds)})
    assert record.plan == plan
    assert record.seconds == {
        name: dict.fromkeys((1, 8, LIMIT), pytest.approx(each))
        for name, each in (("reference", 10.0), ("other", seconds))
    }
    assert record.gain == pytest.approx(10.0 / seconds if plan == "other" else 1.0)
    assert ("only" in record.reason) == (plan == "reference")
    assert world.closed == ([] if plan == "other" else ["other"])
    assert (world.model.methods["matmul"] == world.reference) == (plan == "reference")


def test_the_fastest_of_several_is_used_and_the_others_are_closed(kinds: Any):
    """A group after one that gave something is not built."""
    world = World(kinds)
    group = {
        name: world.way(name, seconds=each) for name, each in (("a", 5.0), ("b", 2.0), ("c", 4.0))
    }
    record = world.choose(group, {"d": lambda: pytest.fail("it was built")})
    assert (record.plan, record.gain) == ("b", pytest.approx(5.0))
    assert world.closed == ["a", "c"]


@pytest.mark.parametrize(("seconds", "plan"), [(1.08, "thrifty"), (1.2, "greedy")])
def test_of_plans_as_fast_the_one_that_costs_less_cpu_time_is_used(
    kinds: Any, seconds: float, plan: str
):
    """It leaves more to the server's other processes; a clearly slower one is not taken for it."""
    world = World(kinds)
    greedy = world.way("greedy", seconds=1.0, threads=2.0)
    thrifty = world.way("thrifty", seconds=seconds, threads=1.5)
    assert world.choose({"greedy": greedy, "thrifty": thrifty}).plan == plan


@pytest.mark.parametrize(
    ("seconds", "plan"),
    [(0.01, "x, split batches"), (0.0123, "x, split batches"), (0.013, "x"), (0.0005, "x")],
)
def test_batches_are_split_where_that_is_about_as_fast_and_they_are_long(
    kinds: Any, seconds: float, plan: str
):
    """Timed alone it gains nothing; short batches are not worth a change of thread."""
    world = World(kinds)
    whole = world.way("x", seconds=0.01 if seconds > 0.001 else 0.0006)
    split = world.way("x, split batches", seconds=seconds)
    assert world.choose({"x": whole, "x, split batches": split}).plan == plan


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 8])
def test_plans_are_timed_whatever_the_largest_batch_is(kinds: Any, limit: int):
    """Three rows are only compared, unless there are never more."""
    world = World(kinds)
    record = world.choose({"other": world.way("other")}, limit=limit)
    assert set(record.seconds["reference"]) == {1, min(8, limit), limit}


@pytest.mark.parametrize(("best", "other"), [(7.4, "x, split batches"), (8.7, "x, thrifty")])
def test_a_plan_that_gains_is_not_given_up_for_one_that_does_not(kinds: Any, best, other):
    """Near the fastest, but not clearly faster than the reference."""
    world = World(kinds)
    ways = {"x": world.way("x", seconds=best), other: world.way(other, seconds=9.2, threads=0.5)}
    assert world.choose(ways).plan == "x"


def test_a_split_plan_whose_parts_do_not_fit_together_is_not_used(kinds: Any):
    """Its answers are right, from the whole batch run once more; the reason is said."""
    from tfrunner_workers.splitting import Split
    from tfrunner_workers.ways import Plan

    world = World(kinds)

    def wide(arrays: Any) -> Any:
        output = world.real(arrays)
        return output._replace(arrays=[output.arrays[0][:, : 1 + len(arrays[0]) % 2]])

    split = Split(world.method, world.real, wide, 2)
    ways = {"x": world.way("x"), "x, split batches": lambda: Plan(split, split.close)}
    record = world.choose(ways)
    assert record.plan == "x"
    assert "x, split batches: outputs of its parts do not fit together" in record.reason


def test_a_split_plan_that_alone_agrees_is_used(kinds: Any):
    """Short batches or not: it is faster than the reference."""
    world = World(kinds)
    ways = {"x": world.way("x", fail), "x, split batches": world.way("x, split batches", seconds=1)}
    assert world.choose(ways).plan == "x, split batches"


def test_the_log_names_plan_and_reason(kinds: Any, caplog: pytest.LogCaptureFixture):
    """Who looks for the cause of a slow model finds it there."""
    with caplog.at_level(logging.INFO, logger="tfrunner.worker"):
        records = choose(clone(kinds), freeze_bytes=0, copy_bytes=0)
    lines = [record.getMessage() for record in caplog.records]
    for name, record in records.items():
        assert f"{name}: plan {record.plan}: {record.reason}" in lines
