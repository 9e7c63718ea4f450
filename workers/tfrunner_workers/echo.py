"""A model without TensorFlow, for exact tests and for measuring tfrunner's own overhead.

Every method takes one batchable float32 tensor `x` of shape [?, ?] and gives `y`.
"""

from __future__ import annotations

import os
import time

import numpy as np

from tfrunner.config import DEFAULTS, ServedModel
from tfrunner.specs import Argument, MethodSpec, ModelSpec, TensorSpec, encode_spec
from tfrunner.tensors import Array
from tfrunner_workers.hosted import Method, Output

DIE_EXIT_CODE = 9

CRASH = "crash"
"""An echo model of this name never gets ready: its worker dies while it loads."""

_INPUT = TensorSpec("x", "float32", (None, None))
_OUTPUT = TensorSpec("y", "float32", (None, None))


def _echo(arrays: list[Array]) -> Output:
    """Return the input."""
    return Output(arrays, _OUTPUT)


def _fail(arrays: list[Array]) -> Output:
    """Raise if any element is negative, else echo."""
    if bool(np.any(np.less(arrays[0], 0))):
        raise ValueError("an element is negative")
    return Output(arrays, _OUTPUT)


def _die(arrays: list[Array]) -> Output:
    """End the process at once if any element is -1, else echo."""
    if bool(np.any(np.equal(arrays[0], -1))):
        os._exit(DIE_EXIT_CODE)
    return Output(arrays, _OUTPUT)


def _slow(arrays: list[Array]) -> Output:
    """Sleep as many seconds as the first element says, then echo."""
    if arrays[0].size:
        time.sleep(max(0.0, float(arrays[0].reshape(-1)[0])))
    return Output(arrays, _OUTPUT)


def _work(arrays: list[Array]) -> Output:
    """Sleep as many seconds as the first element says, then do what the third column says.

    -1 in any row: end the process at once. -2: raise. Else echo.
    """
    if arrays[0].size:
        time.sleep(max(0.0, float(arrays[0].reshape(-1)[0])))
        marks = arrays[0][:, 2:3]
        _die([marks])
        if bool(np.any(np.equal(marks, -2))):
            raise ValueError("a row is marked with -2")
    return Output(arrays, _OUTPUT)


def _drop(arrays: list[Array]) -> Output:
    """Return one row fewer than came in, as no batchable method may."""
    return Output([arrays[0][:-1]], _OUTPUT)


def _hungry(arrays: list[Array]) -> Output:
    """Have no memory for more than 4 rows."""
    if arrays[0].shape[0] > 4:
        raise MemoryError(f"{arrays[0].shape[0]} rows do not fit")
    return Output(arrays, _OUTPUT)


_METHODS: dict[str, Method] = {
    "__call__": _echo,
    "fail": _fail,
    "die": _die,
    "slow": _slow,
    "drop": _drop,
    "hungry": _hungry,
    "work": _work,
}


class EchoModel:
    """The echo model; a `Hosted`.

    Args:
        tag: As it is served; the name "crash" ends the process instead.
    """

    def __init__(self, tag: str = "echo:1") -> None:
        name = tag.partition(":")[0]
        if name == CRASH:
            os._exit(DIE_EXIT_CODE)
        self.methods = dict(_METHODS)
        self.spec = spec(name)

    def example(self, method: str) -> list[Array] | None:
        """Return None: nothing is stored with the echo model."""
        return None


def spec(name: str = "echo") -> ModelSpec:
    """Return the specification of the echo model, `<name>:1`."""
    methods = {
        name: MethodSpec(name, (Argument("x", _INPUT),), output=_OUTPUT, batchable=True)
        for name in _METHODS
    }
    return ModelSpec(name, "1", 1, methods)


def served(max_batch_size: int = DEFAULTS.max_batch_size) -> ServedModel:
    """Return the echo model as dispatcher and workers are told about it.

    Args:
        max_batch_size: Most rows in one batch.
    """
    model = spec()
    return ServedModel(model.tag, encode_spec(model), max_batch_size=max_batch_size, kind="echo")
