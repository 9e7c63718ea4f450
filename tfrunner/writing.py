"""Writes a model's folder for the store: the SavedModel, its methods, its examples.

Only `tfrunner.tensorflow.save` comes here. Imports TensorFlow inside functions.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfrunner import casting
from tfrunner.entry import EXAMPLES_FILE, SAVED_MODEL
from tfrunner.errors import InvalidInput, NotFound, TFRunnerError, did_you_mean
from tfrunner.examples import write_examples
from tfrunner.framework import import_tensorflow
from tfrunner.keras_models import is_keras_model, wrap
from tfrunner.saving import MethodOptions, apply_options
from tfrunner.specs import MethodSpec, TensorSpec, leaves
from tfrunner.tensors import DTYPES, STRING, Array, check_rows

log = logging.getLogger(__name__)

TRIAL_BYTES = 16 * 2**20
"""Largest made-up input that a saved model is tried with."""

TRIAL_ROWS = 2

KERAS_INTERNALS = frozenset(
    {"call_and_return_all_conditional_losses", "call_and_return_conditional_losses"}
)


def write_saved_model(
    model: Any,
    folder: Path,
    *,
    options: dict[str, MethodOptions] | None,
    tf_signatures: Any,
    tf_save_options: Any,
    example: Any,
) -> dict[str, MethodSpec]:
    """Write `saved_model/` and `examples.npz`; return what the methods take and give.

    Raises:
        InvalidInput: The model cannot be saved, or fails on its example.
        NotFound: A method in `options` does not exist.
    """
    _write(model, folder, options=options, tf_signatures=tf_signatures, save=tf_save_options)
    from tfrunner_workers import savedmodel, signatures

    restored = savedmodel.restore(folder / SAVED_MODEL)
    if options is None:
        exported = getattr(restored, "signatures", {})
        options = _default_options(signatures.functions(restored), exported)
    methods: dict[str, MethodSpec] = {}
    inputs: dict[str, list[Array]] = {}
    examples = _split_by_method(example, list(options))
    for name, chosen in options.items():
        function = signatures.find(restored, name)
        described = signatures.describe(function, name, batchable=chosen.batchable)
        method = apply_options(described, chosen)
        if name in examples:
            inputs[name] = casting.bind(method, *_as_call(method, examples[name]))
        run = savedmodel.make_method(function, method, owner=restored)
        _try_method(method, run, inputs.get(name))
        methods[name] = method
    if inputs:
        write_examples(folder / EXAMPLES_FILE, inputs)
    return methods


def _write(
    model: Any,
    folder: Path,
    *,
    options: dict[str, MethodOptions] | None,
    tf_signatures: Any,
    save: Any,
) -> None:
    """Write `saved_model/`; Keras models are wrapped."""
    tf = import_tensorflow()
    if is_keras_model(model):
        model = wrap(tf, model)
    traced = _trace(tf, model, tf_signatures)
    if options is not None:
        _check_names(tf, model, options, traced)
    try:
        tf.saved_model.save(model, str(folder / SAVED_MODEL), signatures=traced, options=save)
    except (ValueError, TypeError, AssertionError) as exc:
        raise InvalidInput(f"TensorFlow cannot save this {type(model).__name__}: {exc}") from exc


def _trace(tf: Any, model: Any, tf_signatures: Any) -> Any:
    """Return what `tf.saved_model.save` gets as signatures.

    A dict of TensorSpecs gives `__call__` its signature, by tracing it, and nothing else.
    """
    is_specs = isinstance(tf_signatures, Mapping) and any(
        isinstance(value, tf.TypeSpec) for value in tf_signatures.values()
    )
    if not is_specs:
        return tf_signatures
    function = model.__call__ if callable(model) else None
    if not isinstance(function, tf.types.experimental.PolymorphicFunction):
        raise InvalidInput(
            "tf_signature gives tensor specs, but the model's __call__ is no tf.function. "
            "Decorate it with @tf.function."
        )
    specs = {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in tf_signatures.items()
    }
    try:
        function.get_concrete_function(**specs)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"tf_signature does not fit the model's __call__: {exc}") from exc
    return None


def _check_names(tf: Any, model: Any, options: Mapping[str, Any], traced: Any) -> None:
    """Refuse methods that do not exist before anything is written."""
    named = list(traced) if isinstance(traced, Mapping) else ["serving_default"] if traced else []
    for name in options:
        if name not in named and getattr(model, name, None) is None:
            kind = tf.types.experimental.PolymorphicFunction
            known = [key for key, value in _members(model) if isinstance(value, kind)]
            raise NotFound(
                f"signatures names the method {name!r}, which the model does not have."
                f"{did_you_mean(name, {*known, *named})}"
            )


def _members(model: Any) -> list[tuple[str, Any]]:
    """Return the attributes of an object without running its properties."""
    return [(name, inspect.getattr_static(model, name, None)) for name in dir(model)]


def _default_options(found: Mapping[str, Any], exported: Mapping[str, Any]) -> dict[str, Any]:
    """Return the methods that are served where `signatures` does not say."""
    names = [
        name
        for name in found
        if name not in exported
        and name not in KERAS_INTERNALS
        and (name == "__call__" or not name.startswith("_"))
    ]
    chosen = {name: MethodOptions() for name in names or ["__call__"]}
    log.info("methods to serve, none batchable: %s", ", ".join(chosen))
    return chosen


def _split_by_method(example: Any, methods: list[str]) -> dict[str, Any]:
    """Return the example inputs of each method that has some."""
    if example is None:
        return {}
    if isinstance(example, Mapping) and example and all(key in methods for key in example):
        return dict(example)
    if "__call__" in methods or len(methods) == 1:
        return {"__call__" if "__call__" in methods else methods[0]: example}
    raise InvalidInput(
        "the model has several methods: give example as a dict by method, of "
        + ", ".join(repr(name) for name in methods)
    )


def _as_call(method: MethodSpec, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named values from one method's example."""
    names = {argument.name for argument in method.arguments}
    if isinstance(example, Mapping) and set(example) == names:
        return (), dict(example)
    if isinstance(example, tuple):
        return example, {}
    return (example,), {}


