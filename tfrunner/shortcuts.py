"""The short way of casting: one array that already is exactly what its method asks for.

Most calls of most models are so. What it makes equals what `casting.cast` makes, whose general
way takes ten times as long; whatever does not fit is left to that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Union

import numpy as np

from tfrunner.casting import Call, cast
from tfrunner.shared_memory import LEND_FROM
from tfrunner.specs import ANY, MethodSpec, TensorSpec
from tfrunner.tensors import DTYPES, to_body

MOST_LAYOUTS = 4096

Shortcut = Callable[[Any], Union[Call, None]]


def shortcut(method: MethodSpec) -> Shortcut | None:
    """Return a function that casts a lone positional value, and answers None where it cannot.

    Args:
        method: Has a short way if it is batchable on axis 0 and takes one dense numeric
            tensor of known rank.

    Returns:
        The function; its calls own their bytes, large ones excepted, and it raises InvalidInput
        for an array of a shape that does not fit. None: the method has no short way.
    """
    if method.variants or method.padding or not method.batchable or method.batch_dim[0] != 0:
        return None
    if len(method.arguments) != 1:
        return None
    spec = method.arguments[0].spec
    if type(spec) is not TensorSpec or spec.ragged_rank or not spec.shape or spec.dtype == ANY:
        return None
    dtype, wanted = DTYPES[spec.dtype], spec.shape
    if dtype.hasobject or wanted[0] is not None:
        return None
    layouts: dict[tuple[int, ...], bytes] = {}

    def short(value: Any) -> Call | None:
        if type(value) is not np.ndarray or value.dtype != dtype or value.ndim != len(wanted):
            return None
        if not value.flags.c_contiguous:
            return None
        shape = value.shape
        layout = layouts.get(shape[1:])
        if layout is None:  # the first of this shape: where it does not fit, `cast` says why
            layout = cast(method, (value,), {}).layout
            if len(layouts) < MOST_LAYOUTS:
                layouts[shape[1:]] = layout
        if value.nbytes < LEND_FROM:
            return Call(layout, shape[0], (value.tobytes(),))
        return Call(layout, shape[0], (to_body(value),))

    return short
