"""SavedModels of TensorFlow 1: described without being loaded, served by a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfrunner.errors import CorruptModel
from tfrunner.specs import DictSpec, TensorSpec

pytestmark = pytest.mark.tensorflow

SINGLE_THREADED = "SINGLE_THREADED_EXECUTOR"


def build(folder: Path, name: str) -> Path:
    """Write the model of that name; return its folder."""
    from tests import models_v1

    folder = folder / name
    if name == "table":
        vocabulary = folder.parent / "words.txt"
        vocabulary.write_text("\n".join(models_v1.WORDS) + "\n")
        models_v1.table(folder, vocabulary)
        vocabulary.unlink()  # the model has a copy
    else:
        getattr(models_v1, name)(folder)
    return folder


def call(folder: Path, method: str, inputs: dict[str, Any], executor: str = "") -> dict[str, Any]:
    """Load a model into a session and run one of its methods; return the outputs as lists."""
    from tfrunner_workers import session_model

    methods = session_model.describe(folder)
    spec = methods[method]
    model = session_model.load(folder, methods, executor=executor)
    try:
        arrays = [np.asarray(inputs[argument.name]) for argument in spec.arguments]
        output = model.methods[method](arrays)
    finally:
        model.close()
    assert output.structure == spec.output
    assert isinstance(output.structure, DictSpec)
    for leaf, array in zip(output.structure.items.values(), output.arrays, strict=True):
        assert isinstance(leaf, TensorSpec)
        assert leaf.dtype == ("string" if array.dtype.hasobject else array.dtype.name)
    return {
        name: array.tolist()
        for name, array in zip(output.structure.items, output.arrays, strict=True)
    }


X = np.float32([[1, 1, 1], [0, 1, 2]])
CASES = {
    "linear": ("linear", "serving_default", {"x": X}, {"y": [[6.5], [8.5]]}),
    "several inputs and outputs": (
        "heads",
        "serving_default",
        {"right": np.int32([7, 8]), "left": np.float32([[1, 2], [3, 4]])},
        {"label": [b"7", b"8"], "scaled": [[2, 40], [6, 80]], "total": [49, 94]},
    ),
    "another head": ("heads", "classify", {"left": np.float32([[1, 2], [99, 4]])}, None),
    "text": (
        "heads",
        "upper",
        {"text": np.asarray([b"ab", "ö".encode()], object)},
        {"size": 2, "text": [b"AB", "ö".encode()]},
    ),
    "loop": (
        "loop",
        "serving_default",
        {"n": np.int32(3), "x": np.float32([1, 2])},
        {"y": [8, 16]},
    ),
    "branch": ("branch", "serving_default", {"x": np.float32([-1, -2])}, {"y": [1, 2]}),
    "table": (
        "table",
        "serving_default",
        {"words": np.asarray([b"blue", b"red", b"no"], object)},
        {"ids": [2, 0, -1]},
    ),
    "a variable as output": (
        "variable_output",
        "serving_default",
        {"x": np.float32([3])},
        {"weight": [1, 2], "y": [6]},
    ),
    "two graphs": ("two_graphs", "serving_default", {"x": np.float32([5])}, {"y": [15]}),
    "fed placeholder": (
        "unfed",
        "whole",
        {"training": np.asarray(False), "x": np.float32([5])},
        {"y": [15]},
    ),
    "sparse neighbour": ("sparse", "dense", {"x": np.float32([5])}, {"y": [6]}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_models_of_tensorflow_1_give_what_their_graph_says(tmp_path: Path, case: Any):
    """Inputs are matched by name, outputs come as a dict in the order of their names."""
    name, method, inputs, expected = case
    got = call(build(tmp_path, name), method, inputs)
    assert got == (expected if expected is not None else {"classes": [1, 0]})


@pytest.mark.parametrize("name", ["table", "sparse neighbour"])
def test_the_single_threaded_executor_gives_the_same(tmp_path: Path, name: str):
    """It runs what has neither variables nor loops in the form of TensorFlow 1."""
    model, method, inputs, expected = CASES[name]
    assert call(build(tmp_path, model), method, inputs, SINGLE_THREADED) == expected


def test_the_single_threaded_executor_runs_newer_variables(tmp_path: Path):
    """Resource variables are no references."""
    from tests import models_v1

    models_v1.linear(tmp_path / "m", is_resource=True)
    expected = {"y": [[6.5], [8.5]]}
    assert call(tmp_path / "m", "serving_default", {"x": X}, SINGLE_THREADED) == expected


def test_the_single_threaded_executor_refuses_variables_of_tensorflow_1(tmp_path: Path):
    """It says so while it loads; a plan that fails so is not used."""
    with pytest.raises(CorruptModel, match="does not support reference-typed edges"):
        call(build(tmp_path, "linear"), "serving_default", {"x": X}, SINGLE_THREADED)


@pytest.mark.parametrize("name", ["counter", "variable_output", "two_graphs"])
def test_what_tensorflow_2_cannot_restore_is_loaded_into_a_session(tmp_path: Path, name: str):
    """These are the models for which there is a session at all."""
    from tfrunner_workers import savedmodel, session_model

    folder = build(tmp_path, name)
    with pytest.raises(CorruptModel):
        savedmodel.restore(folder)
    session_model.load(folder, session_model.describe(folder)).close()


@pytest.mark.parametrize("tags", [(), ("train",), ("serve", "gpu")], ids=str)
def test_the_only_graph_is_served_whatever_its_tags(tmp_path: Path, tags: tuple[str, ...]):
    """Tags tell graphs apart; there is nothing to tell apart."""
    from tests import models_v1

    models_v1.linear(tmp_path / "m", tags=tags)
    assert call(tmp_path / "m", "serving_default", {"x": X}) == {"y": [[6.5], [8.5]]}


def test_a_model_written_as_text_is_read(tmp_path: Path):
    """`saved_model.pbtxt` is as good as `saved_model.pb`."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    folder = build(tmp_path, "linear")
    binary = folder / "saved_model.pb"
    text = text_format.MessageToString(SavedModel.FromString(binary.read_bytes()))
    (folder / "saved_model.pbtxt").write_text(text)
    binary.unlink()
    assert call(folder, "serving_default", {"x": X}) == {"y": [[6.5], [8.5]]}


