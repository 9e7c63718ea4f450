"""The example inputs stored with a model: `examples.npz`, arrays only, never a pickle.

Key `<method>/<number>` holds an input tensor, in the order of `specs.leaves`. What NumPy could
store only as a pickle (text, ragged tensors) or not at all (bfloat16) is two arrays, the body
as it travels and the shape: `.../body` and `.../shape`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tfrunner.errors import CorruptModel, TFRunnerError
from tfrunner.specs import MethodSpec, TensorSpec
from tfrunner.tensors import BFLOAT16, STRING, Array, from_body, leaf_of, to_body


def write_examples(
    file: Path, examples: Mapping[str, Sequence[Array]], methods: Mapping[str, MethodSpec]
) -> None:
    """Write the example inputs of each method.

    Args:
        file: The file.
        examples: By method, its input tensors.
        methods: The same methods; of a polymorphic one the variant that takes the example.
    """
    arrays: dict[str, Array] = {}
    for method, inputs in examples.items():
        for number, (spec, array) in enumerate(zip(methods[method].inputs, inputs, strict=True)):
            key = f"{method}/{number}"
            if _is_body(spec):
                leaf = leaf_of(spec, array)
                arrays[f"{key}/body"] = np.frombuffer(to_body(array, leaf), np.uint8)
                arrays[f"{key}/shape"] = np.asarray(leaf.shape, np.int64)
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
    try:
        with np.load(file, allow_pickle=False) as stored:
            if not any(key.startswith(f"{method.name}/") for key in stored.files):
                return None
            forms = [each.inputs for each in method.of_variants()]
            specs = next((form for form in forms if _fits(stored, method.name, form)), forms[0])
            return [_read(stored, f"{method.name}/{i}", spec) for i, spec in enumerate(specs)]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, TFRunnerError) as exc:
        raise CorruptModel(f"{file} cannot be read: {exc}. Save the model again.") from exc


def _is_body(spec: TensorSpec) -> bool:
    return spec.ragged_rank > 0 or spec.dtype in (STRING, BFLOAT16.name)


def _fits(stored: Mapping[str, Array], method: str, specs: Sequence[TensorSpec]) -> bool:
    """Return whether the stored tensors are those that one variant of a method takes."""
    for number, spec in enumerate(specs):
        key = f"{method}/{number}"
        if _is_body(spec):
            if f"{key}/body" not in stored:
                return False
        elif key not in stored or stored[key].dtype.name != spec.dtype:
            return False
    return f"{method}/{len(specs)}" not in stored and f"{method}/{len(specs)}/body" not in stored


def _read(stored: Mapping[str, Array], key: str, spec: TensorSpec) -> Array:
    if not _is_body(spec):
        return stored[key]
    shape = tuple(int(size) for size in stored[f"{key}/shape"].tolist())
    return from_body(stored[f"{key}/body"].tobytes(), spec.dtype, shape, spec.ragged_rank)
