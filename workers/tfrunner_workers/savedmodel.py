"""A saved model, loaded: its methods as functions of arrays. Imports TensorFlow.

The reference plan: the restored function, called with tensors. Every faster plan must give
what this one gives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfrunner import ragged
from tfrunner.entry import EXAMPLES_FILE, SAVED_MODEL, Model, read_model
from tfrunner.errors import CorruptModel, ModelError, TFRunnerError
from tfrunner.examples import read_examples
from tfrunner.framework import quiet_loaders
from tfrunner.specs import (
    MethodSpec,
    ModelSpec,
    TensorSpec,
)
from tfrunner.tensors import STRING, Array, dtype_name
from tfrunner_workers import session_model, signatures
from tfrunner_workers.hosted import Method, Output
from tfrunner_workers.outputs import to_output
from tfrunner_workers.session_model import SessionModel


class LoadedModel:
    """A loaded model, as a worker or a local runner uses it.

    Args:
        spec: The stored specification.
        methods: Each method as a function of its input tensors.
        restored: TensorFlow's restored object; None where a session serves the model.
        path: The version's folder.
        session: What serves it where TensorFlow 2 restores no functions.
    """

    def __init__(
        self,
        spec: ModelSpec,
        methods: dict[str, Method],
        *,
        restored: Any,
        path: Path,
        session: SessionModel | None = None,
    ) -> None:
        self.spec = spec
        self.methods = methods
        self.restored = restored
        self.path = path
        self.session = session

    def __repr__(self) -> str:
        return f"<LoadedModel {self.spec.tag} [{', '.join(self.methods)}]>"

    def example(self, method: str) -> list[Array] | None:
        """Return the example inputs stored with the model for this method, if any."""
        return read_examples(self.path / EXAMPLES_FILE, self.spec.methods[method])


def load(path: str | Path, *, device: str | None = None) -> LoadedModel:
    """Return the model of a version's folder.

    Args:
        path: The folder, with `model.yaml` and `saved_model/`.
        device: TensorFlow's name of the device for its variables; its own choice by default.

    Raises:
        CorruptModel: It cannot be read, or is not what `model.yaml` says.
    """
    entry = read_model(Path(path))
    if session_model.is_needed(entry.path / SAVED_MODEL):
        return _load_session(entry)
    try:
        return _load_restored(entry, device)
    except CorruptModel as exc:
        try:
            return _load_session(entry)
        except CorruptModel:
            raise exc from exc.__cause__


def _load_session(entry: Model) -> LoadedModel:
    """Return a model that is served by a session, as TensorFlow 1 did it."""
    session = session_model.load(entry.path / SAVED_MODEL, entry.spec.methods)
    return LoadedModel(entry.spec, session.methods, restored=None, path=entry.path, session=session)


def _load_restored(entry: Model, device: str | None) -> LoadedModel:
    """Return a model whose functions TensorFlow 2 restores."""
    restored = restore(entry.path / SAVED_MODEL, device=device)
    methods = {}
    for name, method in entry.spec.methods.items():
        try:
            function = signatures.find(restored, name)
            methods[name] = make_method(function, method, owner=restored)
        except CorruptModel:
            raise
        except TFRunnerError as exc:
            raise CorruptModel(f"{entry.path / SAVED_MODEL}: {exc}") from exc
    return LoadedModel(entry.spec, methods, restored=restored, path=entry.path)


def restore(folder: Path, *, device: str | None = None) -> Any:
    """Return TensorFlow's restored object of a SavedModel folder.

    Raises:
        CorruptModel: TensorFlow cannot load it.
    """
    try:
        with quiet_loaders(tf), tf.device(device) if device else contextlib.nullcontext():
            return tf.saved_model.load(str(folder))
    except Exception as exc:
        raise CorruptModel(f"{folder} cannot be loaded by TensorFlow: {exc}") from exc


def make_method(function: Any, method: MethodSpec, *, owner: Any) -> Method:
    """Return a restored function as a function of its input tensors.

    Args:
        function: What `signatures.find` gave.
        method: Its specification.
        owner: The restored object; a function does not keep the variables that it reads.

    Raises:
        CorruptModel: The function takes other tensors than the specification says.
    """
    forms = {_key(variant.inputs): variant for variant in method.of_variants()}
    runs: dict[Key, Method] = {}
    taken = []
    for traces in signatures.trace_groups(function):
        structure = traces[0].structured_input_signature
        key = tuple((spec.dtype.name, _ragged_rank(spec)) for spec in _specs(structure))
        taken.append(key)
        if key in forms:
            runs[key] = _make_variant(function, structure, forms[key])
    if runs.keys() != forms.keys():
        raise CorruptModel(
            f"method {method.name!r} takes tensors of {taken}; model.yaml says {list(forms)}."
        )
    if len(runs) == 1:
        (run,) = runs.values()
    else:
        run = _choose(method, runs)
    run.owner = owner  # type: ignore[attr-defined]
    return run


Key = tuple[tuple[str, int], ...]
"""Dtype and ragged rank of each tensor: by these the variants of a method differ."""


def _key(specs: list[TensorSpec]) -> Key:
    return tuple((spec.dtype, spec.ragged_rank) for spec in specs)


def _make_variant(function: Any, structure: Any, method: MethodSpec) -> Method:
    """Return one signature of a function as a function of its input tensors."""
    args, kwargs = structure
    specs = list(_specs(structure))
    is_plain = not kwargs and all(isinstance(value, tf.TensorSpec) for value in args)

    def run(arrays: list[Array]) -> Output:
        if is_plain:
            return to_output(function(*[tf.constant(a) for a in arrays]), method.output)
        tensors = [to_tensor(array, spec) for array, spec in zip(arrays, specs, strict=True)]
        take = iter(tensors).__next__
        filled = _fill(args, take)  # positional arguments come first in `leaves` order
        return to_output(function(*filled, **_fill(kwargs, take)), method.output)

    return run


def _choose(method: MethodSpec, runs: dict[Key, Method]) -> Method:
    """Return a polymorphic function: which variant runs is said by the tensors' dtypes."""

    def run(arrays: list[Array]) -> Output:
        for key, variant in runs.items():
            if len(key) == len(arrays) and all(map(_is_of, arrays, key)):
                return variant(arrays)
        given = [array.dtype.name for array in arrays]
        raise ModelError(f"{method.name} takes no tensors of {given}; it takes {list(runs)}.")

    return run