def test_a_graph_that_changes_variables_is_not_repeatable(tmp_path: Path):
    """Only what a signature runs counts: assignments that restore variables do not."""
    from tfrunner_workers import session_model

    folder = build(tmp_path, "counter")
    methods = session_model.describe(folder)
    assert not methods["serving_default"].repeatable
    assert session_model.describe(build(tmp_path, "heads"))["serving_default"].repeatable
    model = session_model.load(folder, methods)
    counts = [model.methods["serving_default"]([np.int64(4)]).arrays[0] for _ in range(3)]
    model.close()
    assert [int(count) for count in counts] == [4, 8, 12]


def test_changes_inside_functions_are_seen(tmp_path: Path):
    """A signature of TensorFlow 2 calls a function, which calls others."""
    import tensorflow as tf

    from tfrunner_workers import session_model

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="step")])
        def add(self, step: Any) -> Any:
            return {"count": self.inner(step) if step > 0 else self.count.read_value()}

        @tf.function
        def inner(self, step: Any) -> Any:
            return self.count.assign_add(step)

        @tf.function(input_signature=[])
        def look(self) -> Any:
            return {"count": self.count.read_value()}

    model = Counter()
    tf.saved_model.save(
        model, str(tmp_path / "m"), signatures={"add": model.add, "look": model.look}
    )
    methods = session_model.describe(tmp_path / "m")
    assert {name: method.repeatable for name, method in methods.items()} == {
        "add": False,
        "look": True,
    }


def test_signatures_that_cannot_be_served_are_left_out(tmp_path: Path):
    """The others of the model are served."""
    from tfrunner_workers import session_model

    assert list(session_model.describe(build(tmp_path, "sparse"))) == ["dense"]
    assert list(session_model.describe(build(tmp_path, "unfed"))) == ["whole"]


def test_what_a_model_takes_and_gives_is_described_as_tensorflow_2_sees_it(tmp_path: Path):
    """Names, dtypes and sizes of inputs, and names of outputs, of the restored signatures."""
    from tfrunner_workers import savedmodel, session_model

    folder = build(tmp_path, "heads")
    restored = savedmodel.restore(folder)
    described = session_model.describe(folder)
    assert described.keys() == restored.signatures.keys()
    for name, function in restored.signatures.items():
        specs = function.structured_input_signature[1]
        assert [argument.name for argument in described[name].arguments] == sorted(specs)
        for leaf in described[name].inputs:
            assert (leaf.dtype, leaf.shape) == (
                specs[leaf.name].dtype.name,
                tuple(specs[leaf.name].shape.as_list()),
            )
        assert isinstance(described[name].output, DictSpec)
        assert list(described[name].output.items) == sorted(function.structured_outputs)


@pytest.mark.parametrize("name", ["linear", "table", "two_graphs", "nothing"])
def test_models_of_tensorflow_1_need_a_session(tmp_path: Path, name: str):
    """They have no object graph, or several graphs; TensorFlow 2 stores one of each."""
    import tensorflow as tf

    from tfrunner_workers import session_model

    assert session_model.is_needed(build(tmp_path, name))
    tf.saved_model.save(tf.Module(), str(tmp_path / "second"))
    assert not session_model.is_needed(tmp_path / "second")
    assert not session_model.is_needed(tmp_path / "nowhere")


def test_a_method_of_another_name_is_the_signature_with_its_tensors(tmp_path: Path):
    """`__call__` is exported as `serving_default`; names of tensors tell which it is."""
    import msgspec

    from tfrunner_workers import session_model

    folder = build(tmp_path, "heads")
    method = session_model.describe(folder)["upper"]
    renamed = msgspec.structs.replace(method, name="__call__")
    model = session_model.load(folder, {"__call__": renamed})
    output = model.methods["__call__"]([np.asarray([b"a"], object)])
    model.close()
    assert [array.tolist() for array in output.arrays] == [1, [b"A"]]


