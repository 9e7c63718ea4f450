"""Objects that travel with a model: pickled beside it, read only where somebody asks."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from tfrunner.custom_objects import (
    CUSTOM_OBJECTS_FILE,
    check_custom_objects,
    read_custom_objects,
    write_custom_objects,
)
from tfrunner.entry import Model, ModelInfo
from tfrunner.errors import CorruptModel, InvalidInput, StateError
from tfrunner.store import Store


class Loud:
    """An object whose pickle, when read, writes a file: as that of an attacker would."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.file, "the pickle was read"))


def put(home: Path, objects: Any, *, modules: Any = (), imported: bool = False) -> Model:
    """Save an entry with custom objects, and without a model that TensorFlow could load."""
    store = Store(home)
    with store.new() as folder:
        (folder / "saved_model").mkdir()
        (folder / "saved_model" / "saved_model.pb").write_bytes(b"x")
        write_custom_objects(folder, *check_custom_objects(objects, modules))
        info = ModelInfo(
            name="m",
            version="v1",
            creation_time="2026-01-01T00:00:00+00:00",
            imported=imported,
            methods={},
        )
        return store.commit(folder, info)


def test_objects_come_back_when_they_are_asked_for(home: Path) -> None:
    """Functions of the main program too, and the same ones at each use."""
    model = put(home, {"double": lambda x: 2 * x, "words": ["a", "b"]})
    assert CUSTOM_OBJECTS_FILE in model.info.files
    objects = Store(home).get("m").custom_objects
    assert objects["double"](4) == 8
    assert objects["words"] == ["a", "b"]
    again = Store(home).get("m")
    assert again.custom_objects is again.custom_objects


def test_a_model_without_objects_has_none(home: Path) -> None:
    """And no file for them."""
    model = put(home, None)
    assert model.custom_objects == {}
    assert not (model.path / CUSTOM_OBJECTS_FILE).exists()
    assert put_again(model, imported=True).custom_objects == {}


def put_again(model: Model, **changes: Any) -> Model:
    """Return the same entry with another `model.yaml`."""
    return Model(msgspec.structs.replace(model.info, **changes), model.path)


def test_getting_and_listing_read_no_pickle(home: Path, tmp_path: Path) -> None:
    """Only the objects themselves do."""
    trace = tmp_path / "trace"
    put(home, {"loud": Loud(trace)})
    trace.unlink(missing_ok=True)  # written while the saved pickle was tried
    store = Store(home)
    (model,) = store.list()
    assert (store.get("m"), model.spec.name, model.size > 0) == (model, "m", True)
    model.verify()
    assert not trace.exists()
    _ = model.custom_objects
    assert trace.exists()


def test_those_of_an_imported_model_are_read_only_with_trust(home: Path, tmp_path: Path) -> None:
    """The error says what could happen; nothing has."""
    trace = tmp_path / "trace"
    put(home, {"loud": Loud(trace)}, imported=True)
    trace.unlink(missing_ok=True)
    model = Store(home).get("m")
    for load in (lambda: model.custom_objects, model.load_custom_objects):
        with pytest.raises(StateError, match=r"runs whatever code.*trust=True"):
            load()
    assert not trace.exists()
    assert set(model.load_custom_objects(trust=True)) == {"loud"}
    assert trace.exists()
    assert set(model.custom_objects) == {"loud"}


