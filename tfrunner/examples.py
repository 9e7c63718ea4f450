"""The example inputs stored with a model: `examples.npz`, arrays only, never a pickle.

Key `<method>/<number>` holds an input tensor, in the order of `specs.leaves`. NumPy can store
objects only as a pickle, so a string tensor is two arrays: `.../body` and `.../shape`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfrunner.errors import CorruptModel, TFRunnerError
from tfrunner.specs import MethodSpec, leaves
from tfrunner.tensors import STRING, Array, dtype_name, from_body, to_body


def write_examples(file: Path, examples: Mapping[str, Sequence[Array]]) -> None:
    """Write the example inputs of each method."""
    arrays: dict[str, Array] = {}
    for method, inputs in examples.items():
        for number, array in enumerate(inputs):
            key = f"{method}/{number}"
            if dtype_name(array) == STRING:
                arrays[f"{key}/body"] = np.frombuffer(to_body(array), np.uint8)
                arrays[f"{key}/shape"] = np.asarray(array.shape, np.int64)
            else:
                arrays[key] = array
    np.savez(file, allow_pickle=False, **arrays)


def read_examples(file: Path, method: MethodSpec) -> list[Array] | None:
    """Return the example inputs of a method, None if there are none.

    Raises:
        CorruptModel: The file cannot be read.
    """
    if not file.is_file():
        return None
    tensors = [leaf for argument in method.arguments for leaf in leaves(argument.spec)]
    try:
        with np.load(file, allow_pickle=False) as stored:
            if not any(key.startswith(f"{method.name}/") for key in stored.files):
                return None
            return [_read(stored, f"{method.name}/{i}", t.dtype) for i, t in enumerate(tensors)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, TFRunnerError) as exc:
        raise CorruptModel(f"{file} cannot be read: {exc}. Save the model again.") from exc


def _read(stored: Mapping[str, Array], key: str, dtype: str) -> Array:
    if dtype != STRING:
        return stored[key]
    shape = tuple(int(size) for size in stored[f"{key}/shape"].tolist())
    return from_body(stored[f"{key}/body"].tobytes(), STRING, shape)