def _try_method(method: MethodSpec, run: Any, inputs: list[Array] | None) -> None:
    """Run a loaded method once, on its example inputs or else on zeros.

    A failure with made-up zeros says little about the model, and is only reported.

    Raises:
        InvalidInput: It fails on its example.
    """
    arrays = inputs if inputs is not None else _zeros(method)
    if arrays is None:
        return
    try:
        output = run(arrays)
        if method.batchable:
            rows = casting.count_rows(method, arrays)
            for array, leaf in zip(output.arrays, leaves(output.structure), strict=True):
                check_rows(array, method.batch_dim[1], rows, output=leaf.name)
    except Exception as exc:
        reason = str(exc) if isinstance(exc, TFRunnerError) else f"{type(exc).__name__}: {exc}"
        if inputs is not None:
            raise InvalidInput(
                f"the loaded model fails on the example of {method.name!r}: {reason}"
            ) from exc
        log.warning("%s fails on zeros (pass example= to try real inputs): %s", method.name, reason)


def _zeros(method: MethodSpec) -> list[Array] | None:
    """Return made-up inputs, None where a rank is unknown or they would be large."""
    tensors = [leaf for argument in method.arguments for leaf in leaves(argument.spec)]
    arrays = []
    for tensor in tensors:
        if tensor.shape is None:
            return None
        shape = _trial_shape(tensor, method)
        if int(np.prod(shape)) * DTYPES[tensor.dtype].itemsize > TRIAL_BYTES:
            return None
        if tensor.dtype == STRING:
            array: Array = np.full(shape, b"", dtype=object)
        else:
            array = np.zeros(shape, DTYPES[tensor.dtype])
        arrays.append(array)
    return arrays


def _trial_shape(tensor: TensorSpec, method: MethodSpec) -> tuple[int, ...]:
    rows = TRIAL_ROWS if method.batchable else 1
    axis = method.batch_dim[0]
    return tuple(
        (rows if index == axis else 1) if size is None else size
        for index, size in enumerate(tensor.shape or ())
    )
