"""Models that BentoML saved, taken into the store with what its `model.yaml` says."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tfrunner import models
from tfrunner.errors import InvalidInput
from tfrunner.tags import Tag

INFO = """
name: iris
version: {version}
module: {module}
labels: {{team: botany}}
options: {{partial_kwargs: {{}}}}
metadata: {{accuracy: 0.9}}
context:
  framework_name: tensorflow
  framework_versions: {{tensorflow: 2.12.0}}
  bentoml_version: 1.1.0
  python_version: 3.10.0
signatures:
  {method}:
    batchable: true
    batch_dim: [0, 0]
api_version: v2
creation_time: '2023-01-01T00:00:00.000000+00:00'
"""


def write_info(
    folder: Path,
    version: str = "abc",
    *,
    module: str = "bentoml.tensorflow",
    method: str = "__call__",
) -> Path:
    """Write what BentoML 1.1 does beside a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(INFO.format(version=version, module=module, method=method))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of BentoML's store."""
    made: Any = importlib.import_module("tests.models")
    tf: Any = importlib.import_module("tensorflow")
    path = tmp_path_factory.mktemp("bentoml") / "iris" / "abc"
    tf.saved_model.save(made.NativeModel(), str(path))
    return write_info(path)


@pytest.mark.tensorflow
def test_a_model_of_bentoml_keeps_what_it_said(folder: Path, home: Path) -> None:
    """Tag, labels, metadata, and what is batchable; another name keeps the version."""
    model = models.import_model(folder)
    assert (model.tag, model.labels) == (Tag("iris", "abc"), {"team": "botany"})
    assert model.metadata == {"accuracy": 0.9}
    assert {name: each.batchable for name, each in model.spec.methods.items()} == {"__call__": True}
    assert models.import_model(folder, name="flowers").tag == Tag("flowers", "abc")
    runner = model.to_runner()
    runner.init_local(quiet=True)
    assert runner.run([[1, 2, 3, 4, 5]]).tolist() == [[15.0]]
    runner.destroy()


@pytest.mark.tensorflow
def test_methods_of_its_keras_module_are_found_anew(folder: Path, home: Path) -> None:
    """It calls `predict` what the SavedModel has as `__call__`."""
    write_info(folder, "k1", module="bentoml.keras", method="predict")
    try:
        model = models.import_model(folder)
    finally:
        write_info(folder)
    assert (str(model.tag), list(model.spec.methods)) == ("iris:k1", ["__call__"])


@pytest.mark.tensorflow
def test_the_command_imports_it_without_a_word_of_tensorflow(folder: Path, home: Path) -> None:
    """What TensorFlow tells about itself is for nobody who imports a model."""
    command = [sys.executable, "-m", "tfrunner", "models", "import", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("imported iris:abc (serial 1, ")
    assert "batchable" not in done.stdout


def test_an_archive_of_bentoml_says_how_it_is_imported(tmp_path: Path, home: Path) -> None:
    """By its contents, whatever it is called."""
    inside = write_info(tmp_path / "inside")
    (inside / "saved_model.pb").write_bytes(b"")
    archive = tmp_path / "iris.bentomodel"
    with tarfile.open(archive, "w:xz") as tar:
        for file in sorted(inside.iterdir()):
            tar.add(file, file.name)
    with pytest.raises(InvalidInput, match=r"a model of BentoML\. Unpack it, .*tar -xf"):
        models.import_model(archive)


def test_a_model_of_another_framework_is_refused(tmp_path: Path, home: Path) -> None:
    """With what it is, and what can be done."""
    folder = write_info(tmp_path / "m", module="bentoml.sklearn")
    with pytest.raises(InvalidInput, match=r"bentoml\.sklearn, and has no saved_model\.pb"):
        models.import_model(folder)


@pytest.mark.parametrize("text", ["{", "a: &a [1]\nb: *a", "[" * 200 + "]" * 200], ids=str.__len__)
def test_a_hostile_model_yaml_is_not_taken_for_one(text: str, tmp_path: Path, home: Path) -> None:
    """It is refused as one of ours would be, and read with the same bounds."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=r"its model\.yaml cannot be read"):
        models.import_model(tmp_path / "m")
