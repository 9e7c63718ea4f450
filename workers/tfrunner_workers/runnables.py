"""A Runnable of the user's own, constructed: its methods as functions of arrays.

Nothing here imports TensorFlow; what the user's module imports is the user's affair. The same
code hosts a Runnable in a worker and, for `init_local`, in the caller's own process.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfrunner import objects
from tfrunner.config import set_default_environment
from tfrunner.errors import ConfigError, CorruptModel, InvalidInput, ModelError
from tfrunner.options import RunnableSource
from tfrunner.runnable import Runnable, unpack_parameters
from tfrunner.specs import (
    ANY,
    DictSpec,
    MethodSpec,
    ModelSpec,
    Node,
    NothingSpec,
    TensorSpec,
    TupleSpec,
    leaves,
)
from tfrunner.tensors import DTYPES, Array
from tfrunner.values import in_python
from tfrunner_workers.hosted import Method, Output

logger = logging.getLogger("tfrunner.worker")


class HostedRunnable:
    """A constructed Runnable; a `Hosted`.

    Args:
        spec: What its class declares.
        methods: Each method as a function of its input arrays.
    """

    def __init__(self, spec: ModelSpec, methods: dict[str, Method]) -> None:
        self.spec = spec
        self.methods = methods

    def __repr__(self) -> str:
        return f"<HostedRunnable {self.spec.tag} [{', '.join(self.methods)}]>"

    def example(self, method: str) -> list[Array] | None:
        """Return None: nothing is stored with a Runnable."""
        return None


def load(source: RunnableSource, spec: ModelSpec, *, threads: int) -> HostedRunnable:
    """Import a Runnable's class and construct it; called in the worker.

    Args:
        source: Where the class is, and its parameters.
        spec: What the server was told of it.
        threads: Cores that it may use; for libraries that ask the environment.

    Raises:
        CorruptModel: The class is not what the server was told of; a Service was changed.
        ConfigError: It cannot be imported.
    """
    set_default_environment(
        TF_CPP_MIN_LOG_LEVEL="2",
        TF_FORCE_GPU_ALLOW_GROWTH="true",
        TF_NUM_INTRAOP_THREADS=str(threads),
        TF_NUM_INTEROP_THREADS=str(threads),
    )
    runnable = find_class(source)
    missing = [name for name in spec.methods if not callable(getattr(runnable, name, None))]
    if missing:
        raise CorruptModel(
            f"{source.name} has no {missing[0]!r} any more: {source.file} was changed after the "
            "server started. Start the server again."
        )
    parameters = source.parameters
    if source.parameters_file:
        parameters = Path(source.parameters_file).read_bytes()
    return host(runnable, parameters, spec)


def host(
    runnable: type[Runnable], parameters: bytes, spec: ModelSpec, *, as_sent: bool = False
) -> HostedRunnable:
    """Construct a Runnable.

    Args:
        runnable: The class.
        parameters: Of its constructor, as `runnable.pack_parameters` gives them.
        spec: What it declares.
        as_sent: Whether results are given as they would arrive after being sent.
    """
    instance = runnable(**unpack_parameters(parameters))
    lock = threading.Lock()  # one caller at a time, as in a worker
    return HostedRunnable(
        spec,
        {
            name: _make_method(getattr(instance, name), method, lock=lock, as_sent=as_sent)
            for name, method in spec.methods.items()
        },
    )


def find_class(source: RunnableSource) -> type[Runnable]:
    """Import the module and return the class.

    Raises:
        ConfigError: There is no such class, or another module took the name.
    """
    if source.folder not in sys.path:
        sys.path.insert(0, source.folder)
    module = importlib.import_module(source.module)
    file = str(Path(module.__file__ or "").resolve())
    if file != source.file:
        raise ConfigError(
            f"module {source.module!r} is {file} here, and {source.file} for the server: give "
            "the file a name that no other module has."
        )
    found: Any = module
    for part in source.name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Runnable)):
        raise ConfigError(f"{source.file} has no Runnable {source.name!r}.")
    return found


def _make_method(
    function: Callable[..., Any], method: MethodSpec, *, lock: threading.Lock, as_sent: bool
) -> Method:
    parameters = inspect.signature(function).parameters
    by_name = {name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
    sizes = [(each, len(list(leaves(each.spec)))) for each in method.arguments]

    def run(arrays: list[Array]) -> Output:
        rows = _count_rows(method, arrays)
        remaining = iter(arrays)
        args, kwargs = [], {}
        for argument, size in sizes:
            value = in_python(argument.spec, list(itertools.islice(remaining, size)))
            if argument.name in by_name:
                kwargs[argument.name] = value
            else:
                args.append(value)
        with lock:
            result = function(*args, **kwargs)
        found: list[Array] = []
        structure = _read(result, method, found, name=_output_name(method))
        if rows is not None:
            _check_rows(method, result, found, rows)
        return Output([_sent(each) for each in found] if as_sent else found, structure)

    return run


def _count_rows(method: MethodSpec, arrays: list[Array]) -> int | None:
    """Return how many rows a batchable method was given, None for one that is not."""
    axis = method.batch_dim[0]
    if not method.batchable:
        return None
    return next((array.shape[axis] for array in arrays if array.ndim > axis), 1)


def _read(value: Any, method: MethodSpec, arrays: list[Array], *, name: str) -> Node:
    """Append the arrays of a result to `arrays`; return how they are nested.

    1. None is no array. 2. A tuple's items are results of their own. 3. So are those of a dict
    of a batchable method, as each has its rows. 4. Anything else is one array, or plain values.
    """
    if value is None and not method.batchable:
        return NothingSpec()
    if isinstance(value, tuple):
        return TupleSpec(
            tuple(_read(each, method, arrays, name=f"{name}[{i}]") for i, each in enumerate(value))
        )
    if isinstance(value, dict) and method.batchable:
        return DictSpec(
            {str(key): _read(each, method, arrays, name=str(key)) for key, each in value.items()}
        )
    array = objects.to_any(value)
    if not array.dtype.hasobject and array.dtype.name not in DTYPES:
        raise ModelError(
            f"{method.name} returned an array of dtype {array.dtype}, which cannot be sent; cast "
            f"it to one of {', '.join(DTYPES)}."
        )
    arrays.append(array)
    return TensorSpec(name, ANY, None)


def _check_rows(method: MethodSpec, result: Any, arrays: list[Array], rows: int) -> None:
    axis = method.batch_dim[1]
    for array in arrays:
        got = array.shape[axis] if array.ndim > axis else None
        if got != rows:
            what = f"{type(result).__name__} with {'no' if got is None else got} rows"
            raise ModelError(
                f"{method.name} was given {rows} rows and returned a {what} on axis {axis}. A "
                "batchable method returns one row for each that it was given: an array, a list, "
                "or a tuple or dict of those."
            )


def _sent(array: Array) -> Array:
    """Return a result as it arrives when it was sent: tuples in it as lists."""
    if not array.dtype.hasobject:
        return array
    try:
        return objects.from_body(objects.to_body(array), array.shape)
    except InvalidInput as exc:
        raise ModelError(f"an output cannot be sent: {exc.message}") from exc


def _output_name(method: MethodSpec) -> str:
    return method.output.name if isinstance(method.output, TensorSpec) else "output"