def _is_of(array: Array, kind: tuple[str, int]) -> bool:
    """Return whether an array may be a tensor of this dtype and ragged rank."""
    dtype, ragged_rank = kind
    if not array.dtype.hasobject:
        return ragged_rank == 0 and array.dtype.name == dtype
    if ragged_rank:
        rows, _ = ragged.flatten(array, ragged_rank)
        return not rows or dtype in (dtype_name(rows[0]),)
    return dtype == STRING and not (array.size and isinstance(array.flat[0], np.ndarray))


def to_tensor(array: Array, spec: Any) -> Any:
    """Return an array as the tensor that a TensorFlow spec asks for."""
    if not isinstance(spec, tf.RaggedTensorSpec):
        return tf.constant(array)
    rows, lengths = ragged.flatten(array, spec.ragged_rank)
    inner = tuple(size or 0 for size in spec.shape.as_list()[spec.ragged_rank + 1 :])
    values = ragged.join(rows, spec.dtype.as_numpy_dtype, inner)
    nested = [tf.constant(sizes, spec.row_splits_dtype) for sizes in lengths]
    return tf.RaggedTensor.from_nested_row_lengths(tf.constant(values, spec.dtype), nested)


def _ragged_rank(spec: Any) -> int:
    return getattr(spec, "ragged_rank", 0)


def _specs(value: Any) -> Iterator[Any]:
    """Yield the TensorSpecs of a structured signature, dicts in the order of their keys."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _specs(value[key])
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _specs(child)
    elif isinstance(value, (tf.TensorSpec, tf.RaggedTensorSpec)):
        yield value


def _fill(value: Any, take: Callable[[], Any]) -> Any:
    """Return a structured signature with each TensorSpec replaced by the next tensor."""
    if isinstance(value, dict):
        return {key: _fill(value[key], take) for key in sorted(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_fill(child, take) for child in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_fill(child, take) for child in value)
    return take() if isinstance(value, (tf.TensorSpec, tf.RaggedTensorSpec)) else value
