"""Writes a model's folder for the store: the SavedModel, its methods, its examples.

Only `save` comes here. Imports TensorFlow inside functions.
"""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tfrunner import casting, loaded
from tfrunner.entry import EXAMPLES_FILE, SAVED_MODEL
from tfrunner.errors import InvalidInput, NotFound, did_you_mean
from tfrunner.examples import write_examples
from tfrunner.filing import Request
from tfrunner.framework import import_tensorflow
from tfrunner.keras_inputs import find_inputs
from tfrunner.keras_models import (
    KERAS_MODEL,
    is_keras_model,
    load_keras_file,
    save_keras_file,
    wrap,
)
from tfrunner.saving import MethodOptions, apply_options
from tfrunner.sources import KerasFile, SavedModelFolder
from tfrunner.specs import MethodSpec, default_method
from tfrunner.tensors import Array
from tfrunner.trials import try_method, try_padding

log = logging.getLogger(__name__)

KERAS = "keras"
"""The module whose `save` takes Keras models only, and serves `predict`."""


def write_model(source: Any, folder: Path, request: Request) -> dict[str, MethodSpec]:
    """Write `saved_model/` and `examples.npz`; return what the methods take and give.

    Args:
        source: A model, a SavedModelFolder or a KerasFile.
        folder: Of the version.
        request: What `save` was told.

    Raises:
        InvalidInput: The model cannot be saved, or fails on its example.
        NotFound: A method in the request's signatures does not exist.
    """
    options = request.options()
    if request.module == KERAS and options is None:
        options = {"predict": MethodOptions()}
    is_foreign = isinstance(source, SavedModelFolder)
    if is_foreign:
        _copy(source.path, folder / SAVED_MODEL, request)
    else:
        _write(_model_of(source, request), folder, request, options)
        if request.module == KERAS:
            save_keras_file(source, folder / KERAS_MODEL, request.custom_objects or {})
    model = loaded.load(folder / SAVED_MODEL, is_foreign=is_foreign)
    try:
        return _describe(model, folder, request, options)
    finally:
        model.close()


def _describe(
    model: loaded.Loaded,
    folder: Path,
    request: Request,
    options: Mapping[str, MethodOptions] | None,
) -> dict[str, MethodSpec]:
    """Return the methods of what was written, each tried; write the examples."""
    if options is None:
        options = {name: MethodOptions() for name in model.names()}
        log.info("methods to serve, none batchable: %s", ", ".join(options))
    methods: dict[str, MethodSpec] = {}
    inputs: dict[str, list[Array]] = {}
    variants: dict[str, MethodSpec] = {}
    examples = _split_by_method(request.example, list(options))
    for name, chosen in options.items():
        method = apply_options(model.describe(name, batchable=chosen.batchable), chosen)
        method = msgspec.structs.replace(method, lenient=request.module == KERAS)
        if name in examples:
            call = _as_call(method, examples[name])
            variants[name], inputs[name] = casting.choose(method, *call)
        run = model.run(method)
        try_method(method, run, inputs.get(name))
        try_padding(method, run, inputs.get(name))
        methods[name] = method
    if inputs:
        write_examples(folder / EXAMPLES_FILE, inputs, variants)
    return methods


def _copy(source: Path, target: Path, request: Request) -> None:
    """Copy a SavedModel as it is."""
    if request.module == KERAS:
        raise InvalidInput(
            f"{source} is a SavedModel folder; tfrunner.keras saves Keras models, .keras and .h5 "
            "files. Save it with tfrunner.tensorflow."
        )
    if request.tf_signatures is not None or request.tf_save_options is not None:
        raise InvalidInput(
            f"{source} is stored as it is: it takes no tf_signature and no tf_save_options. "
            "Its methods are its functions or signatures."
        )
    shutil.copytree(source, target)


def _model_of(source: Any, request: Request) -> Any:
    """Return the model itself.

    Raises:
        InvalidInput: It is no Keras model, where one is wanted; or a file cannot be loaded.
    """
    if isinstance(source, KerasFile):
        return load_keras_file(source.path, request.custom_objects or {})
    if request.module == KERAS and not is_keras_model(source):
        raise InvalidInput(
            f"tfrunner.keras saves Keras models; got a {type(source).__name__}. Save it with "
            "tfrunner.tensorflow."
        )
    return source


def _write(
    model: Any, folder: Path, request: Request, options: Mapping[str, MethodOptions] | None
) -> None:
    """Write `saved_model/`; Keras models are wrapped."""
    tf = import_tensorflow()
    if is_keras_model(model):
        model, exported = _wrap(tf, model, request, options)
    else:
        exported = _trace(tf, model, request.tf_signatures)
    if options is not None:
        _check_names(tf, model, options, exported)
    try:
        tf.saved_model.save(
            model,
            str(folder / SAVED_MODEL),
            signatures=exported,
            options=request.tf_save_options,
        )
    except (ValueError, TypeError, AssertionError) as exc:
        raise InvalidInput(f"TensorFlow cannot save this {type(model).__name__}: {exc}") from exc


def _wrap(
    tf: Any, model: Any, request: Request, options: Mapping[str, MethodOptions] | None
) -> tuple[Any, Any]:
    """Return a Keras model as a module with methods, and what is exported beside them."""
    is_specs = _is_specs(tf, request.tf_signatures)
    names = ["__call__", "predict"] if request.module == KERAS else ["__call__"]
    example = request.example
    if isinstance(example, Mapping) and example and set(example) <= {*names, *(options or ())}:
        example = next((example[name] for name in reversed(names) if name in example), None)
    specs = request.tf_signatures if is_specs else None
    inputs = find_inputs(tf, model, specs=specs, example=example)
    return wrap(tf, model, inputs, names), None if is_specs else request.tf_signatures


def _is_specs(tf: Any, given: Any) -> bool:
    """Return whether `tf_signature` says what a call takes, and not what is exported."""
    if isinstance(given, (list, tuple)):
        return any(_is_specs(tf, each) for each in given)
    if isinstance(given, Mapping):
        return any(_is_specs(tf, each) for each in given.values())
    return isinstance(given, tf.TypeSpec)


def _trace(tf: Any, model: Any, tf_signatures: Any) -> Any:
    """Return what `tf.saved_model.save` gets as signatures.

    TensorSpecs give `__call__` its signature, by tracing it, and nothing else.
    """
    if not _is_specs(tf, tf_signatures):
        return tf_signatures
    function = model.__call__ if callable(model) else None
    if not isinstance(function, tf.types.experimental.PolymorphicFunction):
        raise InvalidInput(
            "tf_signature gives tensor specs, but the model's __call__ is no tf.function. "
            "Decorate it with @tf.function."
        )
    try:
        if isinstance(tf_signatures, Mapping):
            named = {name: _named(tf, spec, name) for name, spec in tf_signatures.items()}
            function.get_concrete_function(**named)
        elif isinstance(tf_signatures, (list, tuple)):
            function.get_concrete_function(*tf_signatures)
        else:
            function.get_concrete_function(tf_signatures)
    except (TypeError, ValueError) as exc:
        raise InvalidInput(f"tf_signature does not fit the model's __call__: {exc}") from exc
    return None


def _named(tf: Any, spec: Any, name: str) -> Any:
    if isinstance(spec, tf.TensorSpec):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)
    return spec


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


def _split_by_method(example: Any, methods: list[str]) -> dict[str, Any]:
    """Return the example inputs of each method that has some."""
    if example is None:
        return {}
    if isinstance(example, Mapping) and example and all(key in methods for key in example):
        return dict(example)
    if (name := default_method(methods)) is not None:
        return {name: example}
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