def test_errors_say_what_happened(tmp_path: Path):
    """No folder, an unreadable file, no signature, no such method, a lost file."""
    from tfrunner_workers import session_model

    with pytest.raises(CorruptModel, match="it has no saved_model"):
        session_model.describe(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"\xff\xff no protobuf")
    with pytest.raises(CorruptModel, match="cannot be read"):
        session_model.describe(broken)
    with pytest.raises(CorruptModel, match="no signature that can be served: there are none"):
        session_model.describe(build(tmp_path, "nothing"))
    linear = build(tmp_path, "linear")
    methods = session_model.describe(linear)
    other = session_model.describe(build(tmp_path, "loop"))
    with pytest.raises(CorruptModel, match="takes and gives what method 'serving_default' does"):
        session_model.load(linear, other)
    for path in (linear / "variables").iterdir():
        path.unlink()
    with pytest.raises(CorruptModel, match="cannot be loaded into a session"):
        session_model.load(linear, methods)


def test_graphs_without_the_tag_serve_must_be_one(tmp_path: Path):
    """Which is meant is not guessed."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    from tfrunner_workers import session_model

    folder = build(tmp_path, "two_graphs")
    binary = folder / "saved_model.pb"
    proto = SavedModel.FromString(binary.read_bytes())
    proto.meta_graphs[1].meta_info_def.tags[0] = "other"
    binary.write_bytes(proto.SerializeToString())
    with pytest.raises(CorruptModel, match=r"2 graphs, tagged \[\['train'\], \['other'\]\]"):
        session_model.describe(folder)


@pytest.mark.parametrize("name", ["linear", "counter", "two_graphs"])
def test_a_stored_model_of_tensorflow_1_is_served(home: Path, tmp_path: Path, name: str):
    """It is stored as it is; whichever loader can load it does."""
    import tfrunner
    from tfrunner_workers import savedmodel

    saved = tfrunner.tensorflow.save(build(tmp_path, name), "m")
    model = savedmodel.load(saved.path)
    assert model.restored is None and model.session is not None
    (method,) = model.spec.methods.values()
    (leaf,) = method.inputs
    shape = tuple(2 if size is None else size for size in leaf.shape or ())
    output = model.methods[method.name]([np.ones(shape, leaf.dtype)])
    assert (
        output.arrays[0].tolist()
        == {
            "linear": [[6.5], [6.5]],
            "counter": 1,
            "two_graphs": [3, 3],
        }[name]
    )
    model.session.close()


def test_what_no_loader_can_load_is_refused_with_the_usual_reason(home: Path):
    """The reason of TensorFlow 2's loader, not that of the last resort."""
    import tensorflow as tf

    import tfrunner
    from tests.models import MultiOutputModel
    from tfrunner_workers import savedmodel

    saved = tfrunner.tensorflow.save(MultiOutputModel(), "m")
    index = saved.path / "saved_model" / "variables" / "variables.index"
    index.write_bytes(bytes(index.stat().st_size))
    with pytest.raises(CorruptModel, match="cannot be loaded by TensorFlow"):
        savedmodel.load(saved.path)
    assert tf.executing_eagerly()


def prepare(executor: str = SINGLE_THREADED) -> tuple[Any, Any, Any]:
    """Return a session, a placeholder of shape [any, 3], and its double."""
    import tensorflow as tf

    from tfrunner_workers.sessions import configuration

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        y = tf.identity(2 * x, name="y")
    return tf.compat.v1.Session(graph=graph, config=configuration(executor, 2)), x, y


@pytest.mark.parametrize("executor", ["", SINGLE_THREADED], ids=["usual", "single-threaded"])
def test_what_is_given_back_as_it_came_can_be_fetched(executor: str):
    """TensorFlow prepares no call that gives what it takes; a tensor may be given twice."""
    from tfrunner_workers.sessions import prepared

    session, x, y = prepare(executor)
    with session:
        for fetches in ([x], [x, y], [y, y]):
            given = prepared(session, [x], fetches)(X)
            for fetch, array in zip(fetches, given, strict=True):
                np.testing.assert_array_equal(array, X if fetch is x else 2 * X)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]):
    """The graph was optimized for the shapes that it knows."""
    from tfrunner_workers.sessions import prepared

    session, x, y = prepare()
    with session:
        run = prepared(session, [x], [y])
        with pytest.raises(ValueError, match=r"no x:0 of shape \(None, 3\)"):
            run(np.ones(shape, np.float32))
        np.testing.assert_array_equal(run(X)[0], 2 * X)


def test_a_tensorflow_without_prepared_calls_gives_the_same():
    """The method that prepares them is not public: it may be gone some day."""
    from tfrunner_workers.sessions import prepared

    class Public:
        """A session with what is public only."""

        def __init__(self, session: Any) -> None:
            self.make_callable = session.make_callable

    session, x, y = prepare()
    with session:
        np.testing.assert_array_equal(prepared(Public(session), [x], [y])(X)[0], 2 * X)