def test_a_changed_file_is_not_read(home: Path, tmp_path: Path) -> None:
    """Its hash is checked first, though its size is the same."""
    trace = tmp_path / "trace"
    model = put(home, {"loud": Loud(trace)})
    trace.unlink(missing_ok=True)
    file = model.path / CUSTOM_OBJECTS_FILE
    file.write_bytes(file.read_bytes().replace(b"loud", b"LOUD"))
    with pytest.raises(CorruptModel, match="its hash differs"):
        _ = Store(home).get("m").custom_objects
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps([1]), "holds a list; expected a dict"),
        (b"no pickle", "cannot be read: UnpicklingError"),
        (pickle.dumps({"a": 1})[:-3], "cannot be read"),
        (b"cno_such_module\nthing\n.", r"ModuleNotFoundError.*external_modules="),
    ],
    ids=["list", "text", "cut", "module"],
)
def test_what_cannot_be_read_is_corrupt(tmp_path: Path, data: bytes, message: str) -> None:
    """The error names the file and what to do."""
    file = tmp_path / CUSTOM_OBJECTS_FILE
    file.write_bytes(data)
    with pytest.raises(CorruptModel, match=message) as caught:
        read_custom_objects(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("objects", "modules", "message"),
    [
        ([1], None, "is a list; expected a dict"),
        ({1: 2}, None, "has the key 1; expected text"),
        ({"a": (n for n in "ab")}, None, "cannot be stored: TypeError"),
        ({"a": 1}, "tests.models", "expected a list of modules"),
        ({"a": 1}, ["tests.models"], "holds 'tests.models'; expected modules"),
    ],
    ids=["list", "key", "generator", "text", "names"],
)
def test_what_cannot_be_stored_is_refused(
    home: Path, objects: Any, modules: Any, message: str
) -> None:
    """The message says what was expected; nothing is stored."""
    with pytest.raises(InvalidInput, match=message):
        put(home, objects, modules=modules)
    assert Store(home).list() == []


CODE = """
class Scaler:
    def scale(self, x):
        return 3 * x
"""
READ = """
import sys
from pathlib import Path
from tfrunner.store import Store
assert "tensorflow" not in sys.modules
print(Store(Path(sys.argv[1])).get("m").custom_objects["scaler"].scale(5))
"""


@pytest.mark.parametrize("is_external", [True, False], ids=["by value", "by name"])
def test_the_code_of_modules_travels_along(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_external: bool
) -> None:
    """Where they are named; otherwise they must be importable where the objects are read."""
    import cloudpickle

    (tmp_path / "own_scaler.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module: ModuleType = importlib.import_module("own_scaler")
    try:
        put(home, {"scaler": module.Scaler()}, modules=[module] if is_external else None)
    finally:
        del sys.modules["own_scaler"]
    assert cloudpickle.list_registry_pickle_by_value() == set()
    command = [sys.executable, "-c", READ, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if is_external:
        assert done.stdout == "15\n", done.stderr
    else:
        assert "No module named 'own_scaler'" in done.stderr


@pytest.mark.tensorflow
def test_everything_that_save_is_told_is_read_back(home: Path) -> None:
    """Batch axes that differ, labels, a fitted scaler, metadata."""
    tf = importlib.import_module("tensorflow")
    StandardScaler = importlib.import_module("sklearn.preprocessing").StandardScaler
    from tfrunner import tensorflow

    class Transposing(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([5, None], tf.float64, name="columns")])
        def __call__(self, columns: Any) -> Any:
            return tf.reduce_sum(columns, axis=0)[:, None]

    scaler = StandardScaler().fit(np.array([[2], [6], [6], [8]]))
    options = {
        "signatures": {"__call__": {"batchable": True, "batch_dim": (1, 0)}},
        "labels": {"stage": "test", "team": "digits"},
        "custom_objects": {"scaler": scaler},
        "metadata": {"model": "test", "list": [1, "two"]},
    }
    tensorflow.save(Transposing(), "m", **options)
    model = tensorflow.get("m")
    method = model.spec.methods["__call__"]
    assert (method.batchable, method.batch_dim) == (True, (1, 0))
    assert model.labels == options["labels"]
    assert model.metadata == options["metadata"]
    restored = model.custom_objects["scaler"]
    assert (restored.mean_.tolist(), restored.var_.tolist()) == ([5.5], [4.75])
    with model.to_runner() as runner:
        runner.init_local(quiet=True)
        assert runner.run(np.arange(10.0).reshape(5, 2)).tolist() == [[20.0], [25.0]]


@pytest.mark.tensorflow
def test_serving_reads_no_pickle(home: Path, tmp_path: Path) -> None:
    """Neither loading the model nor running it."""
    from tests.models import NativeModel
    from tfrunner import tensorflow

    trace = tmp_path / "trace"
    tensorflow.save(NativeModel(), "m", custom_objects={"loud": Loud(trace)})
    trace.unlink(missing_ok=True)
    model = tensorflow.get("m")
    with model.to_runner() as runner:
        runner.init_local(quiet=True)
        assert runner.run([[1, 2, 3, 4, 5]]).tolist() == [[15.0]]
    tensorflow.load_model(model)
    assert not trace.exists()
